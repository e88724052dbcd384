package storage_test

import (
	"testing"

	"ebb/ident"
	"ebb/storage"
)

func TestRequestsToRedactOwnMessagesFromRequestToEnd(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		alice, bob := got[ident.UserNID](t)(tx.UserNID("@alice:test")), got[ident.UserNID](t)(tx.UserNID("@bob:test"))
		ok(t, tx.InsertRoom(&storage.RoomRow{NID: 1, RoomID: "!1", Version: "12"}))
		first := &storage.OwnRedaction{User: alice, Room: 1, Before: 7, Reason: "spam", Daily: true}
		second, third := &storage.OwnRedaction{User: bob}, &storage.OwnRedaction{User: alice}
		ok(t, tx.AddOwnRedaction(first), tx.AddOwnRedaction(second), tx.AddOwnRedaction(third))
		rows := got[[]storage.OwnRedaction](t)(tx.OwnRedactions(alice, 10))
		if len(rows) != 2 || rows[1].UserID != "@alice:test" || rows[1].RoomID != "!1" || rows[1].Before != 7 || rows[1].Reason != "spam" || !rows[1].Daily || rows[0].Daily {
			t.Fatalf("stored are %+v", rows)
		}
		if n := got[int64](t)(tx.PendingOwnRedactions(alice)); n != 2 {
			t.Errorf("%d requests are pending", n)
		}
		to := storage.OwnProgress{Counted: true, AtRoom: 1, AtOrder: 3, Expected: 4, Redacted: 5, Removed: 6, FinishedTS: 7}
		if found := got[bool](t)(tx.AdvanceOwnRedaction(first.Position, to)); !found {
			t.Error("the request was not found")
		}
		if rows = got[[]storage.OwnRedaction](t)(tx.OwnRedactions(alice, 10)); rows[1].OwnProgress != to {
			t.Errorf("after a step: %+v", rows[1].OwnProgress)
		}
		next, _, err := tx.NextOwnRedaction(0)
		if ok(t, err); next.Position != second.Position {
			t.Errorf("the next request is %+v", next)
		}
		ok(t, tx.TrimOwnRedactions(alice, 1))
		if rows = got[[]storage.OwnRedaction](t)(tx.OwnRedactions(alice, 10)); len(rows) != 1 || rows[0].Position != third.Position {
			t.Errorf("after trimming: %+v", rows)
		}
		if n := got[int64](t)(tx.CancelOwnRedactions(alice)); n != 1 {
			t.Errorf("%d requests were cancelled", n)
		}
		if found := got[bool](t)(tx.AdvanceOwnRedaction(third.Position, to)); found {
			t.Error("a cancelled request was found")
		}
		return nil
	})
}
