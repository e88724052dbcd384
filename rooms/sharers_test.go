package rooms

import (
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/storage"
	"ebb/storage/storagetest"
	"ebb/wake"
)

// devicesChange makes the commit that a change of a user's devices makes, in one batch with other writes.
func (h *house) devicesChange(user ident.Requester) {
	h.Helper()
	var committed func()
	h.ok(h.db.Enqueue(storage.Write{
		Do: func(tx *storage.Tx) (err error) {
			committed, err = h.reads().WakeSharers(tx, user.UserNID)
			return err
		},
		Committed: func() { committed() },
	}).Wait(h.Context()))
}

func own(s *wake.Sub) uint64 {
	n, _ := s.News()
	return n
}

func TestUsersWhoShareARoomAreWokenByDeviceChanges(t *testing.T) {
	h := oneHouse(t)
	alice, bob, carol, stranger := h.user("alice"), h.user("bob"), h.user("carol"), h.user("stranger")
	h.public(stranger)
	h.public(alice, bob)
	second := h.public(alice, carol)
	for _, cold := range []bool{false, true} {
		if cold {
			h.svc = h.open()
		}
		subs := map[ident.Requester]*wake.Sub{}
		for _, u := range []ident.Requester{alice, bob, carol, stranger} {
			subs[u] = h.svc.opts.Hub.Watch(u.UserNID, u.DeviceNID)
		}
		h.devicesChange(alice)
		for u, s := range subs {
			if woken := own(s) > 0; woken != (u != stranger) {
				t.Errorf("with the rooms out of memory (%t): %s is woken: %t, want %t", cold, u.UserID, woken, u != stranger)
			}
		}
	}
	h.ok(h.svc.Leave(t.Context(), carol, second, ""))
	sub := h.svc.opts.Hub.Watch(carol.UserNID, carol.DeviceNID)
	if h.devicesChange(alice); own(sub) > 0 {
		t.Error("a user who has left the room is woken")
	}
}

// A join is committed in the same batch as a change of devices, before it.
func TestUserWhoJoinsJustBeforeAChangeOfDevicesIsWoken(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{CommitDelay: 20 * time.Millisecond}))
	alice := h.user("alice")
	room := h.public(alice)
	for _, name := range []id.UserID{"a", "b", "c", "d"} {
		u := h.user(string(name))
		sub := h.svc.opts.Hub.Watch(u.UserNID, u.DeviceNID)
		joined := make(chan error, 1)
		go func() { joined <- h.svc.Join(t.Context(), u, room, "") }()
		// Changes are repeated until the join is committed, so the last one began after the join or was in its batch.
		for ended := false; !ended; {
			before := own(sub)
			in := false
			var committed func()
			h.ok(h.db.Enqueue(storage.Write{
				Do: func(tx *storage.Tx) (err error) {
					joined, err := tx.JoinedPositions(u.UserNID, []ident.RoomNID{h.room(room).nid})
					if in = joined[h.room(room).nid] != 0; err == nil {
						committed, err = h.reads().WakeSharers(tx, alice.UserNID)
					}
					return err
				},
				Committed: func() {
					before = own(sub)
					if committed(); in != (own(sub) > before) {
						t.Errorf("%s: the user joined before the change: %t; the change woke the user: %t", name, in, !in)
					}
				},
			}).Wait(t.Context()))
			ended = in
		}
		h.ok(<-joined)
	}
}

// BenchmarkWakeSharers measures how a change of devices determines and wakes the users who share rooms, in the write
// and after it. The user is in a room with 10,000 members.
func BenchmarkWakeSharers(b *testing.B) {
	h := newHouse(b, storagetest.Open(b, storage.Config{}))
	alice := h.user("alice")
	room := h.public(alice)
	h.crowd(room, 10_000)
	nid := h.room(room).nid
	for range 100 {
		h.svc.opts.Hub.Watch(alice.UserNID, 0)
	}
	run := func(name string, find func(tx *storage.Tx) (func(), error)) {
		b.Run(name, func(b *testing.B) {
			var inWrite, after time.Duration
			for range b.N {
				var committed func()
				h.ok(h.db.Enqueue(storage.Write{
					Do: func(tx *storage.Tx) (err error) {
						start := time.Now()
						committed, err = find(tx)
						inWrite += time.Since(start)
						return err
					},
					Committed: func() {
						start := time.Now()
						committed()
						after += time.Since(start)
					},
				}).Wait(b.Context()))
			}
			b.ReportMetric(float64(inWrite.Microseconds())/float64(b.N), "µs-in-write/op")
			b.ReportMetric(float64(after.Microseconds())/float64(b.N), "µs-after/op")
		})
	}
	run("in memory", func(tx *storage.Tx) (func(), error) { return h.reads().WakeSharers(tx, alice.UserNID) })
	run("from the database", func(tx *storage.Tx) (func(), error) {
		members, err := tx.JoinedMembers(nid)
		return func() { h.svc.opts.Hub.Users(members...) }, err
	})
}
