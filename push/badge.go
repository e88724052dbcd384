package push

import (
	"context"
	"maps"
	"math"
	"slices"
	"sync"

	"maunium.net/go/mautrix/id"

	"ebb/history"
	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

// maxBadgeRooms bounds the rooms whose unread messages are counted for a badge, of which those with the newest events
// are chosen, and separately the invites.
const maxBadgeRooms = 200

// unknownBadge marks a gateway to which no unread count has been sent since the start of the server.
const unknownBadge = -1

// badge caches the unread counts of a user's rooms. Workers for several pushers of the user may use it at once.
type badge struct {
	// mu guards the fields below; a leaf lock.
	mu      sync.Mutex
	listed  bool                    // all rooms that may have unread messages are in counts or stale
	counts  map[ident.RoomNID]int64 // rooms with unread messages
	stale   map[ident.RoomNID]int64 // rooms whose count is out of date, with the number of the latest change
	changes int64
}

// recount marks the count of a room as out of date.
func (b *badge) recount(room ident.RoomNID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changes++
	b.stale[room] = b.changes
}

// compare is like recount unless the room has the count n.
func (b *badge) compare(room ident.RoomNID, n int64) {
	b.mu.Lock()
	same := b.counts[room] == n
	b.mu.Unlock()
	if !same {
		b.recount(room)
	}
}

// set sets the count of a room that a change has made out of date. The count was read after that change. If there has
// been another change in the meantime, or another worker has set the count, set does nothing.
func (b *badge) set(room ident.RoomNID, change, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stale[room] != change {
		return
	}
	delete(b.stale, room)
	if n == 0 {
		delete(b.counts, room)
	} else {
		b.counts[room] = n
	}
}

// list marks the counts of all rooms that may have unread messages as out of date.
func (b *badge) list(rooms []ident.RoomNID) {
	for _, room := range rooms {
		b.recount(room)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listed = true
}

// outOfDate returns the rooms whose counts are out of date, with the changes that made them so. The marks stay until
// set is called, so that no other worker takes an old count for the current one.
func (b *badge) outOfDate() (rooms map[ident.RoomNID]int64, listed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.stale), b.listed
}

// rooms returns the rooms with unread messages.
func (b *badge) rooms() []ident.RoomNID {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Keys(b.counts))
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
// are still unread, and of pending invites.
func (s *Service) badge(ctx context.Context, user ident.UserNID) (int64, error) {
	b, err := s.badgeOf(ctx, user)
	if err != nil {
		return 0, err
	}
	return b.total(s.opts.CountRooms), nil
}

// badgeWith is like badge, for a caller that has just counted one of the rooms, perhaps before its latest change.
func (s *Service) badgeWith(ctx context.Context, user ident.UserNID, room ident.RoomNID, u history.Unread) (int64, error) {
	if b, known := s.badges.Get(user); known {
		b.compare(room, sum(u))
	}
	return s.badge(ctx, user)
}

// badgeOf returns the up-to-date badge of a user.
func (s *Service) badgeOf(ctx context.Context, user ident.UserNID) (*badge, error) {
	b, known := s.badges.Get(user)
	if !known {
		b = &badge{counts: map[ident.RoomNID]int64{}, stale: map[ident.RoomNID]int64{}}
		s.badges.Put(user, b) // before the read, so that no later change is missed
	}
	if _, listed := b.outOfDate(); !listed {
		rooms, err := s.roomsOfBadge(ctx, user)
		if err != nil {
			return nil, err
		}
		b.list(rooms)
	}
	s.recountExpiring(ctx, b)
	stale, _ := b.outOfDate()
	for room, change := range stale {
		n, err := s.countIn(ctx, user, room)
		if err != nil {
			return nil, err
		}
		b.set(room, change, n)
	}
	return b, nil
}

// recountExpiring marks the counts of rooms as out of date in which messages expire, since no commit says when they do.
func (s *Service) recountExpiring(ctx context.Context, b *badge) {
	for _, room := range b.rooms() {
		if r, err := s.opts.Rooms.RoomByNID(ctx, room); err == nil && r.Retention().Max != nil {
			b.recount(room)
		}
	}
}

// roomsOfBadge lists the rooms that may have unread messages, and those to which the user is invited.
func (s *Service) roomsOfBadge(ctx context.Context, user ident.UserNID) (rooms []ident.RoomNID, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		if rooms, err = tx.UnreadRooms(user, maxBadgeRooms); err != nil {
			return err
		}
		// Not up to tx.Settled: an invite whose commit was dispatched before the badge was cached may be after it.
		invites, err := tx.InvitesOf(user, 0, math.MaxInt64, maxBadgeRooms)
		for _, m := range invites {
			rooms = append(rooms, m.Room)
		}
		return err
	})
	return rooms, err
}

// countIn returns what a room adds to the badge of a user: the number of unread messages, or 1 for an invite that
// notified the user.
func (s *Service) countIn(ctx context.Context, nid ident.UserNID, room ident.RoomNID) (int64, error) {
	r, err := s.opts.Rooms.RoomByNID(ctx, room)
	if err != nil {
		return 0, err
	}
	user := s.userID(nid)
	if m := r.MemberOf(user); m != nil && m.Membership == rooms.Invite {
		e, err := s.event(ctx, r, m.Pos)
		if err != nil || e == nil {
			return 0, err
		}
		class, _, err := s.inviteActions(ctx, nid, user, r, e)
		if err != nil || class == 0 {
			return 0, err
		}
		return 1, nil
	}
	u, err := s.opts.History.Unread(ctx, nil, nid, room)
	return sum(u), err
}

// userID returns the ID of a user with a pusher. It returns "" if all pushers of the user have been deleted in the
// meantime.
func (s *Service) userID(nid ident.UserNID) id.UserID {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.users[nid]; u != nil {
		return id.UserID(u.id)
	}
	return ""
}

func sum(u history.Unread) (n int64) {
	n = u.Main.Notify
	for _, thread := range u.Threads {
		n += thread.Notify
	}
	return n
}
