package storage_test

import (
	"math"
	"testing"

	"ebb/ident"
	"ebb/storage"
)

// thread stores event 1 and its replies 2 and 3. The first two notify user 5 with a class of their own, and 1 and 3 are
// sticky.
func thread(t *testing.T, tx *storage.Tx) {
	t.Helper()
	ok(t, tx.InsertEvent(event(1)))
	for n := 2; n <= 3; n++ {
		ok(t, tx.InsertEvent(event(n, func(e *storage.EventRow) { e.ThreadRoot = 1 })))
		ok(t, tx.InsertRelation(storage.RelationRow{Position: storage.Pos(n), Room: 1, Parent: "$1", RelType: "m.thread", Type: "m.room.message", Sender: 7, Order: ident.Order(n) << 16}))
		ok(t, tx.TouchThread(1, ident.Order(n)<<16))
	}
	ok(t, tx.InsertEventPush(5, 1, 1, 3), tx.InsertEventPush(5, 1, 2, 3))
	for _, p := range []storage.Pos{1, 3} {
		ok(t, tx.AddSelfDestruct(&storage.SelfDestruct{Position: p, Room: 1, Sender: 7, DueTS: 5, AfterRead: -1}, 10, 1))
		ok(t, tx.AddStickyEvent(storage.StickyEvent{Position: p, Room: 1, Sender: 7, ExpiresTS: math.MaxInt64}, 0, 10, 10))
	}
}

func TestWhatDependsOnAnEventGoesWithIt(t *testing.T) {
	candidate := func(p storage.Pos, eventID string) storage.PurgeCandidate {
		return storage.PurgeCandidate{Position: p, EventID: eventID}
	}
	type left struct {
		sticky    int64
		notifies  int64
		latest    ident.Order
		replyRoot int64
	}
	for _, tc := range []struct {
		name string
		do   func(tx *storage.Tx, p storage.Pos, eventID string) error
		root left // after the change to the thread's root
		last left // after the change to the newest reply
	}{
		{"redacted", func(tx *storage.Tx, p storage.Pos, eventID string) error {
			return tx.RedactEvent(1, p, eventID, []byte(`{}`), 9)
		}, left{1, 0, 3 << 16, 1}, left{1, 3, 2 << 16, 1}},
		{"rejected", func(tx *storage.Tx, p storage.Pos, eventID string) error {
			return tx.RejudgeEvent(p, eventID, 0, 0, storage.RejectedEvent)
		}, left{1, 0, 3 << 16, 1}, left{1, 3, 2 << 16, 1}},
		{"purged", func(tx *storage.Tx, p storage.Pos, eventID string) error { return tx.PurgeEvent(p, eventID) }, left{1, 0, 0, 0}, left{1, 3, 2 << 16, 1}},
		{"reduced to a skeleton", func(tx *storage.Tx, p storage.Pos, eventID string) error {
			return tx.SkeletonizeEvent(p, eventID, 0, []byte(`{}`))
		}, left{1, 0, 0, 0}, left{1, 3, 2 << 16, 1}},
	} {
		for _, at := range []struct {
			p    storage.Pos
			id   string
			want left
		}{{1, "$1", tc.root}, {3, "$3", tc.last}} {
			t.Run(tc.name+at.id, func(t *testing.T) {
				eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
					thread(t, tx)
					if found := got[map[storage.Pos]bool](t)(tx.WithDependents([]storage.PurgeCandidate{candidate(at.p, at.id), candidate(8, "$8")})); !found[at.p] || found[8] {
						t.Errorf("events with dependents: %v", found)
					}
					ok(t, tc.do(tx, at.p, at.id))
					sticky := got[int64](t)(tx.Int64(`SELECT count(*) FROM sticky_events WHERE room_nid = 1`))
					if due := got[[]storage.SelfDestruct](t)(tx.DueSelfDestructs(5, 10)); len(due) != 1 || due[0].Position == at.p {
						t.Errorf("still to be destroyed: %+v", due)
					}
					reply, _, err := tx.EventAt(2)
					ok(t, err)
					has := left{sticky, got[int64](t)(tx.EventPush(5, 1, 1)), got[ident.Order](t)(tx.ThreadLatest(1)), int64(reply.ThreadRoot)}
					if has != at.want {
						t.Errorf("left is %+v, want %+v", has, at.want)
					}
					if tc.name == "purged" {
						if found := got[map[storage.Pos]bool](t)(tx.WithDependents([]storage.PurgeCandidate{candidate(3, "$3")})); at.p == 3 && found[3] {
							t.Error("something still depends on the event")
						}
					}
					return nil
				})
			})
		}
	}
}

// An event that arrived twice, such as a redaction that was withheld, has two rows. Its content is removed from both.
func TestRedactionReplacesEveryRowOfAnEvent(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		ok(t, tx.InsertEvent(event(1)))
		again := event(2)
		again.EventID = "$1"
		ok(t, tx.InsertEvent(again))
		ok(t, tx.RedactEvent(1, 2, "$1", []byte(`{}`), 9))
		for p := storage.Pos(1); p <= 2; p++ {
			if e, _, err := tx.EventAt(p); err != nil || string(e.JSON) != `{}` || e.RedactedBy != 9 {
				t.Errorf("the row at %d is %s, redacted by %d, %v", p, e.JSON, e.RedactedBy, err)
			}
		}
		return nil
	})
}
