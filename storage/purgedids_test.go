package storage_test

import (
	"fmt"
	"testing"

	"ebb/ident"
	"ebb/storage"
)

func TestPurgedIDsAreRememberedUntilTheyAreForgotten(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		const n = 60
		var batch []storage.PurgeCandidate
		for i := 1; i <= n; i++ {
			e := event(i)
			e.Sender = got[ident.UserNID](t)(tx.UserNID(fmt.Sprintf("@user%d:test", i%7)))
			e.RedactedBy = 0
			if i == 5 {
				e.RedactedBy = 6
			}
			ok(t, tx.InsertEvent(e))
			batch = append(batch, storage.PurgeCandidate{Room: e.Room, Position: e.Position, EventID: e.EventID, Sender: e.Sender, Redacted: i == 5})
		}
		ok(t, tx.PurgeEvents(batch[:n-1], nil, true))
		room := event(1).Room
		for i := 1; i <= n; i++ {
			user, found, err := tx.PurgedSender(room, fmt.Sprint("$", i))
			ok(t, err)
			if want := i != 5 && i != n; found != want || found && user != fmt.Sprintf("@user%d:test", i%7) {
				t.Errorf("event %d: the sender is %q (%v), want one: %v", i, user, found, want)
			}
		}
		if _, found, err := tx.PurgedSender(room+1, "$1"); found || err != nil {
			t.Errorf("another room has the event (%v)", err)
		}
		now := tx.Now().UnixMilli()
		if more, err := tx.ForgetPurged(now, 1000); more || err != nil {
			t.Errorf("more to forget: %v, %v", more, err)
		}
		if _, found, _ := tx.PurgedSender(room, "$1"); !found {
			t.Error("an event is forgotten too early")
		}
		for more := true; more; {
			var err error
			more, err = tx.ForgetPurged(now+1, 3)
			ok(t, err)
		}
		if _, found, _ := tx.PurgedSender(room, "$1"); found {
			t.Error("an event is not forgotten")
		}
		return nil
	})
}
