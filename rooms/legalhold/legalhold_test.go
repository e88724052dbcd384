package legalhold_test

import (
	"fmt"
	"slices"
	"testing"

	"ebb/ident"
	"ebb/rooms/legalhold"
	"ebb/storage"
	"ebb/storage/storagetest"
)

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write runs f in a write on each database.
func write(t *testing.T, f func(t *testing.T, tx *storage.Tx) error) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ok(t, db.Write(t.Context(), func(tx *storage.Tx) error { return f(t, tx) }))
	})
}

// hold adds a hold on a room or a user.
func hold(t *testing.T, tx *storage.Tx, room ident.RoomNID, user ident.UserNID) int64 {
	t.Helper()
	nid, err := tx.AddLegalHold(storage.LegalHold{Room: room, User: user, Reason: "case 7", AddedBy: "@a:x", ReviewTS: 5})
	ok(t, err)
	return nid
}

func TestHoldsAreLoadedAndCounted(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ok(t, db.Write(t.Context(), func(tx *storage.Tx) error {
			hold(t, tx, 1, 0)
			hold(t, tx, 1, 0)
			hold(t, tx, 0, 7)
			return nil
		}))
		var s legalhold.Set
		ok(t, s.Load(t.Context(), db))
		if !s.Room(1) || !s.User(7) || !s.Held(1, 8) || !s.Held(2, 7) || s.Held(2, 8) || s.Held(0, 0) {
			t.Error("the holds that were loaded do not cover exactly the room and the user")
		}
		for n, want := range []bool{true, false} {
			s.Apply([]legalhold.Change{{Room: 1, Lifted: true}})
			if s.Room(1) != want || s.Lifted() != int64(n+1) {
				t.Errorf("%d of two holds on a room were lifted: held is %v, lifted %d", n+1, !want, s.Lifted())
			}
		}
		if n := testing.AllocsPerRun(100, func() { s.Held(1, 7) }); n != 0 {
			t.Errorf("the question allocates %v times", n)
		}
	})
}

// room stores a room with a create event and a tombstone that name other rooms; "" stands for none.
func room(t *testing.T, tx *storage.Tx, id, predecessor, replacement string) ident.RoomNID {
	t.Helper()
	nid := ident.RoomNID(tx.NextPos())
	ok(t, tx.InsertRoom(&storage.RoomRow{NID: nid, RoomID: id, Version: "11"}))
	for typ, content := range map[string]string{
		"m.room.create": fmt.Sprintf(`{"predecessor":{"room_id":%q}}`, predecessor), "m.room.tombstone": fmt.Sprintf(`{"replacement_room":%q}`, replacement),
	} {
		p := tx.NextPos()
		ok(t, tx.InsertEvent(&storage.EventRow{Position: p, Room: nid, EventID: "$" + typ + id, Type: typ, IsState: true, JSON: []byte(`{"content":` + content + `}`)}))
		ok(t, tx.SetCurrentState(nid, typ, "", p, 0))
	}
	return nid
}

func TestAHoldFollowsUpgradesOnWhichBothRoomsAgree(t *testing.T) {
	write(t, func(t *testing.T, tx *storage.Tx) error {
		first := room(t, tx, "!1:x", "!unknown:x", "!2:x")
		second := room(t, tx, "!2:x", "!1:x", "!3:x")
		third := room(t, tx, "!3:x", "!2:x", "!lost:x")
		claims := room(t, tx, "!claims:x", "!2:x", "") // says that it replaces the second
		lost := room(t, tx, "!lost:x", "!other:x", "") // is named by the third
		broken := ident.RoomNID(tx.NextPos())
		ok(t, tx.InsertRoom(&storage.RoomRow{NID: broken, RoomID: "!broken:x", Version: "11"}))
		nid := hold(t, tx, second, 0)
		added, err := legalhold.Follow(tx, second)
		ok(t, err)
		if len(added) != 2 || !slices.Contains(added, legalhold.Change{Room: first}) || !slices.Contains(added, legalhold.Change{Room: third}) {
			t.Errorf("the hold is extended to %v, want %d and %d", added, first, third)
		}
		for _, r := range []ident.RoomNID{first, second, third, claims, lost, broken} {
			again, err := legalhold.Follow(tx, r)
			ok(t, err)
			by, held, err := tx.HoldOn(r, 0)
			ok(t, err)
			if want := r <= third; held != want || held && by != nid || len(again) != 0 {
				t.Errorf("room %d: held %v by %d, want %v by %d; added again: %v", r, held, by, want, nid, again)
			}
		}
		// Another hold covers all of them too, and is lifted by itself.
		other := hold(t, tx, first, 0)
		if added, err = legalhold.Follow(tx, first); err != nil || len(added) != 2 {
			t.Errorf("another hold is extended to %v, %v", added, err)
		}
		lifted, err := tx.LiftLegalHold(nid, "@b:x", 9)
		if ok(t, err); len(lifted) != 3 {
			t.Errorf("with the first hold %v are lifted, want all three rooms", lifted)
		}
		if by, held, err := tx.HoldOn(third, 0); err != nil || !held || by != other {
			t.Errorf("then the third room is held: %v by %d, %v", held, by, err)
		}
		list, err := tx.LegalHolds(0, true, 10)
		ok(t, err)
		all, _, err := tx.CountLegalHolds(0)
		ok(t, err)
		if len(list) != 2 || all != 1 {
			t.Errorf("%d holds are listed and %d counted, want those that were added, 2, of which 1 stands", len(list), all)
		}
		return nil
	})
}

// A chain of upgrades that leads back to its beginning ends.
func TestAHoldFollowsACircleOnce(t *testing.T) {
	write(t, func(t *testing.T, tx *storage.Tx) error {
		first := room(t, tx, "!1:x", "!2:x", "!2:x")
		second := room(t, tx, "!2:x", "!1:x", "!1:x")
		self := room(t, tx, "!3:x", "!3:x", "!3:x")
		hold(t, tx, first, 0)
		hold(t, tx, self, 0)
		added, err := legalhold.Follow(tx, first)
		if ok(t, err); len(added) != 1 || added[0].Room != second {
			t.Errorf("the hold is extended to %v", added)
		}
		if added, err = legalhold.Follow(tx, self); err != nil || len(added) != 0 {
			t.Errorf("the hold on a room that replaces itself is extended to %v, %v", added, err)
		}
		return nil
	})
}

// A restored database gets the holds that were added after the backup from the ledger, and lifts all at once.
func TestAFollowingHoldIsAddedAgainFromTheLedger(t *testing.T) {
	write(t, func(t *testing.T, tx *storage.Tx) error {
		first, second := room(t, tx, "!1:x", "", "!2:x"), room(t, tx, "!2:x", "!1:x", "")
		for _, e := range []storage.LedgerEntry{{Ref: int64(first), Value: 70, Name: "room 5000"}, {Ref: int64(second), Value: 71, Name: "room 5000 70"}} {
			if added, err := tx.AddHoldAgain(e); err != nil || !added {
				t.Fatalf("%+v: %v, %v", e, added, err)
			}
		}
		if added, err := legalhold.Follow(tx, first); err != nil || len(added) != 0 {
			t.Errorf("the hold is extended again to %v, %v", added, err)
		}
		if _, err := tx.LiftLegalHold(70, "ledger", 9); err != nil {
			t.Fatal(err)
		}
		if _, held, err := tx.HoldOn(second, 0); err != nil || held {
			t.Errorf("after the hold was lifted the second room is held: %v, %v", held, err)
		}
		return nil
	})
}
