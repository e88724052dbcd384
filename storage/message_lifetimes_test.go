package storage_test

import (
	"testing"

	"ebb/ident"
	"ebb/storage"
)

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
			if list := got[[]ident.UserNID](t)(tx.DueMessageLifetimes(at, at+1000, 10)); len(list) != want {
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
