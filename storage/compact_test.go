package storage_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"

	"ebb/ident"
	"ebb/storage"
	"ebb/storage/pace"
	"ebb/storage/storagetest"
)

// contents returns a hash of all rows of each table with their rowids, except for the records of Compact itself.
func contents(t *testing.T, db *storage.DB) map[string]string {
	t.Helper()
	out := map[string]string{}
	list := func(tx *storage.Tx, query string, args ...any) (all []string) {
		ok(t, tx.Each(func(r storage.Row) error {
			var s string
			err := r.Scan(&s)
			all = append(all, s)
			return err
		}, query, args...))
		return all
	}
	ok(t, db.Read(ctx, func(tx *storage.Tx) error {
		for _, table := range list(tx, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'event_gaps'`) {
			sum, columns := sha256.New(), []string{"quote(rowid)"}
			for _, name := range list(tx, `SELECT name FROM pragma_table_info($1)`, table) {
				columns = append(columns, "quote("+name+")")
			}
			for _, row := range list(tx, `SELECT `+strings.Join(columns, " || ',' || ")+` FROM `+table+` ORDER BY rowid`) {
				_, _ = fmt.Fprintln(sum, row)
			}
			out[table] = string(sum.Sum(nil))
		}
		return nil
	}))
	return out
}

// fill stores events 1 to n that keep accepts, in the order of their positions.
func fill(t *testing.T, db *storage.DB, n int, keep func(int) bool) {
	t.Helper()
	ok(t, db.Write(ctx, func(tx *storage.Tx) error {
		for i := 1; i <= n; i++ {
			if !keep(i) {
				continue
			}
			ok(t, tx.InsertEvent(event(i, func(e *storage.EventRow) {
				e.Room, e.TxnID, e.OriginTS = ident.RoomNID(1+i%10), fmt.Sprint("txn", i), int64(i)
				e.JSON = fmt.Appendf(nil, `{"content":{"body":"word-of-room-%d-%s"}}`, i%10, strings.Repeat("text ", 80+i%60))
			})))
			if i%3 == 0 {
				ok(t, tx.InsertRelation(storage.RelationRow{Position: storage.Pos(i), Room: ident.RoomNID(1 + i%10), Parent: fmt.Sprint("$", i-1), RelType: "m.annotation", Type: "m.reaction", Sender: 7, Order: ident.Order(i) << 16}))
			}
		}
		return nil
	}))
}

// deleteThose deletes those of the events 1 to n that keep does not accept, room by room as a purge does.
func deleteThose(t *testing.T, db *storage.DB, n int, keep func(int) bool) {
	t.Helper()
	for room := range 10 {
		ok(t, db.Write(ctx, func(tx *storage.Tx) error {
			var gone []storage.PurgeCandidate
			for i := 1; i <= n; i++ {
				if i%10 == room && !keep(i) {
					gone = append(gone, storage.PurgeCandidate{Position: storage.Pos(i), EventID: fmt.Sprint("$", i)})
				}
			}
			return tx.PurgeEvents(gone, got[map[storage.Pos]bool](t)(tx.WithDependents(gone)), true)
		}))
	}
}

func fileSize(t *testing.T, dsn string) int64 {
	t.Helper()
	info := got[os.FileInfo](t)(os.Stat(strings.TrimPrefix(dsn, "sqlite:")))
	return info.Size()
}

func TestCompactShrinksTheFileAndChangesNoRow(t *testing.T) {
	const n = 20_000 // in two blocks of positions
	keep := func(i int) bool { return i%10 < 2 }
	dsn, never := storagetest.SQLite(t), storagetest.SQLite(t)
	db := got[*storage.DB](t)(storage.Open(ctx, storage.Config{DSN: dsn}))
	fill(t, db, n, func(int) bool { return true })
	deleteThose(t, db, n, keep)
	ok(t, db.Maintain(ctx))
	before, loose := contents(t, db), fileSize(t, dsn)
	steps := 0
	for more := true; more; steps++ {
		more = got[bool](t)(db.Compact(ctx, pace.Fixed(100)))
		if steps%7 == 6 { // it continues after a restart
			ok(t, db.Close())
			db = got[*storage.DB](t)(storage.Open(ctx, storage.Config{DSN: dsn}))
		}
	}
	ok(t, db.Maintain(ctx))
	after := contents(t, db)
	for table, sum := range before {
		if after[table] != sum {
			t.Errorf("the rows of %s have changed", table)
		}
	}
	if rows := got[int64](t)(count(db, `SELECT count(*) FROM event_gaps`)); rows != 0 || steps < n/5/100 {
		t.Errorf("%d blocks are left after %d steps", rows, steps)
	}
	ok(t, db.Check(ctx), db.Close())
	ok(t, storage.CheckFile(ctx, dsn))
	other := storagetest.Open(t, storage.Config{DSN: never})
	fill(t, other, n, keep)
	ok(t, other.Maintain(ctx))
	// What is remembered of the purged events, and the index of IDs, are larger.
	if size, least := fileSize(t, dsn), fileSize(t, never); size > least*9/8 || loose < least*5/4 {
		t.Errorf("the file has %d bytes, and had %d; without the events that were deleted it would have %d", size, loose, least)
	}
	for _, suffix := range []string{"", "-wal"} {
		raw, err := os.ReadFile(strings.TrimPrefix(dsn, "sqlite:") + suffix)
		if bytes.Contains(raw, []byte("word-of-room-5")) || suffix == "" && (err != nil || !bytes.Contains(raw, []byte("word-of-room-1"))) {
			t.Errorf("ebb.db%s has a deleted text, or not those that stay: %v", suffix, err)
		}
	}
}

func count(db *storage.DB, query string) (n int64, err error) {
	err = db.Read(ctx, func(tx *storage.Tx) (err error) {
		n, err = tx.Int64(query)
		return err
	})
	return n, err
}

func TestCompactLeavesAloneWhereLittleWasDeleted(t *testing.T) {
	const n = 6000
	written := 0
	db := storagetest.Open(t, storage.Config{OnStatement: func(context.Context, string) { written++ }})
	fill(t, db, n, func(int) bool { return true })
	tenth := func(i int) bool { return i%10 != 1 }
	deleteThose(t, db, n, tenth)
	if more := got[bool](t)(db.Compact(ctx, pace.Fixed(100))); more {
		t.Error("a tenth was deleted, and the rest is stored anew")
	}
	written = 0
	if more := got[bool](t)(db.Compact(ctx, pace.Fixed(100))); more || written != 1 {
		t.Errorf("the same block is examined again: %d statements", written)
	}
	deleteThose(t, db, n, func(i int) bool { return tenth(i) && i%10 != 2 && i%10 != 3 })
	if more := got[bool](t)(db.Compact(ctx, pace.Fixed(100))); !more {
		t.Error("three tenths were deleted, and nothing is stored anew")
	}
}

func TestPostgresNeedsNoCompact(t *testing.T) {
	dsn := storagetest.Postgres(t)
	db := storagetest.Open(t, storage.Config{DSN: dsn})
	fill(t, db, 600, func(int) bool { return true })
	deleteThose(t, db, 600, func(i int) bool { return i%10 == 0 })
	if more := got[bool](t)(db.Compact(ctx, pace.Fixed(100))); more {
		t.Error("there is something to do")
	}
	if rows := got[int64](t)(count(db, `SELECT count(*) FROM event_gaps`)); rows != 0 {
		t.Errorf("%d blocks are counted", rows)
	}
}
