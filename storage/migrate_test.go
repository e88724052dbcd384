package storage_test

import (
	"bytes"
	"errors"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"ebb/storage"
	"ebb/storage/storagetest"
)

// version returns a set of migrations: the real one that creates the table meta, and the given files.
func version(t *testing.T, files map[string]string) fstest.MapFS {
	t.Helper()
	meta, err := os.ReadFile("migrations/0000_meta.sql")
	if err != nil {
		t.Fatal(err)
	}
	out := fstest.MapFS{"0000_meta.sql": {Data: meta}}
	for name, text := range files {
		out[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return out
}

func TestNewerSchemaIsRefused(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		newer := version(t, map[string]string{"9999_future.sql": "CREATE TABLE future (n BIGINT);\n"})
		if err := storage.Migrate(dsn, newer); err != nil {
			t.Fatal(err)
		}
		_, err := storage.Open(ctx, storage.Config{DSN: dsn})
		if !errors.Is(err, storage.ErrNewerSchema) || !strings.Contains(err.Error(), "9999_future.sql") {
			t.Errorf("opened: %v", err)
		}
	})
}

func TestMigrationsRunOnceInOrderAndWholly(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		files := map[string]string{
			"0001_a.sql": "CREATE TABLE a (n {pk}, s TEXT); -- first; with a comment\n-- another\nINSERT INTO a VALUES (1, 'a');\n",
			"0002_b.sql": "-- only: sqlite INSERT INTO a VALUES (2, 'sqlite');\n-- only: postgres INSERT INTO a VALUES (2, 'postgres');\n",
		}
		for range 2 {
			if err := storage.Migrate(dsn, version(t, files)); err != nil {
				t.Fatal(err)
			}
		}
		broken := maps.Clone(files)
		broken["0003_c.sql"] = "INSERT INTO a VALUES (3, 'c');\nINSERT INTO no_such_table VALUES (1);\n"
		if err := storage.Migrate(dsn, version(t, broken)); err == nil || !strings.Contains(err.Error(), "0003_c.sql") {
			t.Errorf("a broken migration: %v", err)
		}
		kind := t.Name()[strings.LastIndexByte(t.Name(), '/')+1:]
		// The check is a migration too. It fails unless table a has exactly the expected rows.
		files["0003_proof.sql"] = "CREATE TABLE proof (n BIGINT NOT NULL CHECK (n = 201));\n" +
			"INSERT INTO proof SELECT sum(n) * 67 FROM a;\n" +
			"INSERT INTO proof SELECT 200 + count(*) FROM a WHERE s = '" + kind + "';\n"
		if err := storage.Migrate(dsn, version(t, files)); err != nil {
			t.Error(err)
		}
	})
}

func TestMigrationFilesAreNumberedOnce(t *testing.T) {
	entries, err := os.ReadDir("migrations")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	shape := regexp.MustCompile(`^\d{4}_[a-z0-9_]+\.sql$`)
	for _, e := range entries {
		if !shape.MatchString(e.Name()) {
			t.Errorf("%s is not NNNN_name.sql", e.Name())
			continue
		}
		if other := seen[e.Name()[:4]]; other != "" {
			t.Errorf("%s and %s have one number", other, e.Name())
		}
		seen[e.Name()[:4]] = e.Name()
	}
}

func TestEveryMigrationRunsOnBothDatabases(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		for range 2 { // the second finds nothing to do
			db, err := storage.Open(ctx, storage.Config{DSN: dsn})
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestMigrationsAreLogged(t *testing.T) {
	for _, c := range []struct{ name, dsn, want string }{
		{"new", storagetest.SQLite(t), "a new database was created"},
		{"old", thaw(t, "testdata/v1.db.gz"), "migration=0016_device_tellings.sql"},
	} {
		var log bytes.Buffer
		if c.name == "old" { // as an earlier version without the last migration left it
			storage.RunSQL(t, strings.TrimPrefix(c.dsn, "sqlite:"), `DELETE FROM meta WHERE name = 'migration 0016_device_tellings.sql'; DROP TABLE IF EXISTS device_tellings`)
		}
		db, err := storage.Open(ctx, storage.Config{DSN: c.dsn, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(c.name, err)
		}
		if err := db.Close(); err != nil || !strings.Contains(log.String(), c.want) {
			t.Errorf("%s: %v, logged: %s", c.name, err, &log)
		}
	}
}
