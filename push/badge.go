package push

import (
	"context"
	"sync"

	"ebb/history"
	"ebb/ident"
	"ebb/storage"
)

// maxBadgeRooms bounds the rooms whose unread messages are counted for a badge: those with the newest events.
const maxBadgeRooms = 200

// unknownBadge is the unread count of a gateway that was not sent any since the start.
const unknownBadge = -1

// badge caches the unread messages of a user by room.
type badge struct {
	// mu guards the fields below; a leaf lock.
	mu     sync.Mutex
	counts map[ident.RoomNID]int64 // rooms with unread messages
	stale  map[ident.RoomNID]bool  // rooms that have to be counted again
}

// recount marks a room to be counted again.
func (b *badge) recount(room ident.RoomNID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stale[room] = true
}

// set sets the count of a room.
func (b *badge) set(room ident.RoomNID, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n == 0 {
		delete(b.counts, room)
	} else {
		b.counts[room] = n
	}
}

// takeStale returns the rooms that have to be counted again, and marks them as counted.
func (b *badge) takeStale() (rooms []ident.RoomNID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for room := range b.stale {
		rooms = append(rooms, room)
	}
	clear(b.stale)
	return rooms
}

// total returns the number of unread messages, or that of rooms with unread messages.
func (b *badge) total(countRooms bool) (sum int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if countRooms {
		return int64(len(b.counts))
	}
	for _, n := range b.counts {
		sum += n
	}
	return sum
}

// badge returns the unread count that a user's gateways are sent: the number of messages in the user's rooms of which
// the user was notified and which the user has not read.
func (s *Service) badge(ctx context.Context, user ident.UserNID) (int64, error) {
	b, err := s.badgeOf(ctx, user)
	if err != nil {
		return 0, err
	}
	return b.total(s.opts.CountRooms), nil
}

// badgeWith is badge for a caller that has just counted one of the rooms.
func (s *Service) badgeWith(ctx context.Context, user ident.UserNID, room ident.RoomNID, u history.Unread) (int64, error) {
	b, err := s.badgeOf(ctx, user)
	if err != nil {
		return 0, err
	}
	b.set(room, sum(u))
	return b.total(s.opts.CountRooms), nil
}

// badgeOf returns the unread messages of a user, up to date.
func (s *Service) badgeOf(ctx context.Context, user ident.UserNID) (*badge, error) {
	b, known := s.badges.Get(user)
	if !known {
		b = &badge{counts: map[ident.RoomNID]int64{}, stale: map[ident.RoomNID]bool{}}
		s.badges.Put(user, b) // before the read, so that no change is missed
		var rooms []ident.RoomNID
		err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
			rooms, err = tx.UnreadRooms(user, maxBadgeRooms)
			return err
		})
		if err != nil {
			s.badges.Forget(user)
			return nil, err
		}
		for _, room := range rooms {
			b.recount(room)
		}
	}
	for _, room := range b.takeStale() {
		u, err := s.opts.History.Unread(ctx, nil, user, room)
		if err != nil {
			s.badges.Forget(user)
			return nil, err
		}
		b.set(room, sum(u))
	}
	return b, nil
}

func sum(u history.Unread) (n int64) {
	n = u.Main.Notify
	for _, thread := range u.Threads {
		n += thread.Notify
	}
	return n
}
