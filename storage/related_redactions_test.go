package storage_test

import (
	"testing"

	"ebb/ident"
	"ebb/storage"
)

func TestRelatedRedactionsFromRequestToEnd(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		alice := got[ident.UserNID](t)(tx.UserNID("@alice:test"))
		ok(t, tx.InsertRoom(&storage.RoomRow{NID: 1, RoomID: "!1", Version: "12"}))
		first := &storage.RelatedRedaction{User: alice, Room: 1, EventID: "$a", RelTypes: `["*"]`, Reason: "spam", After: 5}
		second := &storage.RelatedRedaction{User: alice, Room: 1, EventID: "$b", RelTypes: `["*"]`, After: 7}
		again := *first
		again.After = 6
		ok(t, tx.AddRelatedRedaction(first), tx.AddRelatedRedaction(second), tx.AddRelatedRedaction(&again))
		rows := got[[]storage.RelatedRedaction](t)(tx.RelatedRedactions(0, 10))
		if len(rows) != 2 || rows[0].EventID != "$b" || rows[1].After != 6 || rows[1].Reason != "spam" || rows[1].UserID != "@alice:test" || rows[1].RoomID != "!1" {
			t.Fatalf("stored are %+v", rows)
		}
		ok(t, tx.AdvanceRelatedRedaction(second.Position, 70))
		if rows = got[[]storage.RelatedRedaction](t)(tx.RelatedRedactions(0, 1)); rows[0].After != 70 {
			t.Errorf("after a step: %+v", rows)
		}
		ok(t, tx.DeleteRelatedRedaction(second.Position))
		if rows = got[[]storage.RelatedRedaction](t)(tx.RelatedRedactions(second.Position, 10)); len(rows) != 1 || rows[0].EventID != "$a" {
			t.Errorf("after a deletion: %+v", rows)
		}
		return nil
	})
}
