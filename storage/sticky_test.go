package storage_test

import (
	"fmt"
	"testing"

	"ebb/ident"
	"ebb/storage"
)

// stickyIDs returns the IDs of events, or fails the test.
func stickyIDs(t *testing.T) func(rows []storage.EventRow, err error) string {
	return func(rows []storage.EventRow, err error) (out string) {
		t.Helper()
		for _, r := range got[[]storage.EventRow](t)(rows, err) {
			out += r.EventID
		}
		return out
	}
}

func TestStickyEventsAreFoundWhileTheyAreSticky(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		now := tx.Now().UnixMilli()
		add := func(n int, room ident.RoomNID, s storage.StickyEvent, flags storage.EventFlags) {
			ok(t, tx.InsertEvent(event(n, func(e *storage.EventRow) { e.Room, e.Flags = room, flags })))
			s.Position, s.Room, s.Sender = storage.Pos(n), room, 7
			ok(t, tx.AddStickyEvent(s, now, 10, 10))
		}
		add(1, 1, storage.StickyEvent{ExpiresTS: now + 1000, Local: true}, 0)
		add(2, 1, storage.StickyEvent{ExpiresTS: now + 3000}, 0)
		add(3, 2, storage.StickyEvent{ExpiresTS: now + 2000}, 0)
		add(4, 1, storage.StickyEvent{ExpiresTS: now + 9000, Refused: true}, storage.SoftFailedEvent)
		add(5, 1, storage.StickyEvent{ExpiresTS: now + 9000}, storage.WithheldEvent)
		add(6, 3, storage.StickyEvent{ExpiresTS: now + 2000, Local: true}, 0)
		all := []ident.RoomNID{1, 2}
		for _, c := range []struct {
			after, upTo storage.Pos
			at          int64
			limit       int
			want        string
		}{
			{0, 9, now, 9, "$1$2$3"}, {1, 9, now, 9, "$2$3"}, {0, 2, now, 9, "$1$2"}, {0, 9, now, 2, "$1$2"},
			{0, 9, now + 1000, 9, "$2$3"}, {0, 9, now + 2999, 9, "$2"}, {0, 9, now + 3000, 9, ""}, {3, 9, now, 9, ""},
		} {
			if ids := stickyIDs(t)(tx.StickyEvents(all, c.after, c.upTo, c.at, c.limit)); ids != c.want {
				t.Errorf("after %d up to %d: %s, want %s", c.after, c.upTo, ids, c.want)
			}
		}
		if ids := stickyIDs(t)(tx.RefusedSticky(1, now, 9)) + stickyIDs(t)(tx.RefusedSticky(1, now+9000, 9)) + stickyIDs(t)(tx.RefusedSticky(2, now, 9)); ids != "$4" {
			t.Errorf("refused are %s", ids)
		}
		if local := got[[]storage.Pos](t)(tx.LocalSticky(1, 0, now, 9)); fmt.Sprint(local) != "[1]" {
			t.Errorf("of this server are %v", local)
		}
		if local := got[[]storage.Pos](t)(tx.LocalSticky(1, 1, now, 9)); len(local) != 0 {
			t.Errorf("after the last one: %v", local)
		}
		want := []storage.StickyRoom{{1, 5, now + 9000, now + 1000, now + 9000}, {2, 3, now + 2000, 0, 0}, {3, 6, now + 2000, now + 2000, 0}}
		if list := got[[]storage.StickyRoom](t)(tx.StickyRooms(now)); fmt.Sprint(list) != fmt.Sprint(want) {
			t.Errorf("rooms are %v, want %v", list, want)
		}
		if list := got[[]storage.StickyRoom](t)(tx.StickyRooms(now + 2000)); len(list) != 1 || list[0].Room != 1 || list[0].LocalUntil != 0 {
			t.Errorf("two seconds later: %v", list)
		}
		if more := got[bool](t)(tx.PruneSticky(now+2000, 2)); !more {
			t.Error("three rows are old, and two deleted: more must be reported")
		}
		if more := got[bool](t)(tx.PruneSticky(now+2000, 2)); more {
			t.Error("nothing more is old")
		}
		if n := got[int64](t)(tx.Int64(`SELECT count(*) FROM sticky_events`)); n != 3 {
			t.Errorf("%d rows are left", n)
		}
		return nil
	})
}

// A list of rooms may be longer than what one statement takes.
func TestStickyEventsOfManyRoomsComeOldestFirst(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		now := tx.Now().UnixMilli()
		rooms := make([]ident.RoomNID, 1200)
		for i := range rooms {
			rooms[i] = ident.RoomNID(i + 1)
		}
		for n, room := range map[int]ident.RoomNID{1: 1100, 2: 3, 3: 600, 4: 1} {
			ok(t, tx.InsertEvent(event(n, func(e *storage.EventRow) { e.Room = room })))
			ok(t, tx.AddStickyEvent(storage.StickyEvent{Position: storage.Pos(n), Room: room, Sender: 7, ExpiresTS: now + 1}, now, 10, 10))
		}
		if ids := stickyIDs(t)(tx.StickyEvents(rooms, 0, 9, now, 3)); ids != "$1$2$3" {
			t.Errorf("found %s", ids)
		}
		return nil
	})
}

func TestASenderAndARoomHaveABoundedNumberOfStickyEvents(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		now := tx.Now().UnixMilli()
		add := func(n int, sender ident.UserNID, expires int64) {
			ok(t, tx.InsertEvent(event(n, func(e *storage.EventRow) { e.Sender = sender })))
			ok(t, tx.AddStickyEvent(storage.StickyEvent{Position: storage.Pos(n), Room: 1, Sender: sender, ExpiresTS: expires}, now, 2, 4))
		}
		is := func(want string) {
			t.Helper()
			if ids := stickyIDs(t)(tx.StickyEvents([]ident.RoomNID{1}, 0, 99, now, 99)); ids != want {
				t.Errorf("sticky are %s, want %s", ids, want)
			}
		}
		for n := 1; n <= 3; n++ {
			add(n, 7, now+1000)
		}
		is("$2$3")
		add(4, 8, now+1000)
		add(5, 8, now+1000)
		is("$2$3$4$5")
		add(6, 9, now+1000)
		is("$3$4$5$6")
		add(7, 9, now) // expires at once, and makes nobody else's event give way for longer
		is("$4$5$6")
		add(8, 9, now+1000)
		is("$4$5$6$8")
		return nil
	})
}

func TestAServerIsOwedStickyEventsOnlyIfThereAreSome(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		now := tx.Now().UnixMilli()
		add := func(n int, room ident.RoomNID, s storage.StickyEvent) {
			ok(t, tx.InsertEvent(event(n, func(e *storage.EventRow) { e.Room = room })))
			s.Position, s.Room, s.Sender = storage.Pos(n), room, 7
			ok(t, tx.AddStickyEvent(s, now, 10, 10))
		}
		add(1, 1, storage.StickyEvent{ExpiresTS: now + 1, Local: true})
		add(2, 2, storage.StickyEvent{ExpiresTS: now, Local: true})
		add(3, 3, storage.StickyEvent{ExpiresTS: now + 1})
		add(4, 4, storage.StickyEvent{ExpiresTS: now + 1, Local: true, Refused: true})
		for room := range ident.RoomNID(5) {
			ok(t, tx.OweSticky("other", room+1, now), tx.OweSticky("other", room+1, now))
		}
		if owed := got[[]storage.DestinationRoom](t)(tx.DestinationRooms()); fmt.Sprint(owed) != "[{other 1}]" {
			t.Errorf("owed are %v", owed)
		}
		return nil
	})
}
