package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"ebb/backup"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// text is a Database whose copy is a text, or an error.
type text struct {
	content string
	err     error
}

func (text) Engine() string { return "sqlite" }

func (d text) Copy(_ context.Context, w io.Writer) (storage.Held, error) {
	_, err := io.WriteString(w, d.content)
	return storage.Held{Migration: "0001_core.sql"}, errors.Join(err, d.err)
}

// world is a server's folder, a folder for backups, and a key.
type world struct {
	t        *testing.T
	o        backup.Options
	identity *age.X25519Identity
	now      time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, identity: id, now: time.Date(2026, 11, 30, 1, 0, 0, 0, time.UTC)}
	dir := t.TempDir()
	w.o = backup.Options{
		Dir: filepath.Join(dir, "backups"), Media: filepath.Join(dir, "media"), Recipients: []string{id.Recipient().String()},
		Files:    map[string]string{"signing.key": filepath.Join(dir, "signing.key"), "missing": filepath.Join(dir, "missing")},
		Database: text{content: "the database"}, Server: "example.org", Version: "test", Now: func() time.Time { return w.now },
	}
	w.write(w.o.Files["signing.key"], "the key")
	return w
}

func (w *world) write(path, content string) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// media writes a file into the media folder.
func (w *world) media(name, content string) { w.write(filepath.Join(w.o.Media, name), content) }

