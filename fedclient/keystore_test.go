package fedclient

import (
	"context"
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/storage"
)

// Anybody with a domain can make this server request the keys of any number of names.
func TestStoredKeyAnswersAreBounded(t *testing.T) {
	l := newLab(t)
	a := l.keyServer(1, "a.test")
	k := l.ring(l.client("me.test", nil))
	count := func() (n int) {
		err := k.db.Read(context.Background(), func(tx *storage.Tx) error {
			for i := range maxKeyAnswers + 50 {
				if _, known, err := tx.ServerKeyAnswerOf(fmt.Sprintf("%d.evil.test", i)); err != nil {
					return err
				} else if known {
					n++
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	err := k.db.Write(context.Background(), func(tx *storage.Tx) error {
		for i := range maxKeyAnswers + 50 {
			server := fmt.Sprintf("%d.evil.test", i)
			if err := tx.PutServerKeyAnswer(server, storage.ServerKeyAnswer{JSON: "{}", FetchedTS: int64(i + 1)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !has(t, k, a.want(time.Millisecond)) {
		t.Fatal("no key")
	}
	if n := count(); n != maxKeyAnswers {
		t.Errorf("%d answers are kept", n)
	}
}

// A server can list other former keys each time it is asked.
func TestStoredKeysOfOneServerAreBounded(t *testing.T) {
	l := newLab(t)
	a := l.keyServer(1, "a.test")
	k := l.ring(l.client("me.test", nil))
	former := func(round, i int) id.KeyID { return id.KeyID(fmt.Sprintf("ed25519:%d_%d", round, i)) }
	const rounds = 2 * maxStoredKeys / (maxKeysPerServer - 1)
	for round := range rounds {
		old := map[string]any{}
		for i := range maxKeysPerServer - 1 {
			old[string(former(round, i))] = map[string]any{"key": public64(a.signer), "expired_ts": 1_000_000 + round}
		}
		answer := l.said("a.test", a.signer)
		answer["old_verify_keys"] = old
		a.says(signed(t, answer, a.signer))
		l.advance(2 * time.Hour) // the key that signs is no longer valid until it is fetched again
		if !has(t, k, a.want(-time.Hour)) {
			t.Fatal("no key")
		}
	}
	var stored []storage.ServerKey
	err := k.db.Read(t.Context(), func(tx *storage.Tx) (err error) {
		stored, err = tx.ServerKeys("a.test")
		return err
	})
	if err != nil || len(stored) != maxStoredKeys {
		t.Errorf("%v; %d keys are stored, want the newest %d", err, len(stored), maxStoredKeys)
	}
	for keyID, want := range map[id.KeyID]bool{a.signer.KeyID: true, former(rounds-1, 0): true, former(0, 0): false} {
		if got := has(t, k, KeyWant{Server: "a.test", KeyID: keyID}); got != want {
			t.Errorf("%s is known: %v", keyID, got)
		}
	}
}
