package feed

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
)

// Users of different servers who come to share a room see each other's presence at once, rather than when it next
// changes or is repeated.

const (
	// maxMeetings bounds the joins between two ticks for which presence is sent. For the others it waits until it is
	// repeated.
	maxMeetings = 1000
	// maxEarlyPresence bounds the remote users whose presence is kept although, as far as this server knows yet, they
	// share no room with a local user; maxEarlyOfServer bounds those of one server.
	maxEarlyPresence = 2000
	maxEarlyOfServer = 200
	// earlyPresenceLife is how long such presence is kept: joining a large room may take that long.
	earlyPresenceLife = 5 * time.Minute
)

// meeting records that a user joined a room. user is "" if all members of the room have just become known.
type meeting struct {
	room ident.RoomNID
	user id.UserID
}

// meetings holds the joins that have not been processed yet (pending), and the presence of remote users that arrived
// before the server knew that they share a room with it (early).
type meetings struct {
	mu       sync.Mutex // guards what follows; a leaf in docs/locks.md
	pending  map[meeting]struct{}
	early    map[id.UserID]earlyPresence
	ofServer map[string]int
}

type earlyPresence struct {
	presenceRecord
	server string
	at     time.Time
}

func newMeetings() *meetings {
	return &meetings{pending: map[meeting]struct{}{}, early: map[id.UserID]earlyPresence{}, ofServer: map[string]int{}}
}

// note adds the joins of a commit to pending, or the room itself if the commit has completed its member list.
func (m *meetings) note(c *rooms.Commit) {
	if c.Completed != 0 {
		m.add(meeting{room: c.Room.NID()})
		return
	}
	for i := range c.Members {
		if joined := &c.Members[i]; joined.Joined() && c.Room.Shared() {
			m.add(meeting{c.Room.NID(), joined.User})
		}
	}
}

func (m *meetings) add(met meeting) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.pending) < maxMeetings {
		m.pending[met] = struct{}{}
	}
}

// keep stores the presence of a remote user who shares no known room with this server yet.
func (m *meetings) keep(r presenceRecord, server string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, again := m.early[r.id]
	if !again && (len(m.early) >= maxEarlyPresence || m.ofServer[server] >= maxEarlyOfServer) {
		return
	}
	if !again {
		m.ofServer[server]++
	}
	m.early[r.id] = earlyPresence{r, server, now}
}

// take removes the pending joins and returns them. It also drops early presence that has become too old.
func (m *meetings) take(now time.Time) map[meeting]struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	for user, e := range m.early {
		if now.Sub(e.at) > earlyPresenceLife {
			m.forget(user)
		}
	}
	if len(m.pending) == 0 {
		return nil
	}
	pending := m.pending
	m.pending = map[meeting]struct{}{}
	return pending
}

// forget drops the early presence of the given user. The caller holds mu.
func (m *meetings) forget(user id.UserID) {
	server := m.early[user].server
	delete(m.early, user)
	if m.ofServer[server]--; m.ofServer[server] <= 0 {
		delete(m.ofServer, server)
	}
}

// candidates returns the early presence of the given user, or of all users if user is "".
func (m *meetings) candidates(user id.UserID) (found []earlyPresence) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if user != "" {
		if e, ok := m.early[user]; ok {
			found = append(found, e)
		}
		return found
	}
	for _, e := range m.early {
		found = append(found, e)
	}
	return found
}

// arrived applies the early presence of the given user, or of all users if user is "", as far as they are joined to the
// room.
func (s *Service) arrived(room *rooms.Room, user id.UserID, now time.Time) {
	for _, e := range s.meetings.candidates(user) {
		member := room.MemberOf(e.id)
		if member == nil || member.Membership != rooms.Join {
			continue
		}
		e.nid = member.NID
		s.presence.heard(e.presenceRecord, now)
		s.meetings.mu.Lock()
		s.meetings.forget(e.id)
		s.meetings.mu.Unlock()
	}
}

// introduce exchanges presence in the rooms that were joined since the last tick. The other servers in such a room are
// sent the presence of its local users, and local users see the presence that had arrived before its user joined.
func (s *Service) introduce(ctx context.Context, now time.Time) {
	served := map[string]map[ident.UserNID]bool{} // by server: the users whose presence was sent to it
	for m := range s.meetings.take(now) {
		room, err := s.opts.Rooms.RoomByNID(ctx, m.room)
		if err != nil || !spreadsPresence(room) {
			continue
		}
		user := m.user
		if s.opts.Rooms.IsLocal(user) {
			user = "" // the user may now see the presence of everybody in the room
			s.introduceLocal(room, m.user, served)
		} else if user != "" {
			s.introduceTo(room, serverName(user), served)
		}
		s.arrived(room, user, now)
	}
}

// introduceLocal sends the presence of a local user who joined a room to the other servers in it.
func (s *Service) introduceLocal(room *rooms.Room, user id.UserID, served map[string]map[ident.UserNID]bool) {
	member := room.MemberOf(user)
	if member == nil || member.Membership != rooms.Join {
		return
	}
	r, known := s.presence.of(member.NID)
	if !known || !r.notable() {
		return
	}
	servers := map[string]bool{}
	for _, server := range room.OtherServers() {
		if once(served, server, member.NID) {
			servers[server] = true
		}
	}
	s.sendPresence(r, servers)
}

// introduceTo sends the presence of the local users in a room to a server that has joined it.
func (s *Service) introduceTo(room *rooms.Room, server string, served map[string]map[ident.UserNID]bool) {
	if !room.HasServer(server) {
		return
	}
	var here []presencePush
	for member := range room.EachLocal() {
		if r, known := s.presence.of(member.NID); known && r.notable() && once(served, server, member.NID) {
			here = append(here, s.pushOf(r))
		}
	}
	for i, some := range slices.Collect(slices.Chunk(here, maxPresencePush)) {
		s.queueEDU([]string{server}, eduPresence, fmt.Sprint(room.ID(), i), presenceContent{some})
	}
}

// once returns true for the first call with this server and user in a tick, when the presence of the user is to be
// sent. It records in served that this is done, and returns false for further calls.
func once(served map[string]map[ident.UserNID]bool, server string, nid ident.UserNID) bool {
	if served[server] == nil {
		served[server] = map[ident.UserNID]bool{}
	}
	if served[server][nid] {
		return false
	}
	served[server][nid] = true
	return true
}

func serverName(user id.UserID) string {
	_, server, _ := user.Parse() // the rooms have only well-formed ones
	return server
}
