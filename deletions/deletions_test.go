package deletions

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"ebb/audit"
	"ebb/ident"
	"ebb/secrets"
	"ebb/storage"
	"ebb/storage/storagetest"
)

var ctx = context.Background()

// lab is a Log on a database, with a clock.
type lab struct {
	*Log
	t  *testing.T
	db *storage.DB
	ms int64
}

func each(t *testing.T, f func(t *testing.T, l *lab)) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		l := &lab{t: t, ms: 1_750_000_000_000}
		now := func() time.Time { return time.UnixMilli(l.ms) }
		l.db = storagetest.Open(t, storage.Config{DSN: dsn, Now: now})
		ring, err := secrets.Create(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		l.Log, err = Open(ctx, Options{
			DB: l.db, Server: "example.org", Secrets: ring, Keep: time.Hour, Now: now,
			Audit: audit.New(audit.Options{DB: l.db, Server: "example.org", Secrets: ring, Now: now}),
		})
		if err != nil {
			t.Fatal(err)
		}
		f(t, l)
	})
}

// purge counts a purge of a room in two transactions.
func (l *lab) purge(room ident.RoomNID, events int64) {
	l.t.Helper()
	for last := range 2 {
		err := l.db.Write(ctx, func(tx *storage.Tx) error {
			if err := l.Count(tx, room, Expired, events, 1); err != nil || last == 0 {
				return err
			}
			return l.Close(tx, room, Expired, func() Room {
				return Room{ID: "!r:example.org", Policy: "max_lifetime 1h", Servers: []string{"z.org", "a.org"}}
			})
		})
		if err != nil {
			l.t.Fatal(err)
		}
	}
	l.sign()
}

func (l *lab) sign() {
	l.t.Helper()
	if err := l.Sign(ctx); err != nil {
		l.t.Fatal(err)
	}
}

// export returns the receipts as a file, and the public keys.
func (l *lab) export() (lines [][]byte, keys []string) {
	l.t.Helper()
	err := l.db.Read(ctx, func(tx *storage.Tx) error {
		receipts, err := tx.DeletionReceipts(0, 0, 100)
		if err != nil {
			return err
		}
		for _, r := range receipts {
			line, err := json.Marshal(Line{r.Note})
			if err != nil {
				return err
			}
			lines = append(lines, line)
		}
		list, err := tx.DeletionKeys(10)
		for _, k := range list {
			keys = append(keys, k.Verifier)
		}
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return lines, keys
}

func verify(lines [][]byte, keys []string) (Verified, error) {
	return Verify(bytes.NewReader(bytes.Join(lines, []byte("\n"))), keys)
}

func TestReceiptsAreVerifiedWithoutTheDatabase(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		l.purge(1, 10)
		l.purge(2, 20)
		if err := l.Rotate(ctx); err != nil {
			t.Fatal(err)
		}
		l.purge(1, 5)
		lines, keys := l.export()
		v, err := verify(lines, keys)
		if err != nil || v.Receipts != 3 || v.Events != 70 || v.Media != 6 || v.Missing != 0 {
			t.Fatalf("%+v, %v", v, err)
		}
		if text := string(lines[0]); !strings.Contains(text, `other servers: a.org z.org\n`) || !strings.Contains(text, `events: 20\n`) {
			t.Errorf("the receipt is %s", text)
		}
		if _, err := verify(lines, keys[:1]); err == nil {
			t.Error("receipts of the former key are valid under the new one")
		}
		for name, change := range map[string]func([][]byte) [][]byte{
			"other number of events": func(l [][]byte) [][]byte {
				l[1] = bytes.Replace(l[1], []byte("events: 40"), []byte("events: 41"), 1)
				return l
			},
			"order": func(l [][]byte) [][]byte { l[0], l[1] = l[1], l[0]; return l },
			"twice": func(l [][]byte) [][]byte { return append(l, l[2]) },
			"text":  func(l [][]byte) [][]byte { return append(l, []byte("{}")) },
		} {
			if _, err := verify(change(bytes.Split(bytes.Join(lines, []byte("\n")), []byte("\n"))), keys); err == nil {
				t.Errorf("%s: the change is not found", name)
			}
		}
		if v, err := verify([][]byte{lines[0], lines[2]}, keys); err != nil || v.Missing != 1 {
			t.Errorf("without the second receipt: %+v, %v", v, err)
		}
	})
}

