// Package feed sends news to clients: /sync with its tokens and filters, sliding sync, and the volatile streams,
// typing and presence.
//
// How a /sync travels: Sync parses the request, parks at the wake.Hub and only then builds an answer, so that no
// wake-up is lost. If there is nothing new it waits to be woken and builds again. Nothing is built while a client
// waits, so a waiting request holds no content that could expire in the meantime.
//
// A builder makes one answer, up to the position that the database has announced:
//
//   - makePlan selects the rooms that may have news. It compares positions in memory.
//   - ownNews and sharingNews gather what concerns the user and the device: account data, to-device messages, device
//     lists.
//   - writeRooms goes through the rooms. For each, gatherJoined, gatherLeft or gatherStripped fills a roomNews and
//     reports whether it has news; if it has, writeJoined, writeLeft, writeInvited or writeKnocked appends JSON.
//   - writePresence and writeOwn append the rest.
//
// The files gather_*.go, timeline.go, state.go and summary.go gather and append nothing to the answer; what to gather
// of a joined room is a roomQuery, so that another form of sync can ask for each room differently (gatherRoom). The
// files write_*.go append and decide nothing. Events are bytes that were made once for all readers. The writer appends
// them through history, which checks visibility, ignored users and expiry again by the clock at that moment.
//
// Sliding sync (the files sliding*.go) selects rooms by lists and subscriptions, and then gathers and appends them by
// the same functions: a slidingBuilder has a builder. What its clients have is kept in connections (slidingConn).
//
// Package feed writes nothing to the database but filters, connections of sliding sync and the acknowledgement of
// to-device messages.
package feed

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"ebb/accountdata"
	"ebb/history"
	"ebb/ident"
	"ebb/keyed"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
	"ebb/wake"
)

// Options configures a Service. E2EE, Push and Alive may be nil: their part is then left out. By default, Now is the
// real time and nothing is logged.
type Options struct {
	Cache       keyed.Budget // bounds the caches
	DB          *storage.DB
	Rooms       *rooms.Service
	AccountData *accountdata.Service
	History     *history.Service
	// Commits are the commits of Rooms.
	Commits *rooms.Commits
	E2EE    E2EE
	Push    Push
	Hub     *wake.Hub
	Now     func() time.Time
	Log     *slog.Logger
	// AfterFunc calls f after d unless stop is called first, like time.AfterFunc, which is the default. It is used for
	// the timeouts of waiting requests.
	AfterFunc func(d time.Duration, f func()) (stop func() bool)
	// Server is this server's name. Outgoing sends to other servers; nil: there are none. Without SendPresence,
	// presence is not sent to other servers, and theirs is ignored.
	Server       string
	Outgoing     Outgoing
	SendPresence bool
	// Apps gets typing and presence; nil: there are no application services.
	Apps AppServices
	// Alive returns the error for a waiting request whose device was deleted or whose account was locked meanwhile. It
	// is called before the request is answered.
	Alive func(ctx context.Context, user ident.UserNID, device ident.DeviceNID) error
}

// Outgoing sends ephemeral data to other servers; outbox.Service is one.
type Outgoing interface {
	// Queue queues data that may be lost. It replaces data that is queued for the server under the same key.
	Queue(server, key string, edu json.RawMessage)
}

// AppServices are the application services that get ephemeral data; appservice.Service is one.
type AppServices interface {
	// Typing passes on a room's m.typing event, as clients get it.
	Typing(room *rooms.Room, event []byte)
	// PresenceWanted reports whether Presence has an effect.
	PresenceWanted() bool
	// Presence passes on a user's m.presence event. shared are the rooms whose members see the user's presence.
	Presence(user id.UserID, shared []*rooms.Room, event []byte)
}

// Service answers /sync requests and keeps typing and presence. It is safe for concurrent use.
type Service struct {
	opts     Options
	epoch    uint32 // of the volatile streams: this run of the server
	typing   *typing
	presence *presence
	meetings *meetings
	sessions *sessions
	filters  *filterCache
	profiles *profileWatch
	past     *keyed.Map[pastKey, storage.Pos]
	scratch  sync.Pool // of *scratch

	sliding *slidingMemory

	stopOnce sync.Once
	stopped  chan struct{} // closed when waiting requests must end
}

