// Package wake keeps track of readers that wait for news, and wakes them.
//
// A reader parks, then looks for news, and waits to be woken if it found none. Because it parks before it looks, it
// never misses a change that is committed while it looks. A wake-up carries neither a position nor data; it only makes
// the reader look again. The reader finds out what is new by comparing positions.
//
// The methods that wake readers run in commit hooks. They take one lock, do no I/O and never wait for a reader.
package wake

import (
	"sync"

	"ebb/ident"
)

// Members is a set of users, such as the local members of a room. The hub reads it only during the call.
type Members interface {
	Len() int
	Has(user ident.UserNID) bool
	// Each calls f for every user until f returns false.
	Each(f func(user ident.UserNID) bool)
}

// Hub holds the readers that are parked, which means registered to be woken when there is news for them. Use New to
// create one.
type Hub struct {
	observer func(users ...ident.UserNID) // called with users who have news; may be nil

	// mu guards users, visitors and the links of every Sub; a leaf lock.
	mu       sync.Mutex
	users    map[ident.UserNID]*Sub // heads of the lists of readers by user
	visitors map[ident.RoomNID]*Sub // heads of the lists of readers by visited room
	count    int
}

// Sub is one parked reader, such as the long poll of a device or a worker that acts for a user.
type Sub struct {
	hub        *Hub
	user       ident.UserNID // the user whose news it waits for; 0 if it visits a room
	room       ident.RoomNID // the room that it visits; 0 if none
	device     ident.DeviceNID
	next, prev *Sub // links in the list of the user or room
	closed     bool
	news       uint64 // counts wake-ups; guarded by hub.mu, like rooms
	rooms      uint64
	call       func() // called for each wake-up; nil if the reader only counts news
}

// New returns a hub without readers.
func New() *Hub { return &Hub{users: map[ident.UserNID]*Sub{}, visitors: map[ident.RoomNID]*Sub{}} }

// Park registers a reader for a user's news. For each wake-up the hub calls f, under its lock; f must neither wait nor
// call the hub. The caller must Close the Sub.
func (h *Hub) Park(user ident.UserNID, device ident.DeviceNID, f func()) *Sub {
	return h.add(&Sub{hub: h, user: user, device: device, call: f})
}

// Watch registers a reader that is not woken but calls News to find out whether there were wake-ups. The caller must
// Close it.
func (h *Hub) Watch(user ident.UserNID, device ident.DeviceNID) *Sub {
	return h.add(&Sub{hub: h, user: user, device: device})
}

// Visit is like Park for a reader of the news of a room. Its user need not be a member of the room. The method Room
// wakes it.
func (h *Hub) Visit(room ident.RoomNID, f func()) *Sub {
	return h.add(&Sub{hub: h, room: room, call: f})
}

func (h *Hub) add(s *Sub) *Sub {
	h.mu.Lock()
	defer h.mu.Unlock()
	if head := h.head(s); head != nil {
		s.next, head.prev = head, s
	}
	h.setHead(s)
	if s.call != nil {
		h.count++
	}
	return s
}

// head returns the first reader of s's user or room.
func (h *Hub) head(s *Sub) *Sub {
	if s.room != 0 {
		return h.visitors[s.room]
	}
	return h.users[s.user]
}

// setHead makes s the first reader of its user or room.
func (h *Hub) setHead(s *Sub) {
	if s.room != 0 {
		h.visitors[s.room] = s
		return
	}
	h.users[s.user] = s
}

// Close removes the reader. When Close has returned, there are no more wake-ups. It may be called twice.
func (s *Sub) Close() {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	if s.call != nil {
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

// News returns how many wake-ups there have been since the Sub was created. own counts those meant for the user or
// device (by Users, Device, All and EachOf), and rooms counts those meant for a set that contains the user (by Members
// and All).
func (s *Sub) News() (own, rooms uint64) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return s.news, s.rooms
}

// wake increases the counts of s and of all readers after it in its list, and wakes them.
func (s *Sub) wake(own, rooms uint64) {
	for ; s != nil; s = s.next {
		s.signal(own, rooms)
	}
}

func (s *Sub) signal(own, rooms uint64) {
	s.news += own
	s.rooms += rooms
	if s.call != nil {
		s.call()
	}
}

// Users wakes all readers of these users.
func (h *Hub) Users(nids ...ident.UserNID) {
	h.wakeUsers(nids)
	h.observed(nids...)
}

func (h *Hub) wakeUsers(nids []ident.UserNID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, nid := range nids {
		h.users[nid].wake(1, 0)
	}
}

// Observe sets a function that is called with all users who have news of their own, whether or not they have readers.
// EachOf calls it without users. Observe must be called before the hub is used.
func (h *Hub) Observe(f func(users ...ident.UserNID)) { h.observer = f }

func (h *Hub) observed(users ...ident.UserNID) {
	if h.observer != nil {
		h.observer(users...)
	}
}

// Nudge wakes the waiting readers of these users, but the wake-up is not counted in the results of News.
func (h *Hub) Nudge(nids ...ident.UserNID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, nid := range nids {
		h.users[nid].wake(0, 0)
	}
}

// Room wakes the readers that visit a room.
func (h *Hub) Room(nid ident.RoomNID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.visitors[nid].wake(0, 1)
}

// Members wakes all readers whose user is in m. It iterates over the set or over the parked users, whichever are fewer.
// For a room of 50,000 members with three readers online it does three look-ups.
func (h *Hub) Members(m Members) { h.each(m, 0, 1) }

// EachOf is like Users for a set: it wakes all readers whose user is in m because of news of their own. It costs as
// much as Members.
func (h *Hub) EachOf(m Members) {
	h.each(m, 1, 0)
	h.observed()
}

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

// Parked returns the number of parked readers, not counting those from Watch.
func (h *Hub) Parked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count
}
