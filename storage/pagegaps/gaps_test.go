package pagegaps_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ebb/storage/pagegaps"
)

// open opens a database through a VFS, or through SQLite's own one if vfs is "".
func open(t *testing.T, path, vfs string) *sql.DB {
	t.Helper()
	dsn := "file:" + path + "?_secure_delete=on&_auto_vacuum=incremental"
	if vfs != "" {
		dsn += "&vfs=" + vfs
	}
	db, err := sql.Open("sqlite3", dsn)
	ok(t, err)
	db.SetMaxOpenConns(1)
	return db
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, db *sql.DB, query string, args ...any) {
	t.Helper()
	_, err := db.Exec(query, args...)
	ok(t, err)
}

const marker = "MARKER"

// text returns a text of which several fit in a page.
func text(r *rand.Rand, i, pageSize int) string {
	return fmt.Sprintf("%s%d.%s", marker, i, strings.Repeat("x", r.IntN(min(pageSize/5, 1000))))
}

// shuffle writes and deletes rows in a random order, and finally deletes all that have a marker.
func shuffle(t *testing.T, db *sql.DB, pageSize int) {
	t.Helper()
	r := rand.New(rand.NewPCG(uint64(pageSize), 1))
	run(t, db, fmt.Sprintf(`PRAGMA page_size = %d`, pageSize))
	run(t, db, `PRAGMA journal_mode = WAL`)
	run(t, db, `CREATE TABLE a (id INTEGER PRIMARY KEY, body TEXT)`)
	run(t, db, `CREATE TABLE b (body TEXT PRIMARY KEY) WITHOUT ROWID`)
	run(t, db, `CREATE INDEX a_body ON a (body)`)
	for i := range 3000 {
		id := r.IntN(1000)
		switch r.IntN(5) {
		case 0, 1:
			run(t, db, `INSERT OR REPLACE INTO a VALUES (?, ?)`, id, text(r, i, pageSize))
		case 2:
			run(t, db, `INSERT INTO b VALUES (?)`, text(r, i, pageSize))
		case 3:
			run(t, db, `DELETE FROM a WHERE id BETWEEN ? AND ?`, id, id+r.IntN(6))
		case 4:
			run(t, db, `DELETE FROM b WHERE body IN (SELECT body FROM b ORDER BY body LIMIT 3 OFFSET ?)`, id)
		}
		if i%10 == 0 {
			run(t, db, `INSERT OR REPLACE INTO a VALUES (?, ?)`, 2000+i, strings.Repeat("kept", r.IntN(300)))
		}
	}
	for _, order := range []string{"id", "body"} { // in steps, as rows that are deleted together are not moved before
		for range 100 {
			run(t, db, `DELETE FROM a WHERE id IN (SELECT id FROM a WHERE body LIKE ? ORDER BY `+order+` LIMIT 9 OFFSET 3)`, marker+"%")
		}
	}
	run(t, db, `DELETE FROM a WHERE body LIKE ?`, marker+"%")
	run(t, db, `DELETE FROM b`)
	run(t, db, `PRAGMA wal_checkpoint(TRUNCATE)`)
}

// dump returns what a database has, and fails if the file is damaged.
func dump(t *testing.T, db *sql.DB) string {
	t.Helper()
	var damage, rows string
	ok(t, db.QueryRow(`PRAGMA integrity_check`).Scan(&damage))
	if damage != "ok" {
		t.Fatal(damage)
	}
	ok(t, db.QueryRow(`SELECT group_concat(id || body) FROM (SELECT * FROM a ORDER BY id)`).Scan(&rows))
	return rows
}

func markers(t *testing.T, path string) int {
	t.Helper()
	raw, err := os.ReadFile(path)
	ok(t, err)
	return bytes.Count(raw, []byte(marker))
}

func TestDeletedRowsLeaveNoCopies(t *testing.T) {
	vfs, err := pagegaps.VFS()
	ok(t, err)
	copies := 0
	for _, pageSize := range []int{512, 1024, 4096, 65536} {
		plain, clear := filepath.Join(t.TempDir(), "plain.db"), filepath.Join(t.TempDir(), "clear.db")
		for path, vfs := range map[string]string{plain: "", clear: vfs} {
			db := open(t, path, vfs)
			shuffle(t, db, pageSize)
			ok(t, db.Close())
		}
		if n := markers(t, clear); n > 0 {
			t.Errorf("pages of %d bytes: the file has %d copies of deleted rows", pageSize, n)
		}
		copies += markers(t, plain)
		before := dump(t, open(t, clear, ""))
		if before != dump(t, open(t, plain, "")) {
			t.Errorf("pages of %d bytes: the rows differ from those that SQLite alone writes", pageSize)
		}
		pages, err := pagegaps.Clear(plain)
		ok(t, err)
		if n := markers(t, plain); n > 0 || pages == 0 {
			t.Errorf("pages of %d bytes: %d copies are left after Clear changed %d pages", pageSize, n, pages)
		}
		if before != dump(t, open(t, plain, "")) {
			t.Errorf("pages of %d bytes: Clear changed rows", pageSize)
		}
	}
	if copies == 0 {
		t.Error("SQLite alone leaves no copies, so this test shows nothing")
	}
}

func TestClearLeavesOtherFilesAlone(t *testing.T) {
	marked := filepath.Join(t.TempDir(), "marked.db")
	db := open(t, marked, "")
	shuffle(t, db, 4096)
	run(t, db, fmt.Sprintf(`PRAGMA application_id = %d`, pagegaps.Mark))
	ok(t, db.Close())
	raw, err := os.ReadFile(marked)
	ok(t, err)
	for name, content := range map[string][]byte{
		"marked": raw, "empty": {}, "short": []byte("SQLite format 3\x00"), "text": bytes.Repeat([]byte("no database "), 1000),
	} {
		path := filepath.Join(t.TempDir(), name)
		ok(t, os.WriteFile(path, content, 0o600))
		pages, err := pagegaps.Clear(path)
		ok(t, err)
		after, err := os.ReadFile(path)
		ok(t, err)
		if pages != 0 || !bytes.Equal(after, content) {
			t.Errorf("%s: the file was changed", name)
		}
	}
	if pages, err := pagegaps.Clear(filepath.Join(t.TempDir(), "missing")); pages != 0 || err != nil {
		t.Errorf("missing: %d, %v", pages, err)
	}
}