// New returns a new Service. Run must run beside it for typing and presence to time out.
func New(o Options) *Service {
	if o.AfterFunc == nil {
		o.AfterFunc = func(d time.Duration, f func()) func() bool { return time.AfterFunc(d, f).Stop }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		opts: o, epoch: random32(), typing: newTyping(), presence: newPresence(), meetings: newMeetings(),
		sessions: newSessions(o.Hub), profiles: newProfileWatch(o.DB.Announced()), filters: newFilterCache(o.Cache.Bytes(maxFilters)), past: keyed.NewMap[pastKey, storage.Pos](o.Cache.Entries(maxPast)), stopped: make(chan struct{}),
		scratch: sync.Pool{New: func() any { return new(scratch) }}, sliding: newSlidingMemory(o),
	}
	o.Commits.Subscribe(s.committed)
	return s
}

// random32 returns a random number that identifies a run or a chain. It need not be secret.
func random32() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint32(b[:])
}

// tickInterval is how often timeouts are applied. Presence changes are sent at this pace, so that a room of people who
// come online together does not wake everybody once for each.
const tickInterval = time.Second

// Run calls Tick regularly until ctx ends. It then makes all waiting requests return, so that the server can stop.
func (s *Service) Run(ctx context.Context) error {
	defer s.stopOnce.Do(func() { close(s.stopped) })
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			s.Tick(ctx)
		}
	}
}

// Tick applies timeouts: it ends typing notifications, sets silent devices offline and wakes clients with news.
func (s *Service) Tick(ctx context.Context) {
	now := s.opts.Now()
	changed, ended := s.typing.expire(now)
	for _, nid := range changed {
		s.wakeRoom(ctx, nid)
	}
	for _, e := range ended {
		if room, err := s.opts.Rooms.RoomByNID(ctx, e.room); err == nil {
			s.sendTyping(room, e.user, false)
		}
	}
	s.introduce(ctx, now)
	s.presence.tick(now)
	s.flushPresence(ctx)
	s.sessions.tick(now)
	s.sweepSliding(ctx, now)
}

// wakeRoom calls typingChanged for the given room.
func (s *Service) wakeRoom(ctx context.Context, nid ident.RoomNID) {
	room, err := s.opts.Rooms.RoomByNID(ctx, nid)
	if err != nil {
		s.opts.Log.WarnContext(ctx, "Cannot load a room to wake its members", "room", nid, "error", err)
		return
	}
	s.typingChanged(room)
}

// typingChanged is called when the list of the users who are typing in a room has changed. It wakes the room's local
// members, and passes the list to application services.
func (s *Service) typingChanged(room *rooms.Room) {
	s.opts.Hub.Members(room.LocalMembers())
	if s.opts.Apps != nil {
		s.opts.Apps.Typing(room, appendTyping(nil, s.typing.current(room.NID())))
	}
}

// flushPresence wakes the users who share a room with a user whose presence changed, and passes the presence to
// application services.
func (s *Service) flushPresence(ctx context.Context) {
	done := map[ident.RoomNID]bool{}
	now := s.opts.Now()
	for _, r := range s.presence.flush(now) {
		s.opts.Hub.Nudge(r.nid) // without counting it as news of the user, for which /sync would read the database
		var shared []*rooms.Room
		s.spread(ctx, r, func(room *rooms.Room) {
			shared = append(shared, room)
			if !done[room.NID()] {
				done[room.NID()] = true
				s.opts.Hub.Members(room.LocalMembers())
			}
		})
		if s.opts.Apps != nil && s.opts.Apps.PresenceWanted() {
			s.opts.Apps.Presence(r.id, shared, r.appendEvent(nil, now))
		}
	}
	if !s.opts.SendPresence {
		return
	}
	for _, r := range s.presence.pings(now) {
		s.spread(ctx, r, func(*rooms.Room) {})
	}
}

// spread calls f for each room whose members see the given user's presence. If the user is local, it also sends the
// presence to the other servers in these rooms.
func (s *Service) spread(ctx context.Context, r presenceRecord, f func(*rooms.Room)) {
	servers := map[string]bool{}
	err := s.eachSpreading(ctx, r, func(room *rooms.Room) {
		f(room)
		if s.opts.SendPresence && !r.remote {
			for server := range room.EachServer() {
				servers[server] = true
			}
		}
	})
	if err != nil {
		s.opts.Log.WarnContext(ctx, "Cannot list the rooms of a user to send presence", "user", r.nid, "error", err)
	}
	delete(servers, s.opts.Server)
	if len(servers) > 0 {
		s.sendPresence(r, servers)
	}
}

