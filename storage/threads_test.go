package storage_test

import (
	"fmt"
	"testing"

	"ebb/ident"
	"ebb/storage"
)

func TestThreadSubscriptionsByPosition(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		for n := 1; n <= 3; n++ {
			ok(t, tx.InsertEvent(event(n)))
		}
		const room = ident.RoomNID(1)
		ok(t, tx.InsertRoom(&storage.RoomRow{NID: room, RoomID: "!threads:test", Version: "11"}))
		ok(t, tx.SetThreadSubscription(7, room, 1, storage.SubscribedManually), tx.SetThreadSubscription(7, room, 2, storage.SubscribedAutomatically),
			tx.SetThreadSubscription(7, room, 1, storage.Unsubscribed), tx.SetThreadSubscription(8, room, 2, storage.SubscribedManually))
		all := got[[]storage.ThreadSubscription](t)(tx.ThreadSubscriptions(7, 0, 1<<40, 10))
		if len(all) != 2 || all[0].Root != "$1" || all[0].State != storage.Unsubscribed || all[1].State != storage.SubscribedAutomatically || all[0].RoomID != "!threads:test" {
			t.Fatalf("user 7 has %+v", all)
		}
		if rest := got[[]storage.ThreadSubscription](t)(tx.ThreadSubscriptions(7, all[1].Position, all[0].Position-1, 10)); len(rest) != 0 {
			t.Errorf("between the two: %+v", rest)
		}
		if users := got[[]ident.UserNID](t)(tx.ThreadSubscribers(2)); len(users) != 2 {
			t.Errorf("the subscribers are %v", users)
		}
		if n := got[int64](t)(tx.ForgetUnsubscribed(7, 1)); n != 1 {
			t.Errorf("%d rows are forgotten", n)
		}
		if found := got[map[storage.Pos]bool](t)(tx.WithDependents([]storage.PurgeCandidate{{Position: 2, EventID: "$2"}, {Position: 1, EventID: "$1"}})); !found[2] || found[1] {
			t.Errorf("events with dependents: %v", found)
		}
		ok(t, tx.PurgeEvent(2, "$2"))
		if n := got[int64](t)(tx.ThreadSubscriptionCount(7)); n != 0 {
			t.Errorf("%d rows are left", n)
		}
		return nil
	})
}

func TestProfileChangesByPosition(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		alice, bob := got[ident.UserNID](t)(tx.UserNID("@alice:test")), got[ident.UserNID](t)(tx.UserNID("@bob:test"))
		ok(t, tx.SetProfileField(alice, storage.ProfileField{Name: "a", Value: `1`}), tx.SetProfileField(bob, storage.ProfileField{Name: "a", Value: `2`}))
		mark := tx.NextPos()
		ok(t, tx.SetProfileField(alice, storage.ProfileField{Name: "b", Value: `3`}), tx.DeleteProfileField(bob, "a"), tx.DeleteProfileField(bob, "never set"))
		list := func(c []storage.ProfileChange, err error) (out string) {
			for _, c := range got[[]storage.ProfileChange](t)(c, err) {
				out += fmt.Sprint(c.UserID, " ", c.Name, "=", c.Value, "; ")
			}
			return out
		}
		for _, tc := range []struct{ name, got, want string }{
			{"since the mark", list(tx.ProfileChanges(mark, 1<<40, 10)), "@alice:test b=3; @bob:test a=; "},
			{"at most one", list(tx.ProfileChanges(0, 1<<40, 1)), "@alice:test a=1; "},
			{"of bob", list(tx.ProfileChangesOf([]ident.UserNID{bob}, 0, 1<<40)), "@bob:test a=; "},
			{"one field", list(tx.ProfileFieldsOf([]ident.UserNID{alice, bob}, []string{"b", "c"})), "@alice:test b=3; "},
		} {
			if tc.got != tc.want {
				t.Errorf("%s: %s", tc.name, tc.got)
			}
		}
		for i := range 150 {
			name := fmt.Sprint("f", i)
			ok(t, tx.SetProfileField(bob, storage.ProfileField{Name: name, Value: `1`}), tx.DeleteProfileField(bob, name))
		}
		if all := got[[]storage.ProfileChange](t)(tx.ProfileChangesOf([]ident.UserNID{bob}, 0, 1<<40)); len(all) != 100 {
			t.Errorf("%d deleted fields are remembered", len(all))
		}
		return nil
	})
}