// On PostgreSQL, what was deleted can be read in the database's log until its key is destroyed.
func TestAReceiptIsSignedWhenTheKeysAreDestroyed(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		write := func(f func(tx *storage.Tx) error) {
			t.Helper()
			if err := l.db.Write(ctx, f); err != nil {
				t.Fatal(err)
			}
		}
		receipts := func() (n int) {
			t.Helper()
			l.sign()
			lines, _ := l.export()
			return len(lines)
		}
		var first, second storage.Pos
		write(func(tx *storage.Tx) error {
			first, second = tx.NextPos(), tx.NextPos()
			for _, p := range []storage.Pos{first, second} {
				e := storage.EventRow{Position: p, Room: 1, Order: ident.Order(p) << 16, EventID: fmt.Sprint("$", p), Type: "m.room.message", ReceivedTS: l.ms, JSON: []byte(`{}`)}
				if err := tx.InsertEvent(&e); err != nil {
					return err
				}
			}
			return nil
		})
		write(func(tx *storage.Tx) error { return tx.PurgeEvent(first, fmt.Sprint("$", first)) })
		if l.db.Overwrites() {
			l.purge(1, 1)
			if n := receipts(); n != 1 {
				t.Errorf("%d receipts, want 1", n)
			}
			return
		}
		l.ms -= time.Hour.Milliseconds() // the clock is set back
		l.purge(1, 1)
		l.purge(2, 1)
		if n := receipts(); n != 1 {
			t.Fatalf("while the key of room 1 exists there are %d receipts, want that of room 2", n)
		}
		retire := func() {
			t.Helper()
			if err := l.db.RetireKeys(ctx, true); err != nil {
				t.Fatal(err)
			}
		}
		retire()
		l.ms += 2 * time.Hour.Milliseconds()
		write(func(tx *storage.Tx) error { return tx.PurgeEvent(second, fmt.Sprint("$", second)) }) // another key
		if n := receipts(); n != 2 {
			t.Fatalf("after the key was destroyed there are %d receipts, want 2", n)
		}
		lines, _ := l.export()
		for _, want := range []string{`until: 2025-06-15T15:06:40Z\n`, `signed: 2025-06-15T16:06:40Z\n`, `other servers: a.org z.org\n`} {
			if !bytes.Contains(lines[1], []byte(want)) {
				t.Errorf("the receipt lacks %s: %s", want, lines[1])
			}
		}
		l.purge(1, 1)
		if n := receipts(); n != 2 {
			t.Fatalf("while the second key of room 1 exists there are %d receipts", n)
		}
		retire()
		if n := receipts(); n != 3 {
			t.Errorf("at the end there are %d receipts, want 3", n)
		}
	})
}

func TestOldReceiptsAreDeletedButNotTheNewest(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		l.purge(1, 10)
		l.purge(1, 20)
		l.ms += 2 * time.Hour.Milliseconds()
		if err := l.Prune(ctx); err != nil {
			t.Fatal(err)
		}
		l.purge(1, 30)
		lines, keys := l.export()
		if v, err := verify(lines, keys); err != nil || v.Receipts != 2 || v.First != 2 || v.Last != 3 {
			t.Errorf("%+v, %v", v, err)
		}
	})
}

// After a restore, receipts from after the backup are lost, but their numbers are not used again, and it shows that
// they are missing.
func TestNumbersOfLostReceiptsAreNotUsedAgain(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		l.purge(1, 10)
		err := l.db.Write(ctx, func(tx *storage.Tx) error {
			for _, e := range []storage.LedgerEntry{{Ref: 1, Name: "other"}, {Ref: 2, Name: "second"}, {Ref: 3, Name: "third"}} {
				if err := tx.AddReceiptAgain(e); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		l.purge(1, 20)
		lines, keys := l.export()
		if v, err := verify(lines, keys); err != nil || v.Receipts != 2 || v.Last != 4 || v.Missing != 2 {
			t.Errorf("%+v, %v", v, err)
		}
		if text := string(lines[1]); !strings.Contains(text, `previous: third\n`) {
			t.Errorf("the receipt after those that are lost is %s", text)
		}
	})
}

func TestTheReceiptOfAnErasureSaysHowMuchOfWhichDataWent(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		l.purge(1, 10)
		var number int64
		if err := l.db.Write(ctx, func(tx *storage.Tx) (err error) {
			number, err = l.CloseErasure(tx, Erasure{
				Requested: time.UnixMilli(1_800_000_000_000), Redacted: 5, Removed: 6, Media: 7, Data: map[string]int64{"devices": 2, "account data": 3},
			})
			return err
		}); err != nil || number != 2 {
			t.Fatalf("receipt %d, %v", number, err)
		}
		lines, keys := l.export()
		for _, want := range []string{
			`deleted: everything about an account\n`, `room: none\n`, `events: 0\nmedia: 7\n`, `from: 2027-01-15T08:00:00Z\n`, `redactions sent: 5\n`,
			`events removed from this server only: 6\n`, `other data: account data 3, devices 2\n`,
		} {
			if !bytes.Contains(lines[1], []byte(want)) {
				t.Errorf("the receipt lacks %s: %s", want, lines[1])
			}
		}
		if v, err := verify(lines, keys); err != nil || v.Receipts != 2 || v.Events != 20 || v.Media != 9 || v.Missing != 0 {
			t.Errorf("verified: %+v, %v", v, err)
		}
		lines[1] = bytes.Replace(lines[1], []byte("devices 2"), []byte("devices 9"), 1)
		if _, err := verify(lines, keys); err == nil {
			t.Error("a changed receipt is valid")
		}
	})
	var none *Log
	if number, err := none.CloseErasure(nil, Erasure{}); number != 0 || err != nil {
		t.Errorf("without receipts: %d, %v", number, err)
	}
}
