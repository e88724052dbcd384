package pagegaps_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ebb/storage/pagegaps"
)

// Frames are gathered before they are written, and other connections must find all of them after the commit: in the log
// as it is then, even if it is not synced.
func TestEveryCommitIsInTheLogAtOnce(t *testing.T) {
	vfs, err := pagegaps.VFS()
	ok(t, err)
	for _, synchronous := range []string{"FULL", "NORMAL", "OFF"} {
		path := filepath.Join(t.TempDir(), "a.db")
		w, other := open(t, path, vfs), open(t, path, "")
		for _, setting := range []string{"journal_mode = WAL", "synchronous = " + synchronous, "wal_autocheckpoint = 0", "cache_size = 10"} {
			run(t, w, "PRAGMA "+setting)
		}
		run(t, w, `CREATE TABLE a (id INTEGER PRIMARY KEY, body TEXT)`)
		want := 0
		for i := range 16 {
			run(t, w, `BEGIN`)
			n := []int{1, 3, 20, 100}[i%4] // more than the cache holds, so that pages are written before the commit, and again
			for k := range n {
				run(t, w, `INSERT INTO a (body) VALUES (?)`, strings.Repeat("x", 100+k%7*900))
				run(t, w, `UPDATE a SET body = body || 'y' WHERE id = ?`, k)
			}
			run(t, w, `SAVEPOINT s`)
			run(t, w, `DELETE FROM a WHERE id % 3 = 0`)
			run(t, w, `ROLLBACK TO s`)
			if i%5 == 4 {
				run(t, w, `ROLLBACK`)
			} else {
				run(t, w, `COMMIT`)
				want += n
			}
			copied := filepath.Join(t.TempDir(), "b.db")
			for _, suffix := range []string{"", "-wal"} {
				raw, err := os.ReadFile(path + suffix)
				ok(t, err)
				ok(t, os.WriteFile(copied+suffix, raw, 0o600))
			}
			recovered := open(t, copied, "")
			var damage string
			ok(t, recovered.QueryRow(`PRAGMA integrity_check`).Scan(&damage))
			var seen, left int
			ok(t, other.QueryRow(`SELECT count(*) FROM a`).Scan(&seen))
			ok(t, recovered.QueryRow(`SELECT count(*) FROM a`).Scan(&left))
			ok(t, recovered.Close())
			if seen != want || left != want || damage != "ok" {
				t.Fatalf("synchronous = %s, transaction %d: another connection sees %d rows and a copy has %d, want %d; damage: %s", synchronous, i, seen, left, want, damage)
			}
			if i%6 == 5 {
				run(t, w, `PRAGMA wal_checkpoint(RESTART)`)
			}
		}
		ok(t, w.Close())
		ok(t, other.Close())
	}
}
