package storagetest

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// PostgresFiles returns the files of the PostgreSQL server of a database that contain what found looks for: tables with
// their TOAST tables, indexes, and the write-ahead log. It makes the server write its pages first. It skips the test if
// the files are not on this machine.
func PostgresFiles(t testing.TB, dsn string, found func(content []byte) bool) (names []string) {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(u.Query().Get("host"), "data")
	if _, err := os.Stat(data); err != nil {
		t.Skip("SKIP: the files of the PostgreSQL server are not on this machine")
	}
	checkpoint(t, dsn)
	err = filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var raw []byte
			if raw, err = os.ReadFile(path); err == nil && found(raw) { //nolint:gosec // the folder belongs to the test
				names = append(names, strings.TrimPrefix(path, data))
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // other tests use the server too
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// checkpoint makes PostgreSQL write its pages to files.
func checkpoint(t testing.TB, dsn string) {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.ExecContext(context.Background(), `CHECKPOINT`)
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}
