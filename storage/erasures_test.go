package storage_test

import (
	"reflect"
	"slices"
	"testing"

	"ebb/ident"
	"ebb/storage"
	"ebb/storage/storagetest"
)

func TestAnErasureFromRequestToEnd(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		alice, bob := got[ident.UserNID](t)(tx.UserNID("@alice:test")), got[ident.UserNID](t)(tx.UserNID("@bob:test"))
		if !got[bool](t)(tx.AddErasure(alice)) || got[bool](t)(tx.AddErasure(alice)) || !got[bool](t)(tx.AddErasure(bob)) {
			t.Error("not exactly one erasure of each user was added")
		}
		if list := got[[]storage.ErasureRow](t)(tx.Erasures(min(alice, bob), 10)); len(list) != 1 || list[0].User != max(alice, bob) {
			t.Errorf("after the first user there are %+v", list)
		}
		e, found, err := tx.Erasure(alice)
		if ok(t, err); !found || e.UserID != "@alice:test" || e.Stage != 0 || e.FinishedTS != 0 || e.RequestedTS == 0 {
			t.Fatalf("stored is %+v", e)
		}
		own := &storage.OwnRedaction{User: alice, Everything: true}
		ok(t, tx.AddOwnRedaction(own), tx.AddOwnRedaction(&storage.OwnRedaction{User: alice}))
		if n := got[int64](t)(tx.CancelOwnRedactions(alice)); n != 1 {
			t.Errorf("%d requests were cancelled, want only the one of the user", n)
		}
		got[bool](t)(tx.AdvanceOwnRedaction(own.Position, storage.OwnProgress{Redacted: 5, Removed: 6, FinishedTS: 7}))
		ok(t, tx.TrimOwnRedactions(alice, 0))
		if redacted, removed, err := tx.ErasureCounts(alice); err != nil || redacted != 5 || removed != 6 {
			t.Errorf("redacted are %d, removed %d, %v", redacted, removed, err)
		}
		e.Stage, e.Redacted, e.Removed, e.Media, e.AfterMedia, e.FinishedTS = 6, 1, 2, 3, "m", 4
		ok(t, tx.AdvanceErasure(&e))
		if again, _, err := tx.Erasure(alice); err != nil || !reflect.DeepEqual(again, e) {
			t.Errorf("stored is %+v, want %+v, %v", again, e, err)
		}
		if list := got[[]storage.ErasureRow](t)(tx.Erasures(0, 10)); len(list) != 1 || list[0].User != bob {
			t.Errorf("unfinished are %+v", list)
		}
		return nil
	})
}

func TestMediaToWhichOthersReferSurviveAnErasure(t *testing.T) {
	db := storagetest.Open(t, storage.Config{Server: "test"})
	ok(t, db.Write(ctx, func(tx *storage.Tx) error {
		alice := got[ident.UserNID](t)(tx.UserNID("@alice:test"))
		for _, m := range []storage.Media{{ID: "a", User: alice, Blob: "1"}, {ID: "b", User: alice, Blob: "2"}, {ID: "c", User: alice, Blob: "3"}, {ID: "d", User: alice + 1, Blob: "4"}, {ID: "e", User: alice}} {
			ok(t, tx.InsertMedia(m))
		}
		ok(t, tx.InsertEvent(event(1, func(e *storage.EventRow) { e.JSON = []byte(`{"url":"mxc://test/b"}`) })))
		var looked []string
		deleted := 0
		for after := ""; ; {
			last, n, err := tx.DeleteUserMedia(alice, after, 2)
			if ok(t, err); last == "" {
				break
			}
			after, deleted, looked = last, deleted+n, append(looked, last)
		}
		if deleted != 2 || !slices.Equal(looked, []string{"b", "e"}) {
			t.Errorf("%d were deleted; the pages end at %v", deleted, looked)
		}
		ok(t, tx.EraseEntirely(alice))
		for id, want := range map[string]bool{"a": false, "b": true, "c": false, "d": true, "e": false} {
			if _, found, err := tx.Media(id); err != nil || found != want {
				t.Errorf("%s is there: %v, want %v, %v", id, found, want, err)
			}
		}
		return nil
	}))
}
