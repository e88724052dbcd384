package storage_test

import (
	"slices"
	"testing"

	"ebb/ident"
	"ebb/storage"
)

func TestPushersAreFoundByUserAndByKey(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		one, two := got[ident.UserNID](t)(tx.UserNID("@one:here")), got[ident.UserNID](t)(tx.UserNID("@two:here"))
		pusher := func(user ident.UserNID, key string) *storage.PusherRow {
			p := &storage.PusherRow{User: user, Device: 7, Kind: "http", AppID: "app", Pushkey: key, Data: `{}`, Enabled: true, UpdatedTS: 5}
			ok(t, tx.AddPusher(p))
			return p
		}
		a, b := pusher(one, "a"), pusher(one, "b")
		pusher(two, "a")
		own := got[[]storage.PusherRow](t)(tx.UserPushers(one))
		if len(own) != 2 || own[0].NID != a.NID || own[1].NID != b.NID || own[0].UserID != "@one:here" || !own[0].Enabled || own[0].NoBadge {
			t.Errorf("the pushers are %+v", own)
		}
		if same := got[[]storage.PusherRow](t)(tx.PushersWithKey("app", "a", 10)); len(same) != 2 {
			t.Errorf("with the same key: %+v", same)
		}
		ok(t, tx.SetPusherProgress(a.NID, storage.PusherProgress{Delivered: a.Delivered + 5, Pending: true, Failures: 3, FailingSince: 4, RetryTS: 9}))
		ok(t, tx.SetPusherProgress(a.NID, storage.PusherProgress{Delivered: a.Delivered})) // does not go back
		row, _, err := tx.Pusher(a.NID)
		if want := (storage.PusherProgress{Delivered: a.Delivered + 5, Pending: true, Failures: 3, FailingSince: 4, RetryTS: 9}); err != nil || row.PusherProgress != want {
			t.Errorf("the progress is %+v, want %+v (%v)", row.PusherProgress, want, err)
		}
		ok(t, tx.DeletePusher(b.NID), tx.DeleteDevice(7))
		if left := got[[]storage.PusherRow](t)(tx.Pushers(0, 10)); len(left) != 0 {
			t.Errorf("with their device gone: %+v", left)
		}
		return nil
	})
}

// The events are so far apart that each is in a window of its own.
func TestNotifyingEventsAreFoundAcrossGapsInBothDirections(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		const me, other, room, elsewhere = 1, 2, 1, 2
		ok(t, tx.SetMembership(storage.MemberRow{User: me, Room: room, Membership: "join", Position: 50, JoinedPos: 50}))
		put := func(p storage.Pos, in ident.RoomNID, sender ident.UserNID, push int64) {
			ok(t, tx.InsertEvent(event(int(p), func(e *storage.EventRow) {
				e.Room, e.Sender, e.Push, e.Order = in, sender, push, ident.Order(p)*65536
			})))
		}
		put(10, room, other, 1)          // before the user joined
		put(100, room, other, 1)         //
		put(101, room, me, 1)            // the user's own
		put(50_000, room, other, 0)      // notifies nobody
		put(50_001, elsewhere, other, 1) // in a room that the user is not in
		put(2_000_000, room, other, 3)   //
		put(2_000_001, room, other, 1)   //
		put(2_000_002, room, other, 1)   // but not this user
		ok(t, tx.InsertEventPush(me, room, 2_000_002, 0))
		positions := func(found []storage.Notifying) (out []storage.Pos) {
			for _, n := range found {
				out = append(out, n.Position)
			}
			return out
		}
		after, reached, err := tx.NotifyingAfter(me, 0, 3_000_000, 10)
		if want := []storage.Pos{100, 2_000_000, 2_000_001}; err != nil || !slices.Equal(positions(after), want) || reached != 3_000_000 {
			t.Errorf("after: %v up to %d, want %v (%v)", positions(after), reached, want, err)
		}
		before, reached, err := tx.NotifyingBefore(me, 3_000_000, 1, 10)
		if want := []storage.Pos{2_000_001, 2_000_000, 100}; err != nil || !slices.Equal(positions(before), want) || reached != 0 {
			t.Errorf("before: %v down to %d, want %v (%v)", positions(before), reached, want, err)
		}
		page, reached, err := tx.NotifyingBefore(me, 2_000_001, 1, 1)
		if err != nil || !slices.Equal(positions(page), []storage.Pos{2_000_000}) || reached != 2_000_000 {
			t.Errorf("a page: %v down to %d (%v)", positions(page), reached, err)
		}
		highlights, _, err := tx.NotifyingBefore(me, 3_000_000, 2, 10)
		if err != nil || !slices.Equal(positions(highlights), []storage.Pos{2_000_000}) {
			t.Errorf("highlights: %v (%v)", positions(highlights), err)
		}
		return nil
	})
}
