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
			raw, err = os.ReadFile(path) //nolint:gosec // the folder belongs to the test
			if strings.HasPrefix(path, filepath.Join(data, "pg_wal")) {
				raw = withoutHeaders(raw)
			}
			if err == nil && found(raw) {
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

// The pages of a write-ahead log, each of which begins with a header; that of the first page of a file is longer.
const (
	logPage        = 8192
	logHeader      = 24
	longFileHeader = 40
)

// withoutHeaders returns the content of a file of the write-ahead log without the headers of its pages. They are in the
// middle of what a record contains if it is on two pages.
func withoutHeaders(raw []byte) []byte {
	joined := make([]byte, 0, len(raw))
	for start := 0; start < len(raw); start += logPage {
		page := raw[start:min(start+logPage, len(raw))]
		skip := logHeader
		if start == 0 {
			skip = longFileHeader
		}
		joined = append(joined, page[min(skip, len(page)):]...)
	}
	return joined
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
