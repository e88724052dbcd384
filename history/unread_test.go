package history

import (
	"context"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/pushrules"
	"ebb/rooms"
	"ebb/rooms/expiry"
	"ebb/rooms/pdu"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// notifying makes every event cause a notification.
func notifying(o *rooms.Options) { o.Push = allNotify{} }

type allNotify struct{}

func (allNotify) FollowThreads(context.Context, ident.UserNID, id.UserID) error { return nil }

func (allNotify) Follow(context.Context, ident.UserNID, id.UserID, id.RoomID, id.RoomID) error {
	return nil
}

func (allNotify) Evaluate(*pdu.Event, pushrules.RoomInfo) pushrules.Outcome {
	return pushrules.Outcome{Default: pushrules.Notify}
}

func TestAReceiptClearsTheCountThatIsRemembered(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h := openLibrary(t, db, notifying)
		alice, bob := h.user("alice"), h.user("bob")
		room := h.public(alice, bob)
		unread := func() (n int64) {
			h.check(h.db.Read(t.Context(), func(tx *storage.Tx) error {
				u, err := h.svc.Unread(t.Context(), tx, bob.UserNID, h.load(room).NID())
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
		h.setReceipt(bob, room, rooms.PrivateReadReceipt, two, "")
		if n := unread(); n != 1 {
			t.Fatalf("%d unread after a receipt at the last but one", n)
		}
		h.setReceipt(bob, room, rooms.ReadReceipt, three, "main")
		if n := unread(); n != 0 {
			t.Fatalf("%d unread after a receipt at the last", n)
		}
	})
}

// Listeners of commits learn of an event before it is settled. What they start, such as a push, must find it unread.
func TestAnEventIsUnreadAsSoonAsItsCommitIsAnnounced(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		var h *library
		var bob ident.Requester
		found := map[string]pushrules.Class{}
		h = openLibrary(t, db, notifying, func(o *rooms.Options) {
			o.Commits.Subscribe(func(c *rooms.Commit) {
				for _, e := range c.Events {
					if e.Type() != "m.room.message" || bob.UserNID == 0 {
						continue
					}
					counted := make(chan error)
					go func() {
						class, _, _, err := h.svc.UnreadEvent(t.Context(), bob.UserNID, c.Room.NID(), e.Pos)
						found[string(e.ID())] = class
						counted <- err
					}()
					h.check(<-counted)
				}
			})
		})
		alice, other := h.user("alice"), h.user("bob")
		room := h.public(alice, other)
		h.say(alice, room, "before anybody counts")
		bob = other
		for range 3 {
			id := h.say(alice, room, "hello")
			if found[string(id)] == 0 {
				t.Error("a message is not unread while its commit is announced")
			}
			h.setReceipt(bob, room, rooms.ReadReceipt, id, "") // the list is read anew
		}
	})
}

func TestACountByAnOldSnapshotIsNotRemembered(t *testing.T) {
	h := newLibrary(t, notifying)
	alice, bob := h.user("alice"), h.user("bob")
	room := h.public(alice, bob)
	one := h.say(alice, room, "one")
	nid := h.load(room).NID()
	count := func(tx *storage.Tx) int64 {
		u, err := h.svc.Unread(t.Context(), tx, bob.UserNID, nid)
		h.check(err)
		return u.Main.Notify
	}
	h.check(h.db.Read(t.Context(), func(old *storage.Tx) error {
		_, err := old.JoinedPositions(bob.UserNID, []ident.RoomNID{nid}) // a snapshot begins with its first query
		h.check(err)
		h.setReceipt(bob, room, rooms.ReadReceipt, one, "")
		if n := count(old); n != 1 {
			t.Fatalf("%d unread in the snapshot from before the receipt", n)
		}
		return nil
	}))
	h.check(h.db.Read(t.Context(), func(tx *storage.Tx) error {
		if n := count(tx); n != 0 {
			t.Fatalf("%d unread after the receipt", n)
		}
		return nil
	}))
}

// BenchmarkManyUnread measures what a woken client costs whose user has not read the last thousand messages of a room.
func BenchmarkManyUnread(b *testing.B) {
	l := &unreadList{roots: map[storage.Pos]threadRoot{7: {id: "$root"}}}
	for i := range 1000 {
		e := unreadEntry{pos: storage.Pos(100 + i), sender: 3, class: pushrules.Notify}
		if i%10 == 0 {
			e.thread = 7
		}
		l.entries = append(l.entries, e)
	}
	now := time.Now()
	for b.Loop() {
		if u := l.count(expiry.Policy{}, now, nil); len(l.unnamed()) != 0 || u.Main.Notify != 900 {
			b.Fatal(u)
		}
	}
}

func TestARedactionIsTakenFromTheCountInMemory(t *testing.T) {
	l := newLibrary(t, notifying)
	alice, bob := l.user("alice"), l.user("bob")
	room := l.public(alice, bob)
	unread := func() (u Unread) {
		l.check(func() (err error) {
			u, err = l.svc.Unread(t.Context(), nil, bob.UserNID, l.load(room).NID())
			return err
		}())
		return u
	}
	var said []id.EventID
	for range 5 {
		said = append(said, l.say(alice, room, "a slip"))
	}
	start := unread().Main.Notify
	for i, slip := range said {
		l.send(alice, room, typeRedaction, `{"redacts":"`+string(slip)+`"}`)
		n := l.statements(func(ctx context.Context) error {
			_, err := l.svc.Unread(ctx, nil, bob.UserNID, l.load(room).NID())
			return err
		})
		if n > 0 {
			t.Errorf("after redaction %d, %d statements count the unread events", i, n)
		}
		u := unread()
		l.svc.unread.forgetRoom(l.load(room).NID())
		if again := unread(); u.Main != again.Main || u.Main.Notify > start {
			t.Errorf("after redaction %d: %v unread, in the database %v", i, u.Main, again.Main)
		}
	}
}
