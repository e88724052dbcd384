package push

import (
	"context"
	"slices"

	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

// committed is a rooms.Listener. It hands the dispatcher every commit that may cause a notification.
func (s *Service) committed(c *rooms.Commit) {
	if s.active.Load() == 0 || !concerns(c) {
		return
	}
	s.mu.Lock()
	if len(s.news) < maxNews {
		s.news = append(s.news, c)
	} else {
		s.missed = true
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// concerns reports whether a commit may notify a local user or change a local user's unread count.
func concerns(c *rooms.Commit) bool {
	return len(c.Redacted)+len(c.Purged)+len(c.Rejected) > 0 || c.Rejudged ||
		slices.ContainsFunc(c.Events, func(e rooms.CommittedEvent) bool { return !e.Past }) ||
		slices.ContainsFunc(c.Receipts, func(r rooms.CommittedReceipt) bool { return r.Local }) ||
		slices.ContainsFunc(c.Members, func(m rooms.CommittedMember) bool { return m.Local })
}

// dispatchAll dispatches commits until ctx ends. It starts with the events that were not dispatched before the last
// stop.
func (s *Service) dispatchAll(ctx context.Context) {
	behind := true // the database has events that have not been dispatched
	for ctx.Err() == nil {
		s.mu.Lock()
		news, missed := s.news, s.missed
		s.news, s.missed = nil, false
		s.mu.Unlock()
		if !behind { // otherwise catchUp reads their events too
			for _, c := range news {
				s.dispatch(c)
			}
		}
		if behind = behind || missed; behind {
			err := s.catchUp(ctx)
			if behind = err != nil; behind && ctx.Err() == nil {
				s.log.ErrorContext(ctx, "Cannot read the events to notify users of; trying again", "err", err)
			}
		}
		select {
		case <-s.wake: // committed and tick send to it
		case <-ctx.Done():
		}
	}
}

// dispatch queues the events of a commit for the pushers and marks the badges that it changes.
func (s *Service) dispatch(c *rooms.Commit) {
	upTo := storage.Pos(0)
	for i := range c.Events {
		if e := &c.Events[i]; !e.Past && !e.Hidden() {
			s.dispatchEvent(c.Room, e.Event)
			upTo = max(upTo, e.Pos)
		}
	}
	for i := range c.Members {
		m := &c.Members[i]
		if !m.Local || m.From == m.To {
			continue
		}
		s.badgeChanged(m.NID, c.Room.NID())
		if m.To == rooms.Invite {
			s.offerTo(m.NID, item{pos: m.Pos, room: c.Room.NID(), invite: true})
			upTo = max(upTo, m.Pos)
		}
	}
	if len(c.Redacted)+len(c.Purged)+len(c.Rejected) > 0 || c.Rejudged {
		s.recount(c.Room)
		s.mu.Lock()
		s.fewer[c.Room.NID()] = c.Room
		s.mu.Unlock()
	}
	for i := range c.Receipts {
		if r := &c.Receipts[i]; r.Local {
			s.badgeChanged(r.NID, c.Room.NID())
			upTo = max(upTo, r.Pos)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pushed = max(s.pushed, upTo)
}

// dispatchEvent adds an event to the queues of the local members whom it notifies.
func (s *Service) dispatchEvent(r *rooms.Room, e *rooms.Event) {
	it := item{pos: e.Pos, room: r.NID()}
	for _, nid := range s.members(r) {
		if nid == e.SenderNID {
			s.badgeChanged(nid, it.room)
			continue
		}
		if class, known := e.ClassFor(nid); !known || class != 0 {
			s.offerTo(nid, it)
		}
	}
}

// members returns the joined local users of a room who have pushers. It iterates over the members or over all users
// with pushers, whichever are fewer.
func (s *Service) members(r *rooms.Room) (found []ident.UserNID) {
	local := r.LocalMembers()
	s.mu.Lock()
	n := len(s.users)
	var all []ident.UserNID
	if n < local.Len() {
		all = make([]ident.UserNID, 0, n)
		for nid := range s.users {
			all = append(all, nid)
		}
	}
	s.mu.Unlock()
	if all != nil {
		return slices.DeleteFunc(all, func(nid ident.UserNID) bool { return !local.Has(nid) })
	}
	local.Each(func(nid ident.UserNID) bool {
		found = append(found, nid)
		return true
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(found, func(nid ident.UserNID) bool { return s.users[nid] == nil })
}

// offerTo adds an event to the queues of a user's pushers.
func (s *Service) offerTo(nid ident.UserNID, it item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.users[nid]; u != nil {
		for _, p := range u.pushers {
			s.offer(p, it)
		}
	}
}

// offer adds an event to a pusher's queue unless it was added before. The caller holds mu.
func (s *Service) offer(p *pusher, it item) {
	if it.pos <= p.seen {
		return
	}
	if p.missed || len(p.queue) >= maxQueue {
		p.missed, p.top = true, it.pos
	} else {
		p.seen = it.pos
		p.queue = append(p.queue, it)
	}
	s.ready(p)
}

// badgeChanged makes the user's pushers send a new unread count, except those whose gateways show 0.
func (s *Service) badgeChanged(nid ident.UserNID, room ident.RoomNID) {
	if b, known := s.badges.Get(nid); known {
		b.recount(room)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.users[nid]; u != nil {
		for _, p := range u.pushers {
			if p.shown != 0 {
				p.badgeDue = true
				s.ready(p)
			}
		}
	}
}

// recount marks the unread counts of a room as out of date for all members with a cached badge.
func (s *Service) recount(r *rooms.Room) {
	for _, nid := range s.members(r) {
		if b, known := s.badges.Get(nid); known {
			b.recount(r.NID())
		}
	}
}

// replayPage bounds the events that are read from the database at a time.
const replayPage = 1000

// catchUp dispatches events whose commits the dispatcher did not get. It reads the events after the position s.pushed,
// or after the first one that a pusher may have missed, from the database. It includes all commits that the listener
// received before the call.
func (s *Service) catchUp(ctx context.Context) error {
	if err := s.db.Flush(ctx); err != nil { // so that Settled includes the commits that were delivered
		return err
	}
	after, needed := s.behindSince()
	if !needed {
		return nil
	}
	if err := s.catchUpReads(ctx, after); err != nil {
		return err
	}
	for more := true; more; {
		var rows []storage.LiveEvent
		err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
			rows, err = tx.LiveEvents(after, tx.Settled(), replayPage)
			return err
		})
		if err != nil {
			return err
		}
		for _, row := range rows {
			if err := s.replay(ctx, row); err != nil {
				return err
			}
			after = row.Position
		}
		s.mu.Lock()
		s.pushed = max(s.pushed, after)
		s.mu.Unlock()
		more = len(rows) == replayPage
	}
	return nil
}

// behindSince returns the position after which some pusher may have missed events. It returns false if there are no
// pushers, so that nobody can have missed any.
func (s *Service) behindSince() (after storage.Pos, needed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := true
	for _, p := range s.pushers {
		if first || p.seen < after {
			after, first = p.seen, false
		}
	}
	return max(after, s.pushed), !first
}

// replay adds an event to the queues of the members whom it may notify. Whether it notifies them is decided at
// delivery.
func (s *Service) replay(ctx context.Context, e storage.LiveEvent) error {
	r, err := s.opts.Rooms.RoomByNID(ctx, e.Room)
	if err != nil {
		return err
	}
	for _, nid := range s.members(r) {
		if nid != e.Sender {
			s.offerTo(nid, item{pos: e.Position, room: e.Room})
		}
	}
	return nil
}

// catchUpReads dispatches the receipts and invites after a position.
func (s *Service) catchUpReads(ctx context.Context, after storage.Pos) error {
	var reads []ident.UserNID
	var invites []storage.MemberRow
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		if reads, err = tx.ReadersSince(after); err != nil {
			return err
		}
		invites, err = tx.PushedInvites(after, replayPage)
		return err
	})
	if err != nil {
		return err
	}
	for _, nid := range reads {
		s.badges.Forget(nid)
		s.badgeChanged(nid, 0)
	}
	for _, m := range invites {
		s.offerTo(m.User, item{pos: m.Position, room: m.Room, invite: true})
	}
	return nil
}