// spreadsPresence reports whether a room's members see each other's presence.
func spreadsPresence(room *rooms.Room) bool { return room.Count(rooms.Join) <= presenceRoomLimit }

// SetTyping records that the requester is typing in a room, or has stopped if typing is false. The notification ends
// after timeout, or after a default time if timeout is 0.
// Spec: client-server-api#put_matrixclientv3roomsroomidtypinguserid
func (s *Service) SetTyping(ctx context.Context, who ident.Requester, roomID id.RoomID, typing bool, timeout time.Duration) error {
	room, err := s.opts.Rooms.Room(ctx, roomID)
	if err != nil || room.Membership(who.UserID) != rooms.Join {
		return mxerr.Forbidden("You are not in this room")
	}
	now := s.opts.Now()
	s.presence.touch(who.UserNID, now)
	var until time.Time
	if typing {
		if timeout <= 0 {
			timeout = defaultTyping
		}
		until = now.Add(min(timeout, maxTyping))
	}
	changed, tell := s.typing.set(room.NID(), typist{nid: who.UserNID, user: who.UserID, until: until}, now)
	if changed {
		s.typingChanged(room)
	}
	if tell {
		s.sendTyping(room, who.UserID, typing)
	}
	return nil
}

// committed is the rooms.Listener of the Service. It ends the typing notifications of users who have left a room, which
// other servers infer from the member event. It also records joins and changed profiles, for presence and for clients
// that wait for profiles.
func (s *Service) committed(c *rooms.Commit) {
	s.forgetSlidingUsers(c)
	for i := range c.Members {
		if m := &c.Members[i]; m.Left() {
			s.typing.set(c.Room.NID(), typist{nid: m.NID}, s.opts.Now())
		}
	}
	if s.opts.SendPresence {
		s.meetings.note(c)
	}
	if len(c.Profiles) > 0 {
		s.profiles.changed(c.Profiles, s.opts.Hub)
	}
	if len(c.Forgotten) > 0 {
		s.opts.Hub.Users(c.Forgotten...) // the lists of sliding sync have one room less
	}
}

// maxStatus bounds a status message in bytes. It is sent to everybody who shares a room with the user.
const maxStatus = 1024

// SetPresence sets the requester's presence and status message; a nil status removes the message.
// Spec: client-server-api#put_matrixclientv3presenceuseridstatus
func (s *Service) SetPresence(ctx context.Context, who ident.Requester, state string, status *string) error {
	parsed, err := parsePresence(state)
	if err != nil {
		return err
	}
	if status != nil && len(*status) > maxStatus {
		return mxerr.TooLarge("status_msg must not be longer than %d bytes", maxStatus)
	}
	s.presence.set(who.UserNID, who.UserID, who.DeviceNID, parsed, status, s.opts.Now())
	return nil
}

func parsePresence(state string) (event.Presence, error) {
	switch p := event.Presence(state); p {
	case event.PresenceOnline, event.PresenceUnavailable, event.PresenceOffline:
		return p, nil
	}
	return "", mxerr.InvalidParam("presence must be one of online, unavailable, offline")
}

// Presence returns the presence of a user as the content of m.presence. The user must share a room with the requester.
// Spec: client-server-api#get_matrixclientv3presenceuseridstatus
func (s *Service) Presence(ctx context.Context, who ident.Requester, user id.UserID) ([]byte, error) {
	nid := who.UserNID
	if user != who.UserID {
		var err error
		if nid, err = s.roommate(ctx, who.UserNID, user); err != nil {
			return nil, err
		}
	}
	record, _ := s.presence.of(nid)
	return record.appendContent(nil, s.opts.Now()), nil
}

// roommate looks up the UserNID of a user who shares a room with a local user.
func (s *Service) roommate(ctx context.Context, nid ident.UserNID, user id.UserID) (ident.UserNID, error) {
	memberships, err := s.opts.Rooms.Memberships(ctx, nid)
	if err != nil {
		return 0, err
	}
	for _, m := range memberships {
		if m.Membership != rooms.Join {
			continue
		}
		room, err := s.opts.Rooms.RoomByNID(ctx, m.Room)
		if err != nil {
			return 0, err
		}
		if other := room.MemberOf(user); other != nil && other.Membership == rooms.Join {
			return other.NID, nil
		}
	}
	return 0, mxerr.Forbidden("You do not share a room with this user")
}
