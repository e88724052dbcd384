package storage_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ebb/storage"
	"ebb/storage/storagetest"
)

func TestPeekTellsWhoseDatabaseItIsAndChangesNothing(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		if _, found, err := storage.Peek(ctx, dsn); found || err != nil {
			t.Fatalf("nothing there yet: %t %v", found, err)
		}
		db, err := storage.Open(ctx, storage.Config{DSN: dsn})
		if err != nil {
			t.Fatal(err)
		}
		want := storage.Identity{ServerName: "example.org", SigningKey: "ed25519:a key"}
		if err := db.Write(ctx, func(tx *storage.Tx) error { return tx.SetIdentity(want) }); err != nil {
			t.Fatal(err)
		}
		for _, state := range []string{"open", "closed"} {
			if got, found, err := storage.Peek(ctx, dsn); !found || err != nil || got.Identity != want {
				t.Errorf("%s: %+v %t %v", state, got, found, err)
			}
			if state == "open" {
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if path, lite := strings.CutPrefix(dsn, "sqlite:"); lite {
			if left, err := filepath.Glob(path + "-*"); err != nil || len(left) > 0 {
				t.Errorf("%v %v", left, err)
			}
		}
		if err := storage.Migrate(dsn, version(t, map[string]string{"9999_future.sql": "CREATE TABLE future (n BIGINT);\n"})); !errors.Is(err, storage.ErrNewerSchema) {
			t.Fatal(err)
		}
	})
}

func TestPeekRefusesWhatOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	future, text := filepath.Join(dir, "future.db"), filepath.Join(dir, "text.db")
	if err := storage.Migrate("sqlite:"+future, version(t, map[string]string{"9999_future.sql": "CREATE TABLE future (n BIGINT);\n"})); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(text, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(dir, "foreign.db")
	storage.MakeForeign(t, foreign)
	for path, want := range map[string]string{future: "newer schema", text: "not a database", foreign: "auto_vacuum"} {
		_, _, err := storage.Peek(ctx, "sqlite:"+path)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
