// Package legalhold knows which rooms and users are under a legal hold, and extends a hold on a room to the rooms that
// replace it or that it replaced. Package holds decides who adds and lifts holds.
package legalhold

import (
	"context"
	"maps"
	"sync/atomic"

	"ebb/ident"
	"ebb/storage"
)

// Change is a legal hold on a room or on a user that was added or lifted.
type Change struct {
	Room   ident.RoomNID // 0: the hold is on a user
	User   ident.UserNID
	Lifted bool
}

// Set holds the rooms and users under a legal hold. Readers take no lock.
type Set struct {
	current atomic.Pointer[counts] // never nil after Load; never modified
	lifted  atomic.Int64           // number of holds that were lifted since Load
}

// counts has the number of holds on each room and user.
type counts struct {
	rooms map[ident.RoomNID]int
	users map[ident.UserNID]int
}

// Load reads the holds from the database.
func (s *Set) Load(ctx context.Context, db *storage.DB) error {
	next := &counts{rooms: map[ident.RoomNID]int{}, users: map[ident.UserNID]int{}}
	s.current.Store(next)
	return db.Read(ctx, func(tx *storage.Tx) error {
		holds, err := tx.StandingHolds()
		for _, h := range holds {
			next.add(h.Room, h.User, 1)
		}
		return err
	})
}

// add changes the number of holds on a room or a user.
func (c *counts) add(room ident.RoomNID, user ident.UserNID, n int) {
	if room != 0 {
		count(c.rooms, room, n)
	}
	if user != 0 {
		count(c.users, user, n)
	}
}

func count[K comparable](m map[K]int, k K, n int) {
	if m[k] += n; m[k] <= 0 {
		delete(m, k)
	}
}

// Apply records holds that were added or lifted by a committed write. Only one goroutine may call it.
func (s *Set) Apply(changes []Change) {
	if len(changes) == 0 {
		return
	}
	old := s.current.Load()
	next := &counts{rooms: maps.Clone(old.rooms), users: maps.Clone(old.users)}
	lifted := int64(0)
	for _, c := range changes {
		if c.Lifted {
			next.add(c.Room, c.User, -1)
			lifted++
		} else {
			next.add(c.Room, c.User, 1)
		}
	}
	s.current.Store(next)
	s.lifted.Add(lifted) // afterwards, so that whoever sees the number sees the new holds
}

// Held reports whether a hold covers the events of a sender in a room.
func (s *Set) Held(room ident.RoomNID, sender ident.UserNID) bool {
	c := s.current.Load()
	return c.rooms[room] > 0 || c.users[sender] > 0
}

// AnyRoom reports whether there is a hold on any room.
func (s *Set) AnyRoom() bool { return len(s.current.Load().rooms) > 0 }

// Room reports whether there is a hold on a room.
func (s *Set) Room(room ident.RoomNID) bool { return s.current.Load().rooms[room] > 0 }

// User reports whether there is a hold on a user.
func (s *Set) User(user ident.UserNID) bool { return s.current.Load().users[user] > 0 }

// Lifted returns how many holds were lifted since Load.
func (s *Set) Lifted() int64 { return s.lifted.Load() }
