package storage_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"ebb/ident"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// pages reads a list to its end, limit rows at a time, and calls between after each page that is not the last one.
func pages[T, K any](t *testing.T, limit int, read func(after K, limit int) ([]T, error), key func(T) K, between func()) (all []T) {
	t.Helper()
	var after K
	for {
		page := got[[]T](t)(read(after, limit))
		all = append(all, page...)
		if len(page) < limit {
			return all
		}
		after = key(page[limit-1])
		between()
	}
}

func same[T any](v T) T { return v }

func TestRoomsThatComeAndGoBetweenPagesHideNoOthers(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		for nid := range ident.RoomNID(10) {
			ok(t, tx.InsertRoom(&storage.RoomRow{NID: nid + 1, RoomID: fmt.Sprint("!", nid+1), Version: "12"}))
			ok(t, tx.SetPublished(nid+1, nid%2 == 0)) // 1, 3, 5, 7, 9
		}
		insert := func() {
			ok(t, tx.InsertRoom(&storage.RoomRow{NID: 11, RoomID: "!11", Version: "12"}))
		}
		once := func(f func()) func() { return func() { f(); f = func() {} } }
		if all := pages(t, 3, tx.AllRooms, same, once(insert)); !slices.Equal(all, []ident.RoomNID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}) {
			t.Errorf("the rooms are %v", all)
		}
		change := func() { // the last one of the first page goes, and others before and behind it come and go
			ok(t, tx.SetPublished(3, false), tx.SetPublished(2, true), tx.SetPublished(7, false), tx.SetPublished(10, true))
		}
		if all := pages(t, 2, tx.PublishedRooms, same, once(change)); !slices.Equal(all, []ident.RoomNID{1, 3, 5, 9, 10}) {
			t.Errorf("the published rooms are %v", all)
		}
		rows := pages(t, 4, tx.RoomRows, func(r storage.RoomRow) ident.RoomNID { return r.NID }, func() {})
		if len(rows) != 11 || rows[10].RoomID != "!11" || rows[4].RoomID != "!5" {
			t.Errorf("the rows are %+v", rows)
		}
		return nil
	})
}

func TestRoomsWithPolicyAreThoseWithAnOverrideOrAnEvent(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		for nid := range ident.RoomNID(8) {
			ok(t, tx.InsertRoom(&storage.RoomRow{NID: nid + 1, RoomID: fmt.Sprint("!", nid+1), Version: "12"}))
		}
		ok(t, tx.SetRetentionOverride(2, true, nil, nil, 0), tx.SetCurrentState(3, "m.room.retention", "", 50, 0), tx.SetCurrentState(4, "m.room.retention", "key", 51, 0),
			tx.SetCurrentState(5, "m.room.name", "", 52, 0), tx.SetCurrentState(6, "org.matrix.msc1763.retention", "", 53, 0),
			tx.SetCurrentState(6, "m.room.retention", "", 54, 0), tx.SetRetentionOverride(6, true, nil, nil, 0), tx.SetRetentionOverride(8, true, nil, nil, 0))
		if all := pages(t, 2, tx.RoomsWithPolicy, same, func() {}); !slices.Equal(all, []ident.RoomNID{2, 3, 6, 8}) {
			t.Errorf("the rooms are %v", all)
		}
		return nil
	})
}

func TestRoomsAreDescribedByTheirCurrentState(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		put := func(n int, room ident.RoomNID, typ, key string) {
			e := event(n, func(e *storage.EventRow) { e.Room, e.Type, e.StateKey, e.IsState = room, typ, key, true })
			ok(t, tx.InsertEvent(e), tx.SetCurrentState(room, typ, key, e.Position, 0))
		}
		put(1, 1, "m.room.name", "")
		put(2, 1, "m.room.name", "key")
		put(3, 1, "m.room.topic", "")
		put(4, 1, "m.room.name", "") // replaces the first
		put(5, 2, "m.room.retention", "")
		put(6, 3, "m.room.encryption", "")
		events := got[[]storage.EventRow](t)(tx.DescribingState([]ident.RoomNID{1, 2}))
		slices.SortFunc(events, func(a, b storage.EventRow) int { return int(a.Position - b.Position) })
		if len(events) != 2 || events[0].Position != 4 || events[0].Room != 1 || events[1].Position != 5 {
			t.Errorf("the state is %+v", events)
		}
		for user, m := range []string{"join", "join", "leave", "invite"} {
			ok(t, tx.SetMembership(storage.MemberRow{User: ident.UserNID(user), Room: 1, Membership: m, Position: 9}))
			ok(t, tx.SetMembership(storage.MemberRow{User: ident.UserNID(user), Room: 3, Membership: "join", Position: 9}))
		}
		if counts := got[map[ident.RoomNID]int64](t)(tx.JoinedCounts([]ident.RoomNID{1, 2})); len(counts) != 1 || counts[1] != 2 {
			t.Errorf("the counts are %v", counts)
		}
		return nil
	})
}

func TestTokensThatComeAndGoBetweenPagesHideNoOthers(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		add := func(name string, ts int64) {
			t.Helper()
			ok(t, db.Write(ctx, func(tx *storage.Tx) error {
				_, err := tx.AddRegistrationToken(storage.RegistrationToken{Token: name, CreatedTS: ts})
				return err
			}))
		}
		for i, name := range strings.Fields("e d c b a") {
			add(name, int64(100+i/2)) // d, e; b, c; a
		}
		read := func(after storage.RegistrationToken, limit int) (page []storage.RegistrationToken, err error) {
			err = db.Read(ctx, func(tx *storage.Tx) error {
				page, err = tx.RegistrationTokens(after.CreatedTS, after.Token, limit)
				return err
			})
			return page, err
		}
		turned := 0
		all := pages(t, 2, read, same, func() {
			if turned++; turned > 1 {
				return
			}
			ok(t, db.Write(ctx, func(tx *storage.Tx) error { // where the first page ended, and one to come
				_, err1 := tx.DeleteRegistrationToken("e")
				_, err2 := tx.DeleteRegistrationToken("c")
				return errors.Join(err1, err2)
			}))
			add("z", 200)
		})
		names := ""
		for _, token := range all {
			names += token.Token
		}
		if names != "debaz" {
			t.Errorf("the tokens are %s, want d, e, b, a, z", names)
		}
	})
}
