package storage_test

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"ebb/ident"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// eachWrite runs a write on every kind of database.
func eachWrite(t *testing.T, f func(t *testing.T, tx *storage.Tx) error) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		if err := db.Write(ctx, func(tx *storage.Tx) error { return f(t, tx) }); err != nil {
			t.Fatal(err)
		}
	})
}

// ok fails the test on the first error.
func ok(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// got returns a function that fails the test on an error and otherwise returns the value that came with it.
func got[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		ok(t, err)
		return v
	}
}

func event(n int, more ...func(*storage.EventRow)) *storage.EventRow {
	e := &storage.EventRow{
		Position: storage.Pos(n), Room: 1, Order: ident.Order(n) << 16, EventID: fmt.Sprint("$", n), Type: "m.room.message", Sender: 7, OriginTS: 100, ReceivedTS: 200,
		JSON: []byte(`{"content":{}}`),
	}
	for _, f := range more {
		f(e)
	}
	return e
}

func TestEventsAreStoredWhole(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		full := event(2, func(e *storage.EventRow) {
			e.Type, e.StateKey, e.IsState, e.Snapshot, e.Flags, e.RedactedBy, e.ThreadRoot = "x", "k", true, 9, storage.SoftFailedEvent, 4, 1
			e.Push, e.Device, e.TxnID = 3, 8, "txn"
		})
		empty := event(3, func(e *storage.EventRow) { e.IsState = true })
		for _, e := range []*storage.EventRow{event(1), full, empty} {
			ok(t, tx.InsertEvent(e))
			back, found, err := tx.EventByID(1, e.EventID)
			if err != nil || !found || !reflect.DeepEqual(back, *e) {
				t.Errorf("stored %+v, read %+v, %v", *e, back, err)
			}
		}
		if _, found, err := tx.EventByID(2, "$1"); found || err != nil {
			t.Error("an event is found in another room")
		}
		many := make([]storage.Pos, 2000)
		for i := range many {
			many[i] = storage.Pos(i)
		}
		if rows := got[[]storage.EventRow](t)(tx.EventsAt(many)); len(rows) != 3 {
			t.Errorf("%d events at 2000 positions, want 3", len(rows))
		}
		if rows := got[[]storage.EventRow](t)(tx.EventsAt(nil)); len(rows) != 0 {
			t.Errorf("%d events at no position", len(rows))
		}
		ok(t, tx.InsertRoom(&storage.RoomRow{NID: 1, RoomID: "!a", Version: "12"}))
		recent := got[[]storage.EventRow](t)(tx.RecentEvents([]ident.RoomNID{1, 99}, 2))
		slices.SortFunc(recent, func(a, b storage.EventRow) int { return int(b.Order - a.Order) })
		if len(recent) != 2 || recent[0].Position != 3 || recent[1].Position != 2 {
			t.Errorf("the newest are %+v", recent)
		}
		if all := got[[]storage.EventRow](t)(tx.RecentEvents([]ident.RoomNID{1}, 100)); len(all) != 3 {
			t.Errorf("the room has %d events, want 3", len(all))
		}
		ok(t, tx.InsertEventPush(5, 1, 1, 3), tx.RedactEvent(1, 1, "$1", []byte(`{}`), 3))
		back, _, err := tx.EventAt(1)
		if err != nil || string(back.JSON) != `{}` || back.RedactedBy != 3 || got[int64](t)(tx.EventPush(5, 1, 1)) != 0 {
			t.Errorf("redacted: %+v", back)
		}
		return nil
	})
}

func TestRoomHeadMovesFromItsOwnGeneration(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		row := storage.RoomRow{NID: 5, RoomID: "!r", Version: "12", CreatedTS: 1, Generation: 1, Snapshot: 2, Extremities: []storage.Pos{3}, Depth: 4, LastOrder: 5}
		ok(t, tx.InsertRoom(&row))
		next := storage.RoomRow{NID: 5, Generation: 1, Snapshot: 7, Extremities: []storage.Pos{8, 9}, Depth: 10, LastOrder: 11}
		if !got[bool](t)(tx.AdvanceRoom(&next)) || got[bool](t)(tx.AdvanceRoom(&next)) {
			t.Error("the head moves once from one generation")
		}
		back, _, err := tx.RoomByID("!r")
		if err != nil || back.Generation != 2 || back.Snapshot != 7 || !slices.Equal(back.Extremities, next.Extremities) || back.Published {
			t.Errorf("the room is %+v", back)
		}
		ok(t, tx.SetPublished(5, true))
		if l := got[[]ident.RoomNID](t)(tx.PublishedRooms(0, 10)); len(l) != 1 || l[0] != 5 {
			t.Errorf("published are %v", l)
		}
		return nil
	})
}

func TestStateIsReadAlongItsChain(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		for key, p := range map[string]storage.Pos{"a": 1, "b": 2} {
			ok(t, tx.SetCurrentState(1, "t", key, p, 0), tx.SetCurrentState(2, "t", key, 99, 0))
		}
		ok(t, tx.InsertSnapshot(10, 1, 0, 0), tx.CopyCurrentState(10, 1))
		ok(t, tx.InsertSnapshot(11, 1, 10, 1), tx.InsertStateDelta(11, "t", "a", 3))
		ok(t, tx.InsertSnapshot(12, 1, 11, 2), tx.InsertStateDelta(12, "t", "b", 0), tx.InsertStateDelta(12, "t", "c", 4))
		for snapshot, want := range map[int64]string{10: "a=1 b=2 ", 11: "a=3 b=2 ", 12: "a=3 c=4 ", 0: ""} {
			entries := got[[]storage.StateEntry](t)(tx.StateOf(snapshot))
			slices.SortFunc(entries, func(a, b storage.StateEntry) int { return int(a.Key[0]) - int(b.Key[0]) })
			text := ""
			for _, e := range entries {
				text += fmt.Sprintf("%s=%d ", e.Key, e.Position)
			}
			if text != want {
				t.Errorf("snapshot %d is %s, want %s", snapshot, text, want)
			}
		}
		for key, want := range map[string]storage.Pos{"a": 3, "b": 0, "c": 4, "d": 0} {
			if p := got[storage.Pos](t)(tx.StateKeyOf(12, "t", key)); p != want {
				t.Errorf("%s is at %d, want %d", key, p, want)
			}
		}
		return nil
	})
}

