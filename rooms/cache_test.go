package rooms

import (
	"runtime"
	"sync"
	"testing"
	"weak"

	"ebb/storage"
	"ebb/storage/storagetest"
)

// A read may need a room that is not in memory while all database connections are in use.
func TestRoomIsLoadedInsideARead(t *testing.T) {
	const conns = 2
	h := newHouse(t, storagetest.Open(t, storage.Config{ReadConns: conns}))
	alice, bob := h.user("alice"), h.user("bob")
	room := h.public(alice, bob)
	nid := h.room(room).NID()
	for range 10 {
		h.svc = h.open()
		var reading, done sync.WaitGroup
		reading.Add(conns)
		for range conns {
			done.Go(func() {
				err := h.db.Read(t.Context(), func(*storage.Tx) error {
					reading.Done()
					reading.Wait()
					r, err := h.svc.RoomByNID(t.Context(), nid)
					if err != nil {
						return err
					}
					if r.State(typeMember, string(bob.UserID)) == nil {
						t.Error("bob's member event is not found")
					}
					_, err = h.svc.Memberships(t.Context(), bob.UserNID)
					return err
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		done.Wait()
	}
}

func TestMessagesLeaveMemoryAsNewerOnesFollow(t *testing.T) {
	h := oneHouse(t)
	alice := h.user("alice")
	room := h.public(alice)
	h.send(alice, room, "m.room.message", `{"body":"first"}`)
	ring := h.room(room).head.ring
	first := weak.Make(ring[len(ring)-1])
	for range 2 * ringSize {
		h.send(alice, room, "m.room.message", `{"body":"another"}`)
	}
	runtime.GC()
	if e := first.Value(); e != nil {
		t.Errorf("%s is still in memory after %d more messages", e.ID(), 2*ringSize)
	}
	runtime.KeepAlive(h)
}

func TestMembershipsFollowChanges(t *testing.T) {
	h := oneHouse(t)
	alice, bob := h.user("alice"), h.user("bob")
	first, second := h.public(alice), h.public(alice)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				h.svc.own.lists.Forget(bob.UserNID)
				if _, err := h.svc.Memberships(t.Context(), bob.UserNID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 25 {
		h.ok(h.svc.Join(t.Context(), bob, first, ""))
		h.ok(h.svc.Join(t.Context(), bob, second, ""))
		h.membership(first, bob, Join)
		h.membership(second, bob, Join)
		h.ok(h.svc.Leave(t.Context(), bob, first, ""))
		h.membership(first, bob, Leave)
		h.ok(h.svc.Leave(t.Context(), bob, second, ""))
	}
	wg.Wait()
	h.membership(second, bob, Leave)
}
