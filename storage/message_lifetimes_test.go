package storage_test

import (
	"testing"

	"ebb/ident"
	"ebb/storage"
)

func TestLifetimesOfMessagesAreAppliedAgainFromTheLedger(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		alice := got[ident.UserNID](t)(tx.UserNID("@alice:test"))
		got[bool](t)(tx.AddAccount(storage.AccountRow{NID: alice, Localpart: "alice"}, ""))
		const room = ident.RoomNID(1)
		ok(t, tx.InsertRoom(&storage.RoomRow{NID: room, RoomID: "!1"}), tx.SetMessageLifetime(alice, 0, 100))
		again := func(value int64, name string, want bool) {
			t.Helper()
			done, err := tx.SetMessageLifetimeAgain(storage.LedgerEntry{Kind: storage.LedgerLifetime, Ref: int64(alice), Value: value, Name: name})
			if done != want || (err != nil) != (name == "x") {
				t.Errorf("%d %s: %v, %v", value, name, done, err)
			}
		}
		again(200, "1", true)
		again(0, "0", true)
		again(0, "0", false)
		again(300, "2", false) // a room that is not in the backup
		again(300, "x", false)
		if rows := got[[]storage.MessageLifetime](t)(tx.MessageLifetimes(alice, 10)); len(rows) != 1 || rows[0].RoomID != "!1" || rows[0].Lifetime != 200 {
			t.Errorf("stored are %+v", rows)
		}
		return nil
	})
}

func TestDailyRequestsAreDueUnlessOneIsUnderWay(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		var users []ident.UserNID
		for _, name := range []string{"open", "locked", "closed"} {
			user := got[ident.UserNID](t)(tx.UserNID("@" + name + ":test"))
			got[bool](t)(tx.AddAccount(storage.AccountRow{NID: user, Localpart: name}, ""))
			ok(t, tx.SetMessageLifetime(user, 0, 100), tx.SetMessageLifetime(user, 1, 50))
			users = append(users, user)
		}
		ok(t, tx.SetLocked(users[1], true))
		got[bool](t)(tx.Deactivate(users[2], storage.NotErased))
		now := tx.Now().UnixMilli()
		due := func(at int64, want int) {
			t.Helper()
			if list := got[[]ident.UserNID](t)(tx.DueMessageLifetimes(at, 10)); len(list) != want {
				t.Errorf("due are %v, want %d", list, want)
			}
		}
		due(now-1, 0)
		due(now, 1)
		ok(t, tx.AddOwnRedaction(&storage.OwnRedaction{User: users[0], Daily: true}))
		due(now, 0)
		ok(t, tx.SetMessageLifetime(users[0], 1, 60)) // ends the request
		due(now, 1)
		ok(t, tx.PostponeMessageLifetimes(users[0], now+5))
		due(now+4, 0)
		due(now+5, 1)
		next, found, err := tx.NextLimitedRoom(users[0], 0)
		if ok(t, err); found {
			t.Errorf("the user is in no room, but %d is found", next)
		}
		ok(t, tx.EraseData(users[0]))
		due(now+5, 0)
		return nil
	})
}
