package bodykeys_test

import (
	"errors"
	"os"
	"testing"

	"ebb/bodykeys"
)

// A disk or network share with the keys may be unmounted while the server runs. Then the path is an empty folder, or
// does not exist.
func TestAFolderThatIsAwayIsNotOneWithoutKeys(t *testing.T) {
	f, path := create(t)
	id, k := newKey(t, f)
	away := path + ".away"
	refuses := func(when string) {
		t.Helper()
		_, keyErr := f.Key(id)
		created, newErr := f.New()
		for what, err := range map[string]error{"Check": f.Check(), "Key": keyErr, "New": newErr, "Destroy": f.Destroy(id)} {
			if !errors.Is(err, bodykeys.ErrNoFolder) || errors.Is(err, bodykeys.ErrMissing) {
				t.Errorf("%s: %s returns %v", when, what, err)
			}
		}
		if created != 0 {
			t.Errorf("%s: New returns the key %x", when, created)
		}
	}
	if err := os.Rename(path, away); err != nil {
		t.Fatal(err)
	}
	refuses("nothing is there")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	refuses("an empty folder is there")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := bodykeys.Create(path); err != nil {
		t.Fatal(err)
	}
	refuses("the keys of another database are there")
	if err := errors.Join(os.RemoveAll(path), os.Rename(away, path)); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Key(id); err != nil || got != k || f.Check() != nil {
		t.Errorf("when the folder is back, the key is %x (%v)", got, err)
	}
}
