package storage_test

import (
	"fmt"
	"testing"
	"time"

	"ebb/ident"
	"ebb/storage"
	"ebb/storage/storagetest"
)

func TestWebSessionsAreBoundedAndPendingOnesAreNotReturned(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		err := db.Write(t.Context(), func(tx *storage.Tx) error {
			user, err := tx.UserNID("@alice:test")
			if err != nil {
				return err
			}
			if _, err := tx.AddAccount(storage.AccountRow{NID: user, Localpart: "alice"}, ""); err != nil {
				return err
			}
			return checkWebSessions(t, tx, user)
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func checkWebSessions(t *testing.T, tx *storage.Tx, user ident.UserNID) error {
	t.Helper()
	const most = 3
	end := tx.Now().Add(time.Hour).UnixMilli()
	count := func(pending bool) (n int) {
		for i := range 2 * most {
			hash := fmt.Sprint(pending, i)
			s, any, err := tx.AnyWebSession(hash)
			if err != nil {
				t.Fatal(err)
			}
			_, complete, err := tx.WebSession(hash)
			if err != nil || complete != (any && !pending) || any && s.Pending != pending {
				t.Errorf("session %s: %+v, complete %v, %v", hash, s, complete, err)
			}
			if any {
				n++
			}
		}
		return n
	}
	for _, pending := range []bool{false, true} {
		for i := range 2 * most {
			if err := tx.AddWebSession(fmt.Sprint(pending, i), storage.WebSession{User: user, Pending: pending, ExpiresTS: end}, most); err != nil {
				return err
			}
		}
	}
	if n := count(false); n != most {
		t.Errorf("%d complete sessions, want %d", n, most)
	}
	if n := count(true); n != most {
		t.Errorf("%d pending sessions, want %d", n, most)
	}
	return checkMoved(t, tx, user, end)
}

func checkMoved(t *testing.T, tx *storage.Tx, user ident.UserNID, end int64) error {
	t.Helper()
	if err := tx.AddWebSession("old", storage.WebSession{User: user, Pending: true, ExpiresTS: end}, 3); err != nil {
		return err
	}
	want := storage.WebSession{User: user, Localpart: "alice", Evidence: 9, FirstTS: 1, SecondTS: 2, ExpiresTS: end}
	for _, moves := range []bool{true, false} {
		if moved, err := tx.MoveWebSession("old", "new", want); err != nil || moved != moves {
			t.Errorf("move: %v, %v, want %v", moved, err, moves)
		}
	}
	if err := tx.DeferFactor("new"); err != nil {
		return err
	}
	want.Later = true
	if s, found, err := tx.WebSession("new"); err != nil || !found || s != want {
		t.Errorf("%+v, %v, %v, want %+v", s, found, err, want)
	}
	if err := tx.DropWebSession("new"); err != nil {
		return err
	}
	_, found, err := tx.AnyWebSession("new")
	if found {
		t.Error("a dropped session is still there")
	}
	return err
}
