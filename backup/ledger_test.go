package backup_test

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ebb/backup"
	"ebb/ident"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// lock queues an entry for each user.
func lock(t *testing.T, db *storage.DB, users ...ident.UserNID) {
	t.Helper()
	for _, u := range users {
		if err := db.Write(t.Context(), func(tx *storage.Tx) error { return tx.SetLocked(u, true) }); err != nil {
			t.Fatal(err)
		}
	}
}

// refs returns the users in a ledger.
func refs(t *testing.T, path string, db *storage.DB) (list []int64, err error) {
	t.Helper()
	_, err = backup.ReadLedger(path, backup.LedgerKey(db), func(e storage.LedgerEntry) error {
		list = append(list, e.Ref)
		return nil
	})
	return list, err
}

func queued(t *testing.T, db *storage.DB) (n int) {
	t.Helper()
	err := db.Read(t.Context(), func(tx *storage.Tx) error {
		list, err := tx.LedgerQueue(100)
		n = len(list)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func newLedger(db *storage.DB, path string) *backup.Ledger {
	return backup.NewLedger(backup.LedgerOptions{DB: db, Path: path, Log: slog.New(slog.DiscardHandler)})
}

func TestLedgerHasEveryEntryOnce(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		db := storagetest.Open(t, storage.Config{DSN: dsn, Ledger: true})
		path := filepath.Join(t.TempDir(), "ledger")
		lock(t, db, 1, 2)
		if err := newLedger(db, path).Write(t.Context()); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(`{"line":3,"seq"`); err != nil { // half a line
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		lock(t, db, 3)
		if err := newLedger(db, path).Write(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, err := refs(t, path, db); err != nil || !slices.Equal(got, []int64{1, 2, 3}) {
			t.Errorf("the ledger has %v, %v", got, err)
		}
		if n := queued(t, db); n != 0 {
			t.Errorf("%d entries are still queued", n)
		}
	})
}

func TestEntriesThatACrashLeavesInTheQueueAreNotWrittenTwice(t *testing.T) {
	dsn := storagetest.SQLite(t)
	db, err := storage.Open(t.Context(), storage.Config{DSN: dsn, Ledger: true})
	if err != nil {
		t.Fatal(err)
	}
	lock(t, db, 1, 2)
	held, release, err := db.Hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	queue, err := os.ReadFile(held.File) // as it is before the ledger is written
	if err != nil {
		t.Fatal(err)
	}
	release()
	path := filepath.Join(t.TempDir(), "ledger")
	if err := errors.Join(newLedger(db, path).Write(t.Context()), db.Close(), os.WriteFile(held.File, queue, 0o600)); err != nil {
		t.Fatal(err)
	}
	again := storagetest.Open(t, storage.Config{DSN: dsn, Ledger: true})
	lock(t, again, 3)
	if err := newLedger(again, path).Write(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := refs(t, path, again); err != nil || !slices.Equal(got, []int64{1, 2, 3}) {
		t.Errorf("the ledger has %v, %v", got, err)
	}
}

func TestEntriesWaitInTheQueueWhileTheLedgerCannotBeWritten(t *testing.T) {
	db := storagetest.Open(t, storage.Config{Ledger: true})
	path := filepath.Join(t.TempDir(), "unmounted", "ledger")
	lock(t, db, 1)
	l := newLedger(db, path)
	if err := l.Write(t.Context()); err == nil {
		t.Fatal("a ledger in a folder that does not exist can be written")
	}
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	lock(t, db, 2)
	if err := l.Write(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := refs(t, path, db); err != nil || !slices.Equal(got, []int64{1, 2}) {
		t.Errorf("the ledger has %v, %v", got, err)
	}
}

func TestChangedAndTruncatedLedgersAreNoticed(t *testing.T) {
	db := storagetest.Open(t, storage.Config{Ledger: true})
	path := filepath.Join(t.TempDir(), "ledger")
	lock(t, db, 1, 2, 3)
	if err := newLedger(db, path).Write(t.Context()); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(raw), "\n")
	for name, damaged := range map[string]string{
		"a changed line":        strings.Replace(string(raw), `"ref":2`, `"ref":9`, 1),
		"a missing line":        lines[0] + lines[2],
		"a missing first line":  lines[1] + lines[2],
		"a missing last line":   lines[0] + lines[1],
		"an unfinished line":    lines[0] + lines[1] + lines[2][:20],
		"nothing":               "",
		"a line of another one": lines[0] + lines[1] + lines[2] + lines[2],
	} {
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := refs(t, path, db); !errors.Is(err, backup.ErrLedger) {
			t.Errorf("a ledger with %s: %v", name, err)
		}
		lock(t, db, 4)
		if err := newLedger(db, path).Write(t.Context()); !errors.Is(err, backup.ErrLedger) {
			t.Errorf("something is written to a ledger with %s: %v", name, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path + ".head"); err != nil {
		t.Fatal(err)
	}
	if err := newLedger(db, path).Write(t.Context()); !errors.Is(err, backup.ErrLedger) {
		t.Errorf("a new ledger replaces one that has disappeared: %v", err)
	}
	other := filepath.Join(t.TempDir(), "new")
	if err := newLedger(db, other).Write(t.Context()); err != nil {
		t.Errorf("a ledger with a new name: %v", err)
	}
	if got, err := refs(t, other, db); err != nil || len(got) == 0 {
		t.Errorf("the new ledger has %v, %v", got, err)
	}
	stranger := storagetest.Open(t, storage.Config{})
	if _, err := refs(t, other, stranger); !errors.Is(err, backup.ErrLedger) {
		t.Errorf("the ledger of another database: %v", err)
	}
}

func TestNothingIsQueuedWithoutALedger(t *testing.T) {
	db := storagetest.Open(t, storage.Config{})
	lock(t, db, 1)
	if n := queued(t, db); n != 0 {
		t.Errorf("%d entries are queued", n)
	}
	if _, err := refs(t, filepath.Join(t.TempDir(), "none"), db); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a ledger that does not exist: %v", err)
	}
}
