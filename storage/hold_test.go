package storage_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ebb/storage"
	"ebb/storage/storagetest"
)

func TestHeldFileIsACopyOfOnePointInTimeWithoutDeletedText(t *testing.T) {
	dsn := storagetest.SQLite(t)
	db := storagetest.Open(t, storage.Config{DSN: dsn})
	put := func(value string) {
		t.Helper()
		if err := db.Write(t.Context(), func(tx *storage.Tx) error { return tx.SetSecretsKey(value) }); err != nil {
			t.Fatal(err)
		}
	}
	put("marker-of-deleted-text")
	put("before")
	held, release, err := db.Hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(held.File)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(first, []byte("marker-of-deleted-text")) {
		t.Error("the file has text that was deleted before")
	}
	put("after")
	for range 100 { // enough commits for the checkpointer to look at the log
		put(strings.Repeat("long text ", 1000))
	}
	put("after")
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Maintain(canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("Maintain while the file is held: %v", err)
	}
	second, err := os.ReadFile(held.File)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("the file has changed while it was held")
	}
	release()
	if err := db.Maintain(t.Context()); err != nil {
		t.Errorf("Maintain after the file was held: %v", err)
	}
	if got := secretsKey(t, db); got != "after" {
		t.Errorf("the database has %q", got)
	}
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(path, first, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := storage.CheckFile(t.Context(), "sqlite:"+path); err != nil {
		t.Error(err)
	}
	restored := storagetest.Open(t, storage.Config{DSN: "sqlite:" + path})
	if got := secretsKey(t, restored); got != "before" {
		t.Errorf("the copy has %q, want what was there when the file was held", got)
	}
}

func secretsKey(t *testing.T, db *storage.DB) (key string) {
	t.Helper()
	err := db.Read(t.Context(), func(tx *storage.Tx) (err error) {
		key, err = tx.SecretsKey()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestClosedDatabaseIsHeldWithWhatItsLogHas(t *testing.T) {
	dsn := storagetest.SQLite(t)
	db, err := storage.Open(t.Context(), storage.Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := storage.HoldClosed(t.Context(), dsn); !errors.Is(err, storage.ErrInUse) {
		t.Errorf("HoldClosed of an open database: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	held, release, err := storage.HoldClosed(t.Context(), dsn)
	if err != nil || held.Migration == "" {
		t.Fatalf("HoldClosed: %+v, %v", held, err)
	}
	if _, err := os.Stat(held.File + "-wal"); err == nil {
		t.Error("there is still a write-ahead log, which a copy of the file would lack")
	}
	if _, err := storage.Open(t.Context(), storage.Config{DSN: dsn}); !errors.Is(err, storage.ErrInUse) {
		t.Errorf("the database can be opened while it is held: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
}

func TestRestoredDatabaseUsesNoPositionAgain(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		db := storagetest.Open(t, storage.Config{DSN: dsn})
		before := next(t, db)
		if db.Restored() != 0 || db.ForgotTokens() {
			t.Error("a database that was not restored says that it was")
		}
		if err := db.MarkRestored(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		after := next(t, db)
		if after <= before+1<<35 || db.Restored() <= before || db.Restored() > after || !db.ForgotTokens() {
			t.Errorf("positions before and after: %d, %d; restored at %d", before, after, db.Restored())
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		again := storagetest.Open(t, storage.Config{DSN: dsn})
		if again.Restored() != db.Restored() || again.Settled() < after {
			t.Errorf("after a restart: restored at %d, want %d; position %d, want at least %d", again.Restored(), db.Restored(), again.Settled(), after)
		}
	})
}

func next(t *testing.T, db *storage.DB) (p storage.Pos) {
	t.Helper()
	if err := db.Write(t.Context(), func(tx *storage.Tx) error { p = tx.NextPos(); return nil }); err != nil {
		t.Fatal(err)
	}
	return p
}
