// wake sends a wake-up to each reader from s on that has none pending.
package wake

import (
	"sync"

	"ebb/ident"
)

// Members is a set of users, such as the local members of a room. The hub reads it during the call only.
type Members interface {
	Len() int
	Has(user ident.UserNID) bool
	// Each calls f for every user until f returns false.
	Each(f func(user ident.UserNID) bool)
}

// Hub is the set of parked readers. Its zero value is not usable; see New.
type Hub struct {
	observer func(users ...ident.UserNID) // nil: none

	// mu guards users, visitors and every Sub's links. A leaf in docs/locks.md: nothing else is locked under it.
	mu       sync.Mutex
	users    map[ident.UserNID]*Sub // heads of the lists of readers by user
	visitors map[ident.RoomNID]*Sub // heads of the lists of readers that visit a room
	count    int
}

// Sub is one parked reader: a device's long poll, or a worker acting for a user.
type Sub struct {
	hub        *Hub
	user       ident.UserNID // the user whose news it waits for; 0: it visits a room
	room       ident.RoomNID // the room that it visits; 0 if none
	device     ident.DeviceNID
	next, prev *Sub // links in the list of the user or room
	closed     bool
	news       uint64 // guarded by hub.mu, like rooms
	rooms      uint64
	c          chan struct{} // nil: the reader only counts news
}

// New returns a hub without readers.
func New() *Hub { return &Hub{users: map[ident.UserNID]*Sub{}, visitors: map[ident.RoomNID]*Sub{}} }

// Park registers a reader for a user's news. Its channel holds at most one wake-up. The caller must Close it.
func (h *Hub) Park(user ident.UserNID, device ident.DeviceNID) *Sub {
	return h.add(&Sub{hub: h, user: user, device: device, c: make(chan struct{}, 1)})
}

// Watch registers a reader that never waits and only calls News. The caller must Close it.
func (h *Hub) Watch(user ident.UserNID, device ident.DeviceNID) *Sub {
	return h.add(&Sub{hub: h, user: user, device: device})
}

// Visit registers a reader for the news of a room whose user need not be a member. Room wakes it. The caller must Close
// it.
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

// C returns a channel that receives when there may be news since the last receive.
func (s *Sub) C() <-chan struct{} { return s.c }

// Close removes the reader, which then gets no more wake-ups. Closing twice is allowed.
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

// News returns the numbers of wake-ups since the Sub was created: own counts those of the user or device itself (Users,
// Device, All, EachOf), rooms those of sets that contain the user (Members, All).
func (s *Sub) News() (own, rooms uint64) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return s.news, s.rooms
}

// wake adds to the counts of s and all later readers in its list, and leaves a wake-up for each that has none pending.
func (s *Sub) wake(own, rooms uint64) {
	for ; s != nil; s = s.next {
		s.signal(own, rooms)
	}
}

func (s *Sub) signal(own, rooms uint64) {
	s.news += own
	s.rooms += rooms
	select {
	case s.c <- struct{}{}: // never ready if the channel is nil
	default:
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

// Observe makes f be called with all users who have news of their own, whether they have readers or not. For EachOf, it
// is called without users. It must be called before the hub is used.
func (h *Hub) Observe(f func(users ...ident.UserNID)) { h.observer = f }

func (h *Hub) observed(users ...ident.UserNID) {
	if h.observer != nil {
		h.observer(users...)
	}
}

// Nudge wakes the waiting readers of these users for news that News does not count.
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

// Device wakes the readers of one device of a user, for instance for a to-device message.
func (h *Hub) Device(user ident.UserNID, device ident.DeviceNID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := h.users[user]; s != nil; s = s.next {
		if s.device == device {
			s.signal(1, 0)
		}
	}
}

// Members wakes all readers whose user is in m. It iterates over either the set or the parked users, whichever are
// fewer: a room of 50,000 members with three readers online costs three lookups.
func (h *Hub) Members(m Members) { h.each(m, 0, 1) }

// EachOf is like Users for a set: it wakes all readers whose user is in m, for news of their own. It costs the same as
// Members.
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

// All wakes all readers.
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

// Parked returns the number of parked readers, not counting those from Watch.
func (h *Hub) Parked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count
}
