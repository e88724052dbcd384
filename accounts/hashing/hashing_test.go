package hashing

import (
	"strings"
	"testing"
)

func TestPasswordsMatchTheirHashes(t *testing.T) {
	const password = "correct horse"
	stored := Hash(password)
	if other := Hash(password); other == stored {
		t.Error("two hashes of a password are the same")
	}
	for _, c := range []struct {
		password, stored string
		want             bool
	}{{password, stored, true}, {"other", stored, false}, {"", stored, false}, {password, Nobodys(), false}, {"", Nobodys(), false}} {
		if got, err := Matches(c.password, c.stored); got != c.want || err != nil {
			t.Errorf("%q and %s: %v, %v", c.password, c.stored, got, err)
		}
	}
	for _, bad := range []string{"", "!", "$2b$12$abc", "$argon2id$v=19$m=1,t=1,p=1$AAAA", strings.Replace(stored, "v=19", "v=18", 1), strings.Replace(stored, "m=19456", "m=x", 1)} {
		if _, err := Matches(password, bad); err == nil {
			t.Errorf("the unknown form %q was read", bad)
		}
	}
}

func TestNobodysHashCostsAsMuchAsAnyOther(t *testing.T) {
	want, err := parse(Hash("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := parse(Nobodys())
	if err != nil || got.time != want.time || got.memory != want.memory || got.threads != want.threads || len(got.sum) != len(want.sum) || len(got.salt) != len(want.salt) {
		t.Errorf("%+v, want the cost of %+v, %v", got, want, err)
	}
}
