package bodykeys_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ebb/bodykeys"
)

func create(t *testing.T) (*bodykeys.Folder, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a", "keys")
	f, err := bodykeys.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	return f, path
}

func newKey(t *testing.T, f *bodykeys.Folder) (bodykeys.ID, bodykeys.Key) {
	t.Helper()
	id, err := f.New()
	if err != nil {
		t.Fatal(err)
	}
	k, err := f.Key(id)
	if err != nil {
		t.Fatal(err)
	}
	return id, k
}

// content returns everything in the files below a folder.
func content(t *testing.T, path string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		all.Write(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

func TestAKeyIsReadAgainByAnotherProcess(t *testing.T) {
	f, path := create(t)
	id, k := newKey(t, f)
	if id <= 0 || k == (bodykeys.Key{}) {
		t.Fatalf("key %d is %x", id, k)
	}
	again, err := bodykeys.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Key(id); err != nil || got != k {
		t.Errorf("the key is %x (%v) instead of %x", got, err, k)
	}
	if created, err := bodykeys.Create(path); err != nil || created.ID() != f.ID() || again.ID() != f.ID() {
		t.Errorf("a second Create made another folder (%v)", err)
	}
}

func TestADestroyedKeyIsInNoFile(t *testing.T) {
	f, path := create(t)
	id, k := newKey(t, f)
	other, kept := newKey(t, f)
	all, err := os.ReadDir(path)
	if err != nil || len(all) == 0 {
		t.Fatal(err)
	}
	var file *os.File // of the key, which stays open
	_ = filepath.WalkDir(path, func(path string, _ fs.DirEntry, _ error) error {
		if raw, err := os.ReadFile(path); err == nil && strings.Contains(string(raw), string(k[:])) {
			file, err = os.Open(path)
			return err
		}
		return nil
	})
	if file == nil {
		t.Fatal("the key is in no file")
	}
	defer file.Close()
	for range 2 { // a second time does nothing
		if err := f.Destroy(id); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Contains(content(t, path), string(k[:])) {
		t.Error("a file still has the key")
	}
	left := make([]byte, 100)
	n, _ := file.ReadAt(left, 0)
	if strings.Trim(string(left[:n]), "\x00") != "" {
		t.Errorf("the file was removed without being overwritten: %q", left[:n])
	}
	if _, err := f.Key(id); !errors.Is(err, bodykeys.ErrMissing) {
		t.Errorf("reading it gives %v", err)
	}
	if got, err := f.Key(other); err != nil || got != kept {
		t.Errorf("another key was affected: %v", err)
	}
}

func TestADamagedOrUnfinishedFileIsNoKey(t *testing.T) {
	f, path := create(t)
	id, k := newKey(t, f)
	var file string
	_ = filepath.WalkDir(path, func(path string, d fs.DirEntry, _ error) error {
		if len(d.Name()) == 16 {
			file = path
		}
		return nil
	})
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte{}, whole...)
	flipped[20] ^= 1
	for _, bad := range [][]byte{nil, whole[:20], make([]byte, len(whole)), append(whole[:len(whole):len(whole)], 0), flipped} {
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := f.Key(id); !errors.Is(err, bodykeys.ErrDamaged) || got != (bodykeys.Key{}) {
			t.Errorf("%x is read as %x (%v)", bad, got, err)
		}
	}
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Key(id); err != nil || got != k {
		t.Error(err)
	}
}

func TestSeveralProcessesCreateAndDestroyKeysAtOnce(t *testing.T) {
	_, path := create(t)
	var mu sync.Mutex
	keys := map[bodykeys.ID]bodykeys.Key{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			f, err := bodykeys.Create(path) // as another process would
			for i := 0; i < 20 && err == nil; i++ {
				var id bodykeys.ID
				if id, err = f.New(); err != nil {
					break
				}
				if i%2 == 0 {
					err = f.Destroy(id)
					continue
				}
				k, readErr := f.Key(id)
				mu.Lock()
				keys[id] = k
				mu.Unlock()
				err = readErr
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	f, err := bodykeys.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	err = f.Each(func(id bodykeys.ID, created func() (time.Time, error)) error {
		found++
		at, err := created()
		if k, readErr := f.Key(id); readErr != nil || k != keys[id] || time.Since(at) > time.Hour {
			t.Errorf("key %d: %v", id, readErr)
		}
		return err
	})
	if err != nil || found != len(keys) || found != 40 {
		t.Errorf("the folder has %d keys instead of %d (%v)", found, len(keys), err)
	}
}

func TestAFolderWithoutKeysIsNotOpened(t *testing.T) {
	path := t.TempDir()
	if _, err := bodykeys.Open(path); !errors.Is(err, bodykeys.ErrNoFolder) {
		t.Errorf("Open gives %v", err)
	}
	if _, err := bodykeys.Create(filepath.Join(path, "keys")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(path, "keys"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has the mode %v (%v)", info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(path, "keys", "folder.id"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := bodykeys.Create(filepath.Join(path, "keys")); err == nil {
		t.Error("a damaged folder was opened")
	}
}

func BenchmarkNew(b *testing.B) {
	f, err := bodykeys.Create(filepath.Join(b.TempDir(), "keys"))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := f.New(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestAnExportHasAllKeys(t *testing.T) {
	f, _ := create(t)
	keys := map[bodykeys.ID]bodykeys.Key{}
	for range 20 {
		id, k := newKey(t, f)
		keys[id] = k
	}
	gone, _ := newKey(t, f)
	if err := f.Destroy(gone); err != nil {
		t.Fatal(err)
	}
	var export strings.Builder
	if err := f.Export(&export); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "restored")
	if _, err := bodykeys.Import(path, strings.NewReader(export.String()[:export.Len()/2])); err == nil {
		t.Error("half an export was imported")
	}
	if _, err := bodykeys.Open(path); !errors.Is(err, bodykeys.ErrNoFolder) {
		t.Errorf("a folder with half of the keys is opened: %v", err)
	}
	if n, err := bodykeys.Import(path, strings.NewReader(export.String())); n != len(keys) || err != nil {
		t.Fatalf("%d keys were imported (%v)", n, err)
	}
	restored, err := bodykeys.Open(path)
	if err != nil || restored.ID() != f.ID() {
		t.Fatalf("the folder is another one (%v)", err)
	}
	for id, k := range keys {
		if got, err := restored.Key(id); err != nil || got != k {
			t.Errorf("key %d is %x (%v)", id, got, err)
		}
	}
	if _, err := restored.Key(gone); !errors.Is(err, bodykeys.ErrMissing) {
		t.Errorf("a destroyed key was exported: %v", err)
	}
	if _, err := bodykeys.Import(filepath.Join(t.TempDir(), "x"), strings.NewReader("no export\n")); err == nil {
		t.Error("a text that is no export was imported")
	}
}
