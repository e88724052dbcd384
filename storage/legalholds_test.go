package storage_test

import (
	"testing"

	"ebb/storage"
)

// A hold that was added after a backup is added again from the ledger, once, and only if its user is in the backup.
func TestAHoldIsAddedAgainFromTheLedger(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		user, err := tx.UserNID("@a:x")
		ok(t, err)
		for _, c := range []struct {
			ref  int64
			name string
			want bool
		}{{int64(user), "user 5000", true}, {int64(user), "user 5000", false}, {int64(user) + 1000, "user 5000", false}, {int64(user), "room 5000", false}} {
			nid := int64(77)
			if !c.want && c.name == "room 5000" || c.ref != int64(user) {
				nid = 78
			}
			added, err := tx.AddHoldAgain(storage.LedgerEntry{Kind: storage.LedgerHold, Ref: c.ref, Value: nid, Name: c.name, TS: 9})
			if ok(t, err); added != c.want {
				t.Errorf("%+v: added %v", c, added)
			}
		}
		if nid, held, err := tx.HoldOn(0, user); err != nil || !held || nid != 77 {
			t.Errorf("the hold is %d, %v, %v", nid, held, err)
		}
		_, err = tx.LiftLegalHold(77, "ledger", 10)
		ok(t, err)
		if _, held, err := tx.HoldOn(0, user); err != nil || held {
			t.Errorf("after it was lifted: held %v, %v", held, err)
		}
		return nil
	})
}
