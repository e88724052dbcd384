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
	// maxSessions bounds the devices in memory. The next sync of a forgotten device reads the database.
	maxSessions = 20_000
	// sessionMemory is how long a device is remembered after its last request.
	sessionMemory = 5 * time.Minute
	// maxSentMembers bounds the member events that are remembered as sent to a device, 16 bytes each.
	maxSentMembers = 256
)

// sessions remembers devices from one request to the next, so that a long poll without news reads no table. Answers are
// correct without it.
type sessions struct {
	hub  *wake.Hub
	seed maphash.Seed

	// mu guards what follows, not the sessions themselves. In docs/locks.md: before Hub.mu.
	mu       sync.Mutex
	byDevice map[sessionKey]*list.Element
	recent   *list.List // of *session, the one used last at the front
}

// sessionKey identifies a device. All requests of a user without a device share device 0.
type sessionKey struct {
	user   ident.UserNID
	device ident.DeviceNID
}

// session holds the state that is kept in memory for one device.
type session struct {
	key sessionKey
	sub *wake.Sub

	// mu guards what follows; a leaf in docs/locks.md (News takes Hub.mu).
	mu   sync.Mutex
	used time.Time
	// closed: the hub does not count news for this session any more. A request that still uses it looks everything up.
	closed bool
	// seenUpTo is the position up to which the device's own news (account data, to-device messages, device lists, key
	// counts) were last looked up, -1 for never; seenNews is sub.News() from just before. As long as sub.News() stays
	// the same, nothing is newer than seenUpTo.
	seenUpTo storage.Pos
	seenNews uint64
	// seenRoomsUpTo and seenRoomsNews are the same for the user's rooms.
	seenRoomsUpTo storage.Pos
	seenRoomsNews uint64
	delivered     storage.Pos // the newest to-device message sent and not acknowledged; 0 if none
	keyCounts     []byte      // the counts of one-time and fallback keys: JSON keys and values
	sent          []sentMember
	sentCount     int
}

// sentMember records that a member event was sent. key is the hash of its memberKey, and pos the position of the
// answer's next_batch.
type sentMember struct {
	key uint64
	pos storage.Pos
}

func newSessions(hub *wake.Hub) *sessions {
	return &sessions{hub: hub, seed: maphash.MakeSeed(), byDevice: map[sessionKey]*list.Element{}, recent: list.New()}
}

// of returns the session of the given device. It creates the session if there is none.
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
	s := &session{key: key, sub: m.hub.Watch(user, device), used: now, seenUpTo: -1, seenRoomsUpTo: -1}
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

// tick forgets devices whose last request was long ago.
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

// quiet reports whether the device itself has no news after the position since. news is the value of sub.News(). The
// caller must read it after it has fixed the position up to which the answer goes; otherwise news up to that position
// might never be sent.
func (s *session) quiet(since storage.Pos, news uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.closed && s.seenUpTo >= 0 && since >= s.seenUpTo && s.seenNews == news
}

// quietRooms is like quiet, but for news in the user's rooms.
func (s *session) quietRooms(since storage.Pos, news uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.closed && s.seenRoomsUpTo >= 0 && since >= s.seenRoomsUpTo && s.seenRoomsNews == news
}

// seenRooms records that news in the user's rooms have been looked up to the position upTo. news is the value that
// sub.News() had before.
func (s *session) seenRooms(upTo storage.Pos, news uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seenRoomsUpTo, s.seenRoomsNews = upTo, news
}

// seen records that the device's own news have been looked up to the position upTo. news is the value that sub.News()
// had before.
func (s *session) seen(upTo storage.Pos, news uint64, keyCounts []byte, delivered storage.Pos) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seenUpTo, s.seenNews, s.keyCounts = upTo, news, keyCounts
	s.delivered = max(s.delivered, delivered)
}

// acknowledge reports whether the database may still have to-device messages up to the position upTo, which the client
// has confirmed. If so, the caller deletes them.
func (s *session) acknowledge(upTo storage.Pos) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seenUpTo >= 0 && (s.delivered == 0 || upTo < s.delivered) {
		return false
	}
	s.delivered = 0
	return true
}

// counts returns the key counts of the device as they were last read.
func (s *session) counts() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keyCounts
}

// memberKey identifies a member event that was sent to a client. A client is a chain of requests (see Token) with the
// same filter.
type memberKey struct {
	chain  uint32
	filter int64
	room   ident.RoomNID
	member id.UserID
	event  storage.Pos
}

// wasSent reports whether a client that has the token since was sent the member event k before.
func (s *session) wasSent(seed maphash.Seed, k memberKey, since storage.Pos) bool {
	key := maphash.Comparable(seed, k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sent) == 0 {
		return false
	}
	slot := s.sent[key%uint64(len(s.sent))]
	return slot.key == key && slot.pos <= since
}

// noteSent records the member events in the answer whose next_batch has the position next. The table is direct-mapped:
// an event that another one has displaced may be sent again.
func (s *session) noteSent(seed maphash.Seed, members []memberKey, next storage.Pos) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range members {
		if 2*s.sentCount >= len(s.sent) && len(s.sent) < maxSentMembers {
			s.growSent()
		}
		key := maphash.Comparable(seed, k)
		slot := &s.sent[key%uint64(len(s.sent))]
		if slot.key == key && slot.pos <= next {
			continue // known from an older answer, which is valid for older tokens too
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
