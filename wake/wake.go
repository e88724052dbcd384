// Package wake knows who waits for news, and wakes them.
//
// A reader parks before it looks, looks, and waits on its Sub when there was nothing; so a change that commits while
// it looks is never missed. A wake-up says only "look again": it carries no position and no data, and two wake-ups
// before the reader looks are one. What was really new is the reader's to find out, by comparing positions.
//
// The calls that wake run inside commit hooks: they take one lock, touch no I/O and never block on a reader.
package wake

import (
	"sync"

	"ebb/ident"
)

// Members is a set of users by nid, such as the local members of a room. The hub only reads it, within the call.
type Members interface {
	Len() int
	Has(user ident.UserNID) bool
	// Each calls f for every user until f returns false.
	Each(f func(user ident.UserNID) bool)
}

// Hub is the set of parked readers. Its zero value is not usable; see New.
type Hub struct {
	// mu guards users, visitors and every Sub's links. A leaf in docs/locks.md: nothing else is locked under it.
	mu       sync.Mutex
	users    map[ident.UserNID]*Sub // head of the user's list
	visitors map[ident.RoomNID]*Sub // head of the list of those who read a room without being in it
	count    int
}

// Sub is one parked reader: a device's long poll, or a worker acting for a user.
type Sub struct {
	hub        *Hub
	user       ident.UserNID // whose news it waits for; 0: it visits a room
	room       ident.RoomNID // the room that it visits; 0: none
	device     ident.DeviceNID
	next, prev *Sub // the other readers of the user or room
	closed     bool
	news       uint64 // guarded by hub.mu, as is rooms
	rooms      uint64
	c          chan struct{} // nil: only counts
}

// New returns a hub in which nobody is parked.
func New() *Hub { return &Hub{users: map[ident.UserNID]*Sub{}, visitors: map[ident.RoomNID]*Sub{}} }

// Park registers a reader for a user's news. Its channel holds at most one wake-up. The caller must Close it.
func (h *Hub) Park(user ident.UserNID, device ident.DeviceNID) *Sub {
	return h.add(&Sub{hub: h, user: user, device: device, c: make(chan struct{}, 1)})
}

// Watch registers one that never waits and only asks for News. The caller must Close it.
func (h *Hub) Watch(user ident.UserNID, device ident.DeviceNID) *Sub {
	return h.add(&Sub{hub: h, user: user, device: device})
}

// Visit registers a reader for the news of a room that it need not be in; Room wakes it. The caller must Close it.
func (h *Hub) Visit(room ident.RoomNID) *Sub {
	return h.add(&Sub{hub: h, room: room, c: make(chan struct{}, 1)})
}

func (h *Hub) add(s *Sub) *Sub {
	h.mu.Lock()
	defer h.mu.Unlock()
	if head := h.head(s); head != nil {
		s.next, head.prev = head, s
	}
	h.setHead(s)
	if s.c != nil {
		h.count++
	}
	return s
}

// head returns the first of the readers of s's user or room.
func (h *Hub) head(s *Sub) *Sub {
	if s.room != 0 {
		return h.visitors[s.room]
	}
	return h.users[s.user]
}

// setHead makes s the first of the readers of its user or room.
func (h *Hub) setHead(s *Sub) {
	if s.room != 0 {
		h.visitors[s.room] = s
		return
	}
	h.users[s.user] = s
}

// C receives when there may be something new since it last received.
func (s *Sub) C() <-chan struct{} { return s.c }

// Close removes the reader; no wake-up reaches it afterwards. Closing twice is allowed.
func (s *Sub) Close() {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	if s.c != nil {
		h.count--
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
	switch {
	case s.prev != nil:
		s.prev.next = s.next
	case s.next != nil:
		h.setHead(s.next)
	case s.room != 0:
		delete(h.visitors, s.room)
	default:
		delete(h.users, s.user)
	}
}

// News counts the wake-ups since the Sub was made: those of the user or device itself (Users, Device, All), and those of
// sets that the user is in (Members). EachOf counts as the former.
func (s *Sub) News() (own, rooms uint64) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return s.news, s.rooms
}

// wake leaves a wake-up where none waits yet, from s on through the user's list.
func (s *Sub) wake(own, rooms uint64) {
	for ; s != nil; s = s.next {
		s.signal(own, rooms)
	}
}

func (s *Sub) signal(own, rooms uint64) {
	s.news += own
	s.rooms += rooms
	select {
	case s.c <- struct{}{}: // never ready on a nil channel
	default:
	}
}

// Users wakes every reader of these users.
func (h *Hub) Users(nids ...ident.UserNID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, nid := range nids {
		h.users[nid].wake(1, 0)
	}
}

// Room wakes the visitors of a room.
func (h *Hub) Room(nid ident.RoomNID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.visitors[nid].wake(0, 1)
}

// Device wakes the readers of one device of a user, as a to-device message does.
func (h *Hub) Device(user ident.UserNID, device ident.DeviceNID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := h.users[user]; s != nil; s = s.next {
		if s.device == device {
			s.signal(1, 0)
		}
	}
}

// Members wakes every reader whose user is in m. It walks whichever is smaller, the set or the parked users: a room
// of 50,000 members with three readers online costs three look-ups.
func (h *Hub) Members(m Members) { h.each(m, 0, 1) }

// EachOf is Users for a set: it wakes every reader whose user is in m, for news of their own. It costs what Members does.
func (h *Hub) EachOf(m Members) { h.each(m, 1, 0) }

func (h *Hub) each(m Members, own, rooms uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m.Len() <= len(h.users) {
		m.Each(func(nid ident.UserNID) bool {
			h.users[nid].wake(own, rooms)
			return true
		})
		return
	}
	for nid, s := range h.users {
		if m.Has(nid) {
			s.wake(own, rooms)
		}
	}
}

// All wakes everybody.
func (h *Hub) All() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.users {
		s.wake(1, 1)
	}
	for _, s := range h.visitors {
		s.wake(1, 1)
	}
}

// Parked returns how many readers are parked; those who only watch do not count.
func (h *Hub) Parked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count
}
