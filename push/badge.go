package push

import (
	"context"
	"sync"

	"ebb/history"
	"ebb/ident"
	"ebb/storage"
)

// maxBadgeRooms bounds the rooms whose unread messages are counted for a badge. The rooms with the newest events are
// chosen.
const maxBadgeRooms = 200

// unknownBadge marks a gateway to which no unread count has been sent since the start of the server.
const unknownBadge = -1

// badge caches the unread counts of a user's rooms.
type badge struct {
	// mu guards the fields below; a leaf lock.
	mu     sync.Mutex
	counts map[ident.RoomNID]int64 // rooms with unread messages
	stale  map[ident.RoomNID]bool  // rooms whose count is out of date
}

// recount marks the count of a room as out of date.
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

// takeStale returns the rooms whose counts are out of date, and clears the marks.
func (b *badge) takeStale() (rooms []ident.RoomNID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for room := range b.stale {
		rooms = append(rooms, room)
	}
	clear(b.stale)
	return rooms
}

// total returns the number of unread messages or, if countRooms is set, the number of rooms that have any.
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

// badge returns the unread count that is sent to a user's gateways: the number of messages that notified the user and
// are still unread.
func (s *Service) badge(ctx context.Context, user ident.UserNID) (int64, error) {
	b, err := s.badgeOf(ctx, user)
	if err != nil {
		return 0, err
	}
	return b.total(s.opts.CountRooms), nil
}

// badgeWith is like badge, for a caller that has just counted one of the rooms.
func (s *Service) badgeWith(ctx context.Context, user ident.UserNID, room ident.RoomNID, u history.Unread) (int64, error) {
	b, err := s.badgeOf(ctx, user)
	if err != nil {
		return 0, err
	}
	b.set(room, sum(u))
	return b.total(s.opts.CountRooms), nil
}

// badgeOf returns the up-to-date badge of a user.
func (s *Service) badgeOf(ctx context.Context, user ident.UserNID) (*badge, error) {
	b, known := s.badges.Get(user)
	if !known {
		b = &badge{counts: map[ident.RoomNID]int64{}, stale: map[ident.RoomNID]bool{}}
		s.badges.Put(user, b) // before the read, so that no later change is missed
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
