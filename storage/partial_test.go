package storage_test

import (
	"slices"
	"testing"

	"ebb/ident"
	"ebb/storage"
)

func TestPartialRoomsAreKeptAndCompleted(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		ok(t,
			tx.InsertRoom(&storage.RoomRow{NID: 1, RoomID: "!r:x", Version: "11"}),
			tx.EnterRoom(&storage.RoomRow{NID: 1, Depth: 3, PartialJoin: 7, PartialServers: []string{"a", "b"}}))
		if rooms := got[[]ident.RoomNID](t)(tx.PartialRooms()); !slices.Equal(rooms, []ident.RoomNID{1}) {
			t.Errorf("partial rooms are %v", rooms)
		}
		row, _, err := tx.RoomByNID(1)
		if row.PartialJoin != 7 || !slices.Equal(row.PartialServers, []string{"a", "b"}) || row.Completed != 0 {
			t.Errorf("the room is %+v", row)
		}
		ok(t, err, tx.CompleteRoom(1, 12))
		row, _, err = tx.RoomByNID(1)
		if row.PartialJoin != 0 || len(row.PartialServers) != 0 || row.Completed != 12 {
			t.Errorf("the completed room is %+v", row)
		}
		if rooms := got[[]ident.RoomNID](t)(tx.PartialRooms()); len(rooms) > 0 {
			t.Errorf("partial rooms are %v", rooms)
		}
		return err
	})
}

func TestWhatARoomTookInIsReadInOrderAndJudgedAnew(t *testing.T) {
	flagged := func(flags storage.EventFlags) func(*storage.EventRow) {
		return func(e *storage.EventRow) { e.Flags, e.Order = flags, 0 }
	}
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		for i, more := range []func(*storage.EventRow){
			func(*storage.EventRow) {}, flagged(storage.RejectedEvent), flagged(storage.OutlierEvent), flagged(storage.OutlierEvent | storage.RejectedEvent), func(*storage.EventRow) {},
		} {
			ok(t, tx.InsertEvent(event(10+i, more)))
		}
		var taken []string
		for after := storage.Pos(9); ; {
			rows := got[[]storage.EventRow](t)(tx.ReceivedSince(1, after, 2))
			for _, r := range rows {
				taken, after = append(taken, r.EventID), r.Position
			}
			if len(rows) < 2 {
				break
			}
		}
		if !slices.Equal(taken, []string{"$10", "$11", "$14"}) { // the others have no position
			t.Errorf("taken in: %v", taken)
		}
		ok(t, tx.InsertEventPush(9, 1, 10, 1), tx.RejudgeEvent(10, "$10", 0, 77, storage.RejectedEvent))
		e, _, err := tx.EventAt(10)
		if e.Order != 0 || e.Snapshot != 77 || e.Flags != storage.RejectedEvent {
			t.Errorf("the event is %+v", e)
		}
		ok(t, err)
		if push := got[int64](t)(tx.EventPush(9, 1, 10)); push != 0 {
			t.Errorf("it still notifies: %d", push)
		}
		return nil
	})
}

func TestDeviceChangesAreNewsAgainForWhoBecameKnown(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		known := tx.NextPos()
		ok(t,
			tx.SetMembership(storage.MemberRow{User: 1, Room: 5, Membership: "join", Position: 1}),
			tx.SetMembership(storage.MemberRow{User: 2, Room: 5, Membership: "join", Position: 1, Changed: known, JoinedPos: 1}),
			tx.SetMembership(storage.MemberRow{User: 3, Room: 5, Membership: "join", Position: 1}))
		since := tx.NextPos()
		got[storage.Pos](t)(tx.DeviceListChanged(2))
		got[storage.Pos](t)(tx.DeviceListChanged(3))
		changed := tx.NextPos()
		ok(t, tx.RepeatDeviceChanges(5, known, since))
		if news := got[[]ident.UserNID](t)(tx.DeviceListChanges(1, changed, changed+100)); !slices.Equal(news, []ident.UserNID{2}) {
			t.Errorf("news of %v", news)
		}
		if joined := got[[]ident.UserNID](t)(tx.JoinedAfter(5, []ident.UserNID{2, 3}, 0)); !slices.Contains(joined, 2) {
			t.Errorf("%v have joined after 0", joined)
		}
		if joined := got[[]ident.UserNID](t)(tx.JoinedAfter(5, []ident.UserNID{2, 3}, 1)); slices.Contains(joined, 2) {
			t.Errorf("%v have joined after 1", joined)
		}
		return nil
	})
}
