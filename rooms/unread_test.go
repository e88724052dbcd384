package rooms

import (
	"context"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/pushrules"
	"ebb/rooms/pdu"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// notifying makes every event a notification.
func notifying(o *Options) { o.Push = allNotify{} }

type allNotify struct{}

func (allNotify) Follow(context.Context, int64, id.UserID, id.RoomID, id.RoomID) error { return nil }

func (allNotify) Evaluate(*pdu.Event, pushrules.RoomInfo) pushrules.Outcome {
	return pushrules.Outcome{Default: pushrules.Notify}
}

func TestAReceiptClearsTheCountThatIsRemembered(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h := newHouse(t, db, notifying)
		alice, bob := h.user("alice"), h.user("bob")
		room := h.public(alice, bob)
		unread := func() (n int64) {
			h.ok(h.svc.DB.Read(t.Context(), func(tx *storage.Tx) error {
				u, err := h.svc.Unread(t.Context(), tx, bob.NID, h.room(room).NID())
				n = u.Main.Notify
				return err
			}))
			return n
		}
		h.say(alice, room, "one")
		two := h.say(alice, room, "two")
		if n := unread(); n != 2 {
			t.Fatalf("%d unread", n)
		}
		three := h.say(alice, room, "three")
		h.ok(h.svc.SetReceipt(t.Context(), bob, room, PrivateReadReceipt, two, ""))
		if n := unread(); n != 1 {
			t.Fatalf("%d unread after a receipt at the last but one", n)
		}
		h.ok(h.svc.SetReceipt(t.Context(), bob, room, ReadReceipt, three, "main"))
		if n := unread(); n != 0 {
			t.Fatalf("%d unread after a receipt at the last", n)
		}
	})
}

func TestACountByAnOldSnapshotIsNotRemembered(t *testing.T) {
	h := oneHouse(t, notifying)
	alice, bob := h.user("alice"), h.user("bob")
	room := h.public(alice, bob)
	one := h.say(alice, room, "one")
	nid := h.room(room).NID()
	count := func(tx *storage.Tx) int64 {
		u, err := h.svc.Unread(t.Context(), tx, bob.NID, nid)
		h.ok(err)
		return u.Main.Notify
	}
	h.ok(h.svc.DB.Read(t.Context(), func(old *storage.Tx) error {
		_, _, err := old.MembershipOf(bob.NID, nid) // a snapshot begins with its first query
		h.ok(err)
		h.ok(h.svc.SetReceipt(t.Context(), bob, room, ReadReceipt, one, ""))
		if n := count(old); n != 1 {
			t.Fatalf("%d unread in the snapshot from before the receipt", n)
		}
		return nil
	}))
	h.ok(h.svc.DB.Read(t.Context(), func(tx *storage.Tx) error {
		if n := count(tx); n != 0 {
			t.Fatalf("%d unread after the receipt", n)
		}
		return nil
	}))
}