// create makes a backup a minute after the one before.
func (w *world) create() backup.Report {
	w.t.Helper()
	w.now = w.now.Add(time.Minute)
	r, err := backup.Create(w.t.Context(), w.o)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// unpacked returns the files of a backup: database, keys and media.
func (w *world) unpacked(dir string) map[string]string {
	w.t.Helper()
	got := map[string]string{}
	media := w.t.TempDir()
	err := backup.Unpack(w.t.Context(), dir, []backup.Identity{w.identity}, backup.Target{
		Media: media,
		File:  func(name string, content []byte) error { got[name] = string(content); return nil },
		Database: func(r io.Reader) error {
			b, err := io.ReadAll(r)
			got["database"] = string(b)
			return err
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, name := range files(w.t, media) {
		b, err := os.ReadFile(filepath.Join(media, name))
		if err != nil {
			w.t.Fatal(err)
		}
		got[name] = string(b)
	}
	return got
}

// files lists the files below a folder.
func files(t *testing.T, dir string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, relErr := filepath.Rel(dir, path)
			list, err = append(list, rel), relErr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestBackupHasEverythingAndReadsAsNothingWithoutTheKey(t *testing.T) {
	w := newWorld(t)
	w.media("ab/cd", "a picture")
	w.media("thumb/ab/cd.2-x", "a thumbnail")
	w.media("tmp/upload-1", "an unfinished upload")
	r := w.create()
	want := map[string]string{"database": "the database", "signing.key": "the key", "ab/cd": "a picture"}
	if got := w.unpacked(r.Path); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the backup has %v, want %v", got, want)
	}
	for _, name := range files(t, w.o.Dir) {
		b, err := os.ReadFile(filepath.Join(w.o.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, content := range want {
			if bytes.Contains(b, []byte(content)) {
				t.Errorf("%s contains %q, which must be encrypted", name, content)
			}
		}
	}
}

func TestMediaThatAnEarlierBackupHasAreNotCopiedAgain(t *testing.T) {
	w := newWorld(t)
	w.media("ab/one", "first")
	w.create()
	w.media("ab/two", "second")
	r := w.create()
	if r.Media.Files != 2 || r.Added.Files != 1 {
		t.Errorf("the second backup has %d files and has copied %d, want 2 and 1", r.Media.Files, r.Added.Files)
	}
	w.media("ab/one", "first, changed in place")
	r = w.create()
	if got := w.unpacked(r.Path)["ab/one"]; r.Added.Files != 1 || got != "first, changed in place" {
		t.Errorf("after a change, %d files were copied, and ab/one is %q", r.Added.Files, got)
	}
}

func TestOldBackupsAndTheirMediaAreDeleted(t *testing.T) {
	w := newWorld(t)
	w.media("ab/one", "deleted on the server")
	first := w.create()
	if err := os.Remove(filepath.Join(w.o.Media, "ab/one")); err != nil {
		t.Fatal(err)
	}
	w.media("ab/two", "kept")
	w.o.Keep = time.Hour
	second := w.create()
	if second.Kept != 2 || !second.Oldest.Equal(w.now.Add(-time.Minute)) {
		t.Errorf("%d backups are kept, the oldest of %v", second.Kept, second.Oldest)
	}
	w.now = w.now.Add(58 * time.Minute)
	third := w.create()
	if len(third.Deleted) != 1 || filepath.Join(w.o.Dir, third.Deleted[0]) != first.Path {
		t.Errorf("the third backup has deleted %v, want the first", third.Deleted)
	}
	if stored := files(t, filepath.Join(w.o.Dir, "media")); len(stored) != 1 {
		t.Errorf("%d media files are stored, want only the one that is still there", len(stored))
	}
	if got := w.unpacked(second.Path)["ab/two"]; got != "kept" {
		t.Errorf("the second backup has %q", got)
	}
}

func TestFailedAndKilledBackupsLeaveTheFormerOnesAsTheyWere(t *testing.T) {
	w := newWorld(t)
	w.media("ab/one", "first")
	w.create()
	before := files(t, w.o.Dir)
	w.now = w.now.Add(time.Minute)
	bad := w.o
	bad.Database = text{content: "half", err: errors.New("the server was stopped")}
	if _, err := backup.Create(t.Context(), bad); err == nil {
		t.Fatal("a backup whose database cannot be copied succeeds")
	}
	if after := files(t, w.o.Dir); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("a failed backup leaves %v, want %v", after, before)
	}
	// A killed run leaves a folder that is not complete, and stored files that no backup has.
	w.write(filepath.Join(w.o.Dir, "20261130T010500Z.part", "database.age"), "half")
	w.write(filepath.Join(w.o.Dir, "media", "00", "112233445566778899aabbccddeeff"), "half")
	w.write(filepath.Join(w.o.Dir, "media", "00", "112233445566778899aabbccddeeff.part"), "half")
	r := w.create()
	for _, name := range files(t, w.o.Dir) {
		if strings.Contains(name, ".part") || strings.Contains(name, "112233445566778899aabbccddeeff") {
			t.Errorf("%s of the killed run is still there", name)
		}
	}
	if _, err := backup.Verify(r.Path, []backup.Identity{w.identity}); err != nil {
		t.Error(err)
	}
}

func TestVerifyNoticesDamage(t *testing.T) {
	w := newWorld(t)
	w.media("ab/one", "a picture")
	r := w.create()
	ids := []backup.Identity{w.identity}
	if c, err := backup.Verify(r.Path, ids); err != nil || !c.Decrypted {
		t.Fatalf("Verify of an undamaged backup: %v", err)
	}
	for _, name := range files(t, w.o.Dir) {
		if name == ".lock" {
			continue
		}
		path := filepath.Join(w.o.Dir, name)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for what, damaged := range map[string][]byte{
			"cut off": content[:len(content)-2], "empty": {}, "changed": append(bytes.Clone(content[:len(content)-9]), bytes.Repeat([]byte("x"), 9)...),
		} {
			w.write(path, string(damaged))
			for _, keys := range [][]backup.Identity{nil, ids} {
				if _, err := backup.Verify(r.Path, keys); err == nil {
					t.Errorf("%s is %s, and Verify with %d keys does not notice", name, what, len(keys))
				}
			}
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if _, err := backup.Verify(r.Path, nil); err == nil {
			t.Errorf("%s is missing, and Verify does not notice", name)
		}
		w.write(path, string(content))
	}
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Verify(r.Path, []backup.Identity{other}); !errors.Is(err, backup.ErrWrongKey) {
		t.Errorf("Verify with another key: %v", err)
	}
}

func TestBackupsOfTwoServersDoNotMix(t *testing.T) {
	w := newWorld(t)
	w.create()
	w.now = w.now.Add(time.Minute)
	w.o.Server = "other.example"
	if _, err := backup.Create(t.Context(), w.o); err == nil {
		t.Error("a backup is added to those of another server")
	}
}

func TestInvalidRecipientsAreRefused(t *testing.T) {
	for _, bad := range [][]string{nil, {"age1nonsense"}, {"AGE-SECRET-KEY-1"}, {"ssh-rsa AAAA"}} {
		if _, err := backup.ParseRecipients(bad); err == nil {
			t.Errorf("ParseRecipients(%q) succeeds", bad)
		}
	}
}

func TestBackupOnAFullDiskSaysSoAndLeavesTheFormerOnes(t *testing.T) {
	w := newWorld(t)
	w.o.Dir = filepath.Join(storagetest.TinyDisk(t, 1<<20), "backups")
	first := w.create()
	before := files(t, w.o.Dir)
	w.media("ab/large", strings.Repeat("x", 2<<20))
	w.now = w.now.Add(time.Minute)
	_, err := backup.Create(t.Context(), w.o)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "the former backups are as they were") {
		t.Errorf("a backup on a full disk: %v", err)
	}
	if after := files(t, w.o.Dir); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("it leaves %v, want %v", after, before)
	}
	if _, err := backup.Verify(first.Path, []backup.Identity{w.identity}); err != nil {
		t.Error(err)
	}
}
