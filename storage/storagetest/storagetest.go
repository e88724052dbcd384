// Package storagetest opens databases for tests: a fresh one for each test, on SQLite and, if EBB_TEST_POSTGRES
// contains the address of a server (internal/pgtest starts one), also on PostgreSQL.
package storagetest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"ebb/storage"
)

// Variable is the name of the environment variable with the address of a PostgreSQL database. Tests create their own
// schemas in it and drop them.
const Variable = "EBB_TEST_POSTGRES"

// Each runs f once for each kind of database, with a fresh database that is closed afterwards.
func Each(t *testing.T, f func(t *testing.T, db *storage.DB)) {
	t.Helper()
	EachDSN(t, func(t *testing.T, dsn string) { f(t, Open(t, storage.Config{DSN: dsn})) })
}

// EachDSN runs f once for each kind of database, with the address of a fresh database that f opens and closes.
func EachDSN(t *testing.T, f func(t *testing.T, dsn string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { f(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { f(t, Postgres(t)) })
}

// Open opens a database, by default a fresh one on SQLite, and closes it at the end of the test. On PostgreSQL, message
// bodies are encrypted.
func Open(t testing.TB, cfg storage.Config) *storage.DB {
	t.Helper()
	if cfg.DSN == "" {
		cfg.DSN = SQLite(t)
	}
	if cfg.BodyKeys == "" && strings.HasPrefix(cfg.DSN, "postgres") {
		cfg.BodyKeys = Keys(t, cfg.DSN)
	}
	db, err := storage.Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close the database: %v", err)
		}
	})
	return db
}

// keyFolders has the folder of keys of each database on PostgreSQL, by address.
var keyFolders sync.Map

// Keys returns the folder of the keys of a database on PostgreSQL.
func Keys(t testing.TB, dsn string) string {
	t.Helper()
	if dir, ok := keyFolders.Load(dsn); ok {
		return dir.(string)
	}
	dir := filepath.Join(t.TempDir(), "keys")
	keyFolders.Store(dsn, dir)
	return dir
}

// SQLite returns the address of a database that does not exist yet.
func SQLite(t testing.TB) string {
	t.Helper()
	return "sqlite:" + filepath.Join(t.TempDir(), "ebb.db")
}

// Postgres returns the address of an empty schema, which is dropped after the test. It skips the test if there is no
// server.
func Postgres(t testing.TB) string {
	t.Helper()
	server := os.Getenv(Variable)
	if server == "" {
		t.Skip("SKIP PostgreSQL: " + Variable + " is not set (go run ./internal/pgtest -- go test …)")
	}
	db, err := sql.Open("pgx", server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	schema := "test_" + strings.ToLower(rand.Text())
	if _, err := db.ExecContext(context.Background(), `CREATE SCHEMA `+schema); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := db.ExecContext(context.Background(), `DROP SCHEMA `+schema+` CASCADE`); err != nil {
			t.Errorf("drop the schema of the test: %v", err)
		}
	})
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	return u.String()
}
