package storage_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"ebb/ident"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// keptRoomTables are the tables with the number of a room from which a removal deletes nothing, and why.
var keptRoomTables = map[string]string{
	"removed_rooms":      "the room that is being removed; FinishRemovedRoom deletes the row",
	"legal_holds":        "who held what when; a room under a hold is not removed",
	"deletion_counts":    "what was deleted, until there is a receipt of it",
	"pending_receipts":   "the same",
	"deletion_receipts":  "the receipts",
	"body_keys":          "RetireKeys destroys the keys of texts that are deleted",
	"related_redactions": "the room stays while there is one",
}

// oneRowTables have one row for each room, or for each room and user.
var oneRowTables = []string{"room_policies", "memberships", "stripped_state", "own_redaction_marks", "device_tellings", "notice_rooms", "message_lifetimes", "state_sweeps"}

// addRoomRow adds a row about a room to a table: of one user, and of one event if the table has a position.
func addRoomRow(tx *storage.Tx, table string, columns map[string]string, room, user, event, number int64) error {
	names := slices.Sorted(maps.Keys(columns))
	row := []any{table + " (" + strings.Join(names, ", ") + ")"}
	for _, name := range names {
		value := any(fmt.Sprint("value ", number))
		if columns[name] == "BIGINT" || columns[name] == "INTEGER" {
			value = number
		}
		switch name {
		case "room_nid":
			value = room
		case "user_nid":
			value = user
		case "position", "root", "nid":
			value = event
		case "body_key", "finished_ts", "lifted_ts":
			value = 1
		}
		row = append(row, value)
	}
	return insert(tx, row)
}

// Every table that mentions a room must have a rule by which a removal of the room deletes its rows.
func TestNothingIsLeftOfARemovedRoom(t *testing.T) {
	tables := tablesWith(t, "room_nid")
	if len(tables) < 30 {
		t.Fatalf("only %d tables with rooms", len(tables))
	}
	const user, gone, other = 5, 6, 7
	db := storagetest.Open(t, storage.Config{})
	ok(t, db.Write(ctx, func(tx *storage.Tx) error {
		for i, room := range []int64{gone, other} {
			for k := range int64(3) {
				event := 100*int64(i+1) + k
				for _, table := range slices.Sorted(maps.Keys(tables)) {
					if keptRoomTables[table] != "" || k > 0 && slices.Contains(oneRowTables, table) || table == "notice_rooms" && room == other {
						continue
					}
					if err := addRoomRow(tx, table, tables[table], room, user, event, event); err != nil {
						return fmt.Errorf("%s: %w", table, err)
					}
				}
			}
			ok(t, tx.InsertRoom(&storage.RoomRow{NID: ident.RoomNID(room), RoomID: fmt.Sprint("!", room), Version: "12"}))
			ok(t, tx.InsertStateDelta(100*int64(i+1), "m.room.name", "", 1), tx.InsertStateDelta(100*int64(i+1), "m.room.topic", "", 1))
		}
		return nil
	}))
	ok(t, db.Write(ctx, func(tx *storage.Tx) error {
		return tx.RemoveRoom(storage.RemovedRoom{NID: gone, RoomID: "!6", Servers: []string{"there"}}, []ident.UserNID{user})
	}))
	events, steps := 0, 0
	for more := true; more; steps++ {
		ok(t, db.Write(ctx, func(tx *storage.Tx) (err error) {
			var n int
			n, more, err = tx.RemoveRoomRows(gone, 2)
			events += n
			return err
		}))
	}
	if events != 3 || steps < 10 {
		t.Errorf("%d events were deleted in %d steps, want 3 in many", events, steps)
	}
	ok(t, db.Read(ctx, func(tx *storage.Tx) error {
		for table := range tables {
			if keptRoomTables[table] != "" {
				continue
			}
			left := got[int64](t)(tx.Int64(`SELECT count(*) FROM `+table+` WHERE room_nid = $1`, gone))
			if left != 0 {
				t.Errorf("%s has %d rows about the removed room: it needs an entry in roomRows, or a reason in this test", table, left)
			}
			if n := got[int64](t)(tx.Int64(`SELECT count(*) FROM `+table+` WHERE room_nid = $1`, other)); n == 0 && table != "notice_rooms" {
				t.Errorf("%s has no row about the other room any more", table)
			}
		}
		if n := got[int64](t)(tx.Int64(`SELECT count(*) FROM state_deltas WHERE snapshot BETWEEN 100 AND 199`)); n != 0 {
			t.Errorf("%d entries of states are left", n)
		}
		if n := got[int64](t)(tx.Int64(`SELECT count(*) FROM state_deltas WHERE snapshot BETWEEN 200 AND 299`)); n != 2 {
			t.Errorf("%d entries of states of the other room are left, want 2", n)
		}
		if _, found, err := tx.RoomByNID(gone); err != nil || found {
			t.Errorf("the room is still found: %v, %v", found, err)
		}
		rooms := got[[]storage.RemovedRoom](t)(tx.RemovedRooms(0, 10))
		if len(rooms) != 1 || rooms[0].RoomID != "!6" || !slices.Equal(rooms[0].Servers, []string{"there"}) {
			t.Errorf("the removed rooms are %+v", rooms)
		}
		return nil
	}))
}

func TestARoomThatWasRemovedAfterABackupIsRemovedAgain(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		ok(t, tx.InsertRoom(&storage.RoomRow{NID: 6, RoomID: "!6", Version: "12"}))
		_, err := tx.AddAccount(storage.AccountRow{NID: 5, Localpart: "alice"}, "")
		ok(t, err, tx.SetMembership(storage.MemberRow{User: 5, Room: 6, Membership: "join", Position: 9}))
		for i, want := range []bool{true, false} {
			if removed := got[bool](t)(tx.RemoveRoomAgain(6)); removed != want {
				t.Errorf("attempt %d: removed %v, want %v", i+1, removed, want)
			}
		}
		if rows := got[[]storage.MemberRow](t)(tx.UserMemberships(5)); len(rows) != 0 {
			t.Errorf("the user is still in %d rooms", len(rows))
		}
		if rooms := got[[]storage.RemovedRoom](t)(tx.RemovedRooms(0, 10)); len(rooms) != 1 {
			t.Errorf("%d rooms are being removed, want 1", len(rooms))
		}
		return nil
	})
}
