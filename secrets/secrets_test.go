package secrets

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func ring(t *testing.T) *Ring {
	t.Helper()
	r, err := Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func seal(t *testing.T, r *Ring, row, plain string) string {
	t.Helper()
	s, err := r.Seal(row, []byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSealedTextOpensForItsRowOnly(t *testing.T) {
	r := ring(t)
	sealed := seal(t, r, "totp:1", "seed")
	if plain, err := r.Open("totp:1", sealed); err != nil || string(plain) != "seed" {
		t.Errorf("%q, %v", plain, err)
	}
	if _, err := r.Open("totp:2", sealed); !errors.Is(err, ErrDamaged) {
		t.Errorf("another row: %v", err)
	}
	for i := len(r.Current()) + 1; i < len(sealed)-1; i++ { // the last character has bits that do not count
		flipped := []byte(sealed)
		flipped[i] ^= 1
		if _, err := r.Open("totp:1", string(flipped)); !errors.Is(err, ErrDamaged) {
			t.Fatalf("changed at %d: %v", i, err)
		}
	}
	for _, bad := range []string{"", ".", r.Current(), r.Current() + ".", r.Current() + ".AAAA"} {
		if _, err := r.Open("totp:1", bad); err == nil {
			t.Errorf("%q opens", bad)
		}
	}
	if strings.Contains(sealed, "seed") || sealed == seal(t, r, "totp:1", "seed") {
		t.Error("the text shows, or the same text is sealed alike twice")
	}
}

func TestFormerKeysStillOpen(t *testing.T) {
	r := ring(t)
	old := seal(t, r, "a", "seed")
	if err := r.Rotate(); err != nil {
		t.Fatal(err)
	}
	r, err := Load(filepath.Dir(r.path)) // after a restart
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := r.Open("a", old); err != nil || string(plain) != "seed" || !r.Stale(old) {
		t.Errorf("%q, %v, stale %v", plain, err, r.Stale(old))
	}
	if fresh := seal(t, r, "a", "seed"); r.Stale(fresh) {
		t.Error("a fresh text is stale")
	}
	if _, err := ring(t).Open("a", old); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("under another file: %v", err)
	}
}

func TestKeyFileIsPrivateAndNeverReplaced(t *testing.T) {
	r := ring(t)
	check := func() {
		t.Helper()
		if info, err := os.Stat(r.path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	}
	check()
	before, err := os.ReadFile(r.path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(filepath.Dir(r.path)); err == nil {
		t.Error("a second one is created")
	}
	if after, err := os.ReadFile(r.path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file has changed: %v", err)
	}
	if err := r.Rotate(); err != nil {
		t.Fatal(err)
	}
	check()
}

func TestDamagedKeyFileIsRefusedWithoutShowingIt(t *testing.T) {
	for _, content := range []string{"", "abc", "0a1b2c3d c2hvcnQ", "0a1b2c3d " + strings.Repeat("A", 43) + "\nrubbish"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, File), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir); err == nil || strings.Contains(err.Error(), "rubbish") {
			t.Errorf("%q: %v", content, err)
		}
	}
}
