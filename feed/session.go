package feed

import (
	"container/list"
	"hash/maphash"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/storage"
	"ebb/wake"
)

const (
	// maxSessions bounds the devices that are remembered; a forgotten one's next sync asks the database.
	maxSessions = 20_000
	// sessionMemory is how long a device is remembered after its last request.
	sessionMemory = 5 * time.Minute
	// maxSentMembers bounds the member events that a device is known to have, 16 bytes each.
	maxSentMembers = 256
)

// sessions remembers devices from one request to the next, so that a long poll with nothing to say touches no table.
// Nothing here is needed for a right answer.
type sessions struct {
	hub  *wake.Hub
	seed maphash.Seed

	// mu guards what follows, not the sessions themselves. In docs/locks.md: before Hub.mu.
	mu       sync.Mutex
	byDevice map[sessionKey]*list.Element
	recent   *list.List // of *session, the one used last at the front
}

// sessionKey: device 0 is that of every user who acts without one.
type sessionKey struct {
	user   ident.UserNID
	device ident.DeviceNID
}

// session is what is remembered of one device.
type session struct {
	key sessionKey
	sub *wake.Sub

	// mu guards what follows; a leaf in docs/locks.md (News takes Hub.mu).
	mu   sync.Mutex
	used time.Time
	// closed: nobody counts the news any more. A request that still runs then looks everything up.
	closed bool
	// told is the position at which the device's own news (account data, to-device messages, device lists, key counts)
	// were last looked up, -1 for never; checked is sub.News() of just before. While that stands, nothing is newer than
	// told.
	told    storage.Pos
	checked uint64
	// toldRooms and checkedRooms are the same for the user's rooms.
	toldRooms    storage.Pos
	checkedRooms uint64
	delivered    storage.Pos // the newest to-device message given and not acknowledged; 0 if none
	keyCounts    []byte      // the members of the answer that tell one-time and fallback key counts
	sent         []sentMember
	sentCount    int
}

// sentMember stands for a member event given in the answer with next_batch pos.
type sentMember struct {
	key uint64
	pos storage.Pos
}

func newSessions(hub *wake.Hub) *sessions {
	return &sessions{hub: hub, seed: maphash.MakeSeed(), byDevice: map[sessionKey]*list.Element{}, recent: list.New()}
}

// of gives the session of a device.
func (m *sessions) of(user ident.UserNID, device ident.DeviceNID, now time.Time) *session {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := sessionKey{user, device}
	if e := m.byDevice[key]; e != nil {
		s := e.Value.(*session)
		s.mu.Lock()
		s.used = now
		s.mu.Unlock()
		m.recent.MoveToFront(e)
		return s
	}
	s := &session{key: key, sub: m.hub.Watch(user, device), used: now, told: -1, toldRooms: -1}
	m.byDevice[key] = m.recent.PushFront(s)
	if m.recent.Len() > maxSessions {
		m.drop(m.recent.Back())
	}
	return s
}

func (m *sessions) drop(e *list.Element) {
	s := m.recent.Remove(e).(*session)
	delete(m.byDevice, s.key)
	s.sub.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// tick forgets devices that have not asked for long.
func (m *sessions) tick(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for e := m.recent.Back(); e != nil; e = m.recent.Back() {
		s := e.Value.(*session)
		s.mu.Lock()
		old := now.Sub(s.used) > sessionMemory
		s.mu.Unlock()
		if !old {
			return
		}
		m.drop(e)
	}
}

// quiet tells whether there is no news of the device's own after since; news is sub.News(), asked after the position up
// to which the answer goes, since news that the position covers would be skipped for good.
func (s *session) quiet(since storage.Pos, news uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.closed && s.told >= 0 && since >= s.told && s.checked == news
}

// quietRooms tells the same of the user's rooms.
func (s *session) quietRooms(since storage.Pos, news uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.closed && s.toldRooms >= 0 && since >= s.toldRooms && s.checkedRooms == news
}

// seenRooms notes that the user's rooms up to upTo were looked at, when the count was news.
func (s *session) seenRooms(upTo storage.Pos, news uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.toldRooms, s.checkedRooms = upTo, news
}

// seen notes that the device's own news up to upTo were looked up, when the count was news.
func (s *session) seen(upTo storage.Pos, news uint64, keyCounts []byte, delivered storage.Pos) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told, s.checked, s.keyCounts = upTo, news, keyCounts
	s.delivered = max(s.delivered, delivered)
}

// acknowledge tells whether there may be to-device messages up to a position that the client has now confirmed.
func (s *session) acknowledge(upTo storage.Pos) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told >= 0 && (s.delivered == 0 || upTo < s.delivered) {
		return false
	}
	s.delivered = 0
	return true
}

// counts is the key counts as last looked up.
func (s *session) counts() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keyCounts
}

// memberKey names a member event as given to a chain of requests under a filter.
type memberKey struct {
	chain  uint32
	filter int64
	room   ident.RoomNID
	member id.UserID
	event  storage.Pos
}

// knows tells whether the client at token since was given the member event.
func (s *session) knows(seed maphash.Seed, k memberKey, since storage.Pos) bool {
	key := maphash.Comparable(seed, k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sent) == 0 {
		return false
	}
	slot := s.sent[key%uint64(len(s.sent))]
	return slot.key == key && slot.pos <= since
}

// gave notes the member events of the answer that ends at next. The table is direct-mapped: a clash only means that an
// event is given twice.
func (s *session) gave(seed maphash.Seed, members []memberKey, next storage.Pos) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range members {
		if 2*s.sentCount >= len(s.sent) && len(s.sent) < maxSentMembers {
			s.growSent()
		}
		key := maphash.Comparable(seed, k)
		slot := &s.sent[key%uint64(len(s.sent))]
		if slot.key == key && slot.pos <= next {
			continue // known since an older answer, which says more
		}
		if slot.key == 0 {
			s.sentCount++
		}
		*slot = sentMember{key, next}
	}
}

func (s *session) growSent() {
	old := s.sent
	s.sent, s.sentCount = make([]sentMember, max(16, 2*len(old))), 0
	for _, m := range old {
		if m.key != 0 {
			s.sent[m.key%uint64(len(s.sent))] = m
			s.sentCount++
		}
	}
}
