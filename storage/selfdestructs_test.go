package storage_test

import (
	"math"
	"testing"

	"ebb/ident"
	"ebb/storage"
)

// Beyond the bound, the oldest messages are destroyed at once.
func TestTheOldestOfTooManySelfDestructsAreDue(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		user, err := tx.UserNID("@a:x")
		ok(t, err)
		for p := storage.Pos(1); p <= 4; p++ {
			ok(t, tx.AddSelfDestruct(&storage.SelfDestruct{Position: p, Room: 1, Sender: user, DueTS: math.MaxInt64, AfterRead: 5}, 2, 100))
		}
		ok(t, tx.AddSelfDestruct(&storage.SelfDestruct{Position: 5, Room: 2, Sender: user, DueTS: 200, AfterRead: -1}, 2, 100))
		due, err := tx.DueSelfDestructs(100, 10)
		if ok(t, err); len(due) != 2 || due[0].Position != 1 || due[1].Position != 2 || due[0].UserID != "@a:x" {
			t.Errorf("due is %+v", due)
		}
		for _, d := range due {
			ok(t, tx.DeleteSelfDestruct(d.Position))
		}
		next, err := tx.NextSelfDestruct()
		ok(t, err)
		waiting, err := tx.RoomsWithUnread(0, 10)
		ok(t, err)
		if next != 200 || len(waiting) != 1 || waiting[0] != ident.RoomNID(1) {
			t.Errorf("the next one is due at %d, rooms wait: %v", next, waiting)
		}
		return nil
	})
}
