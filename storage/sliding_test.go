package storage_test

import (
	"slices"
	"testing"

	"ebb/ident"
	"ebb/storage"
)

func TestSlidingConnectionKeepsTheConfirmedStateAndTheNext(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		nid := got[int64](t)(tx.AddSliding(storage.SlidingConnection{User: 1, Device: 2, ConnID: "a", Used: 5}))
		other := got[int64](t)(tx.AddSliding(storage.SlidingConnection{User: 1, Device: 2, ConnID: "b", Used: 9}))
		for follows, s := range []storage.SlidingState{{Serial: 1, State: "x"}, {Serial: 2, State: "y"}, {Serial: 3, State: "z"}} {
			ok(t, tx.AddSlidingState(nid, int64(follows), s))
		}
		ok(t, tx.AddSlidingState(nid, 2, storage.SlidingState{Serial: 4, State: "again from 2"}), tx.AddSlidingState(other, 0, storage.SlidingState{Serial: 1}))
		want := []storage.SlidingState{{Serial: 2, State: "y"}, {Serial: 4, State: "again from 2"}}
		if states := got[[]storage.SlidingState](t)(tx.SlidingStates(nid)); !slices.Equal(states, want) {
			t.Errorf("states %v", states)
		}
		if found := got[bool](t)(tx.SlidingUsed(nid, 20)); !found {
			t.Error("the connection is gone")
		}
		list := got[[]storage.SlidingConnection](t)(tx.SlidingOfDevice(1, 2))
		if len(list) != 2 || list[0].ConnID != "b" || list[1] != (storage.SlidingConnection{NID: nid, User: 1, Device: 2, ConnID: "a", Used: 20}) {
			t.Errorf("connections %v", list)
		}
		if old := got[[]int64](t)(tx.OldSliding(20, 10)); !slices.Equal(old, []int64{other}) {
			t.Errorf("old %v", old)
		}
		ok(t, tx.DropSliding([]int64{nid}))
		if found := got[bool](t)(tx.SlidingUsed(nid, 30)); found || len(got[[]storage.SlidingState](t)(tx.SlidingStates(nid))) != 0 {
			t.Error("the connection or a state is still there")
		}
		return nil
	})
}

func TestSlidingConnectionsGoWithTheirDevice(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		user := got[ident.UserNID](t)(tx.UserNID("@a:here"))
		device := got[ident.DeviceNID](t)(tx.AddDevice(user, "D", nil))
		nid := got[int64](t)(tx.AddSliding(storage.SlidingConnection{User: user, Device: device}))
		ok(t, tx.AddSlidingState(nid, 0, storage.SlidingState{Serial: 1}), tx.DeleteDevice(device))
		if n := got[int](t)(tx.DeleteLeftovers(10)); n != 3 {
			t.Errorf("%d rows were deleted, want a state, a connection and the note of the device", n)
		}
		if list := got[[]storage.SlidingConnection](t)(tx.SlidingOfDevice(user, device)); len(list) != 0 {
			t.Errorf("connections %v", list)
		}
		if states := got[[]storage.SlidingState](t)(tx.SlidingStates(nid)); len(states) != 0 {
			t.Errorf("states %v", states)
		}
		return nil
	})
}

func TestBumpIsTheNewestEventOfTheTypesThatBump(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		var at []storage.Pos
		for i, typ := range []string{"m.room.create", "m.room.message", "m.reaction", "m.room.message", "m.room.topic"} {
			pos := tx.NextPos()
			row := storage.EventRow{Position: pos, Room: 7, Order: ident.Order(pos) << 16, EventID: string(rune('a' + i)), Type: typ, JSON: []byte("{}")}
			if i == 3 {
				row.Flags = storage.SoftFailedEvent
			}
			ok(t, tx.InsertEvent(&row))
			at = append(at, pos)
		}
		if pos := got[storage.Pos](t)(tx.Bump(7, ident.Order(at[4])<<16)); pos != at[1] {
			t.Errorf("bump at %d, want %d", pos, at[1])
		}
		if pos := got[storage.Pos](t)(tx.Bump(7, ident.Order(at[0])<<16)); pos != at[0] {
			t.Errorf("bump at %d, want %d", pos, at[0])
		}
		if pos := got[storage.Pos](t)(tx.Bump(8, ident.Order(at[4])<<16)); pos != 0 {
			t.Errorf("bump of an empty room at %d", pos)
		}
		return nil
	})
}
