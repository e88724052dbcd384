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

// A user can have 16 MiB of account data with a million references to media. One write must not delete all of it.
func TestErasingAUserWithMuchDataTakesSmallWrites(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		user, other := got[ident.UserNID](t)(tx.UserNID("@a:here")), got[ident.UserNID](t)(tx.UserNID("@b:here"))
		for i := range 30 {
			content := fmt.Sprintf(`{"a":"mxc://here/%d","b":"mxc://elsewhere/%d"}`, i, i)
			ok(t, tx.SetAccountData(user, ident.RoomNID(i%3), fmt.Sprint("t", i), content), tx.SetAccountData(other, 0, fmt.Sprint("t", i), content))
			ok(t, insert(tx, []any{"receipts (room_nid, user_nid, type, thread, event_id, ord, ts, position)", i, int64(user), "m.read.private", "", "$e", 1, 1, 1}),
				insert(tx, []any{"backup_keys (user_nid, version, room_id, session_id, first_message_index, forwarded_count, is_verified, session_data)", int64(user), 1, "!r", fmt.Sprint(i), 0, 0, 0, "{}"}))
		}
		rows := func(of ident.UserNID) int64 {
			return got[int64](t)(tx.Int64(`SELECT (SELECT count(*) FROM account_data WHERE user_nid = $1) + (SELECT count(*) FROM receipts WHERE user_nid = $1)
+ (SELECT count(*) FROM backup_keys WHERE user_nid = $1) + (SELECT count(*) FROM media_refs WHERE owner = $1)`, int64(of)))
		}
		before, others := rows(user), rows(other)
		if before != 150 {
			t.Errorf("the user has %d rows, want 30 each of account data, receipts and backups, and 60 references", before)
		}
		for left := before; left > 0; {
			n := got[int](t)(tx.EraseDataPart(user, 7))
			now := rows(user)
			if left-now != int64(n) || n > 7 || n == 0 {
				t.Fatalf("%d rows were deleted, and %d are said to be", left-now, n)
			}
			left = now
		}
		if n := got[int](t)(tx.EraseDataPart(user, 7)); n != 0 {
			t.Errorf("%d more rows were deleted", n)
		}
		if now := rows(other); now != others {
			t.Errorf("another user has %d rows left of %d", now, others)
		}
		return nil
	})
}