func TestMembershipKeepsWhenTheJoinBegan(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		nid := got[ident.UserNID](t)(tx.UserNID("@a:here"))
		if again := got[ident.UserNID](t)(tx.UserNID("@a:here")); again != nid || got[string](t)(tx.UserID(nid)) != "@a:here" {
			t.Error("a user has two names")
		}
		for i, c := range []struct {
			membership string
			joined     storage.Pos
		}{{"invite", 0}, {"join", 2}, {"join", 2}, {"leave", 0}, {"join", 5}} {
			ok(t, tx.SetMembership(storage.MemberRow{User: nid, Room: 1, Membership: c.membership, Position: storage.Pos(i + 1)}))
			list := got[[]storage.MemberRow](t)(tx.UserMemberships(nid))
			if len(list) != 1 || list[0].JoinedPos != c.joined || list[0].Membership != c.membership || list[0].Position != storage.Pos(i+1) {
				t.Errorf("after %d changes: %+v", i+1, list)
			}
		}
		ok(t, tx.ForgetRoom(nid, 1))
		if got[[]storage.MemberRow](t)(tx.UserMemberships(nid))[0].Forgotten {
			t.Error("a room is forgotten by a member")
		}
		ok(t, tx.SetMembership(storage.MemberRow{User: nid, Room: 1, Membership: "leave", Position: 9}), tx.ForgetRoom(nid, 1))
		if !got[[]storage.MemberRow](t)(tx.UserMemberships(nid))[0].Forgotten {
			t.Error("a room that was left is not forgotten")
		}
		if list := got[[]storage.MemberRow](t)(tx.RoomMembers([]ident.RoomNID{1})); len(list) != 1 || list[0].UserID != "@a:here" {
			t.Errorf("members %+v", list)
		}
		return nil
	})
}

func TestTransactionsReceiptsAndAliasesAreTakenOnce(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		if !got[bool](t)(tx.InsertTxn(1, storage.TxnRow{Hash: 2, Answer: "$a"})) || got[bool](t)(tx.InsertTxn(1, storage.TxnRow{Hash: 2, Answer: "$b"})) {
			t.Error("a transaction id is taken once")
		}
		if answer, found, err := tx.Txn(1, 2); err != nil || !found || answer != "$a" {
			t.Errorf("the answer is %q", answer)
		}
		if got[int64](t)(tx.PruneTxns(1, 10)) != 0 || got[int64](t)(tx.PruneTxns(1<<60, 10)) != 1 {
			t.Error("pruned the wrong transactions")
		}
		receipt := storage.ReceiptRow{Room: 1, User: 2, Type: "m.read", EventID: "$1", Order: 10}
		forward, back, thread := receipt, receipt, receipt
		forward.Order, back.Order, thread.Thread, thread.Order = 20, 15, "main", 5
		for i, c := range []struct {
			r    storage.ReceiptRow
			want bool
		}{{receipt, true}, {receipt, false}, {forward, true}, {back, false}, {thread, true}} {
			if moved := got[bool](t)(tx.SetReceipt(c.r, storage.Pos(i+1))); moved != c.want {
				t.Errorf("receipt %d moved: %v", i, moved)
			}
		}
		if p := got[map[ident.RoomNID]int64](t)(tx.LastReceipts([]ident.RoomNID{1, 2})); len(p) != 1 || p[1] != 5 {
			t.Errorf("the last receipts are at %v", p)
		}
		alias := storage.Alias{Alias: "#a:here", Room: 1, Creator: 2}
		if !got[bool](t)(tx.InsertAlias(alias)) || got[bool](t)(tx.InsertAlias(alias)) {
			t.Error("an alias is taken once")
		}
		ok(t, tx.MoveAliases(1, 3))
		if l := got[[]storage.Alias](t)(tx.RoomAliases(3, 10)); len(l) != 1 {
			t.Errorf("aliases %+v", l)
		}
		return nil
	})
}

func TestThreadEndsWithItsReplies(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		for n := 1; n <= 3; n++ {
			ok(t, tx.InsertEvent(event(n)))
		}
		for n := 2; n <= 3; n++ {
			ok(t, tx.InsertRelation(storage.RelationRow{Position: storage.Pos(n), Room: 1, Parent: "$1", RelType: "m.thread", Type: "m.room.message", Sender: 7, Order: ident.Order(n) << 16}))
			ok(t, tx.TouchThread(1, ident.Order(n)<<16))
		}
		for _, c := range []struct {
			drop storage.Pos
			want ident.Order
		}{{0, 3 << 16}, {3, 2 << 16}, {2, 0}} {
			ok(t, tx.DeleteRelation(c.drop))
			if latest := got[ident.Order](t)(tx.ThreadLatest(1)); latest != c.want {
				t.Errorf("without %d the latest is %d, want %d", c.drop, latest, c.want)
			}
		}
		ok(t, tx.TouchThread(99, 5))
		if latest := got[ident.Order](t)(tx.ThreadLatest(99)); latest != 0 {
			t.Error("a thread begins at an event that is gone")
		}
		return nil
	})
}
