package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"ebb/ident"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// Events from a server that is not known to be in the room, or whose senders are not known to be members, must not
// cause requests to other servers for what the events lack. Such a server may have joined through a third one whose
// transaction has not arrived yet. So:
//   - events that lack nothing are judged, without the network;
//   - if an event cites a membership of its sender that is not stored, that one event is fetched and decides;
//   - everything else is parked until the server is known to be in the room.
//
// Events that arrive while a local user is joining the room are parked too.

const (
	// maxParked bounds the bytes of parked events, maxParkedServer those of one server. Each event counts parkedEvent
	// bytes more.
	maxParked       = 16 << 20
	maxParkedServer = 1 << 20
	parkedEvent     = 512
	// maxParkedRooms bounds the rooms of servers for which events are parked.
	maxParkedRooms = 1000
	// parkTime is how long events are parked: as long as a join may take.
	parkTime = joinTime
	// A server can cause maxMemberFetches requests for member events at once and one more every memberFetchPause; all
	// servers together can cause maxAllMemberFetches and one more every allMemberFetchPause.
	maxMemberFetches    = 10
	memberFetchPause    = 30 * time.Second
	maxAllMemberFetches = 100
	allMemberFetchPause = time.Second
	// maxMemberCandidates is how many of the unknown auth events of an event are fetched, since any of them may be the
	// member event.
	maxMemberCandidates = 3
	// maxMemberServers is how many servers in the room are asked before the origin. memberTime bounds each request.
	maxMemberServers = 2
	memberTime       = 10 * time.Second
)

var errStranger = errors.New("neither the sender nor its server is known to be in the room")

// admits reports whether events from a server may cause requests to other servers for what they lack.
func (s *Service) admits(ctx context.Context, r *Room, origin string, raws []json.RawMessage) (bool, error) {
	resident := r.HasServer(origin)
	if resident && slices.ContainsFunc(raws, r.fromMember) {
		return true, nil
	}
	for _, raw := range raws {
		e, err := pdu.Parse(r.version, raw)
		if err != nil || e.RoomID() != r.id || ident.ServerOf(e.Sender()) != origin {
			continue
		}
		known, err := s.stored(ctx, r, e.AuthEvents())
		if err != nil {
			return false, err
		}
		unknown := unknownOf(known, e.AuthEvents())
		if resident && len(unknown) > 0 { // the membership may be among them, and the server may ask for as much by its members
			return true, nil
		}
		for _, eventID := range unknown[:min(len(unknown), maxMemberCandidates)] {
			if ok, err := s.fetchMembership(ctx, r, origin, e.Sender(), eventID); ok || err != nil {
				return ok, err
			}
		}
	}
	return false, nil
}

// fromMember reports whether an unverified event claims to be sent by a member of the room, or to be the member event
// of its sender.
func (r *Room) fromMember(raw json.RawMessage) bool {
	text := func(key string) string {
		value, _ := canonjson.Get(raw, key)
		return canonjson.String(value)
	}
	sender := id.UserID(text("sender"))
	return r.MayBeJoined(sender) || typeOf(raw) == typeMember && text("state_key") == string(sender)
}

// fetchMembership fetches one event and reports whether it is the user's join of the room. Servers in the room are
// asked first, since the origin could have forged it. The room's current state must allow it as well.
func (s *Service) fetchMembership(ctx context.Context, r *Room, origin string, user id.UserID, eventID id.EventID) (bool, error) {
	if s.opts.Remote == nil {
		return false, nil
	}
	servers := slices.DeleteFunc(r.others(maxMemberServers+1), func(server string) bool { return server == origin })
	for _, server := range append(servers[:min(len(servers), maxMemberServers)], origin) {
		if !s.gate.mayFetch(origin, s.opts.Now()) {
			return false, nil
		}
		e := s.fetchVerified(ctx, r, server, eventID)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		if e != nil {
			return s.hasJoinedBy(ctx, r, user, e)
		}
	}
	return false, nil
}

// fetchVerified requests an event from a server and verifies it. It returns nil if that fails.
func (s *Service) fetchVerified(ctx context.Context, r *Room, server string, eventID id.EventID) *pdu.Event {
	ctx, cancel := context.WithTimeout(ctx, memberTime)
	defer cancel()
	raw, err := s.opts.Remote.GetEvent(ctx, server, eventID)
	if err != nil || idOf(r.version, raw) != eventID {
		return nil
	}
	events, _ := s.verify(ctx, r.version, []json.RawMessage{raw})
	return events[0]
}

// hasJoinedBy reports whether a verified event makes a user a member, by its own auth events and by the current state.
func (s *Service) hasJoinedBy(ctx context.Context, r *Room, user id.UserID, e *pdu.Event) (bool, error) {
	if e.RoomID() != r.id || !e.IsStateKey(typeMember, string(user)) || e.Sender() != user || membershipIn(e.Content()) != Join {
		return false, nil
	}
	known, err := s.stored(ctx, r, e.AuthEvents())
	if err != nil {
		return false, err
	}
	if create := r.State(typeCreate, ""); create != nil {
		known[create.ID()] = create
	}
	judged := authorised(r.version, []*pdu.Event{e}, known, nil)
	if len(judged) != 1 || judged[0].Flags&storage.RejectedEvent != 0 {
		return false, nil
	}
	now := eventauth.StateMap{{Type: typeCreate}: known[r.State(typeCreate, "").ID()].Event}
	key, _ := e.StateKey()
	for _, k := range eventauth.AuthKeysFor(r.version, e.Type(), &key, e.Sender(), e.Content()) {
		if current := r.State(k.Type, k.Key); current != nil {
			now[k] = current.Event
		}
	}
	return eventauth.Check(r.version, e, now) == nil, nil
}

// receiveFromStranger authorises the events that lack nothing, and parks those of the others that may turn out to be
// valid.
func (s *Service) receiveFromStranger(ctx context.Context, r *Room, origin string, raws []json.RawMessage) (map[id.EventID]error, error) {
	results := map[id.EventID]error{}
	var good []*incoming
	var waiting []json.RawMessage
	for _, raw := range raws {
		e, err := s.verifyKnown(ctx, r, origin, raw)
		switch {
		case errors.Is(err, errNoKey):
			waiting = append(waiting, raw)
		case err == nil:
			good = append(good, &incoming{Event: e})
		}
		if eventID := idOf(r.version, raw); eventID != "" {
			results[eventID] = err
		}
	}
	complete, rest, err := s.completeAmong(ctx, r, good)
	if err != nil {
		return nil, err
	}
	for _, e := range rest {
		waiting = append(waiting, e.JSON())
	}
	s.parkAll(r, origin, waiting, results)
	if len(complete) == 0 {
		return results, nil
	}
	a := newArrivals(r, origin)
	err = a.process(ctx, nil, complete)
	maps.Copy(results, a.results)
	return results, err
}

// verifyKnown is verify for one event of a server that is not known to be in the room. If it needs the keys of a third
// server that is not in the room either, the error wraps errNoKey.
func (s *Service) verifyKnown(ctx context.Context, r *Room, origin string, raw json.RawMessage) (*pdu.Event, error) {
	e, err := pdu.Parse(r.version, raw)
	if err != nil {
		return nil, err
	}
	if e.RoomID() != r.id {
		return nil, errUnknownRoomEvent
	}
	for _, server := range pdu.RequiredSigners(e) {
		if server != origin && !r.HasServer(server) {
			return nil, fmt.Errorf("%w: of %s", errNoKey, server)
		}
	}
	events, errs := []*pdu.Event{e}, make([]error, 1)
	s.verifyEvents(ctx, events, errs)
	return events[0], errs[0]
}

// parkAll parks events if their server may turn out to be in the room, and sets the result of each.
func (s *Service) parkAll(r *Room, origin string, raws []json.RawMessage, results map[id.EventID]error) {
	refused := raws
	if !r.HasServer(origin) {
		refused = s.gate.park(s.opts.Now(), parkKey{origin, r.id}, raws)
	}
	for i, raw := range raws {
		if eventID := idOf(r.version, raw); eventID != "" {
			results[eventID] = nil // it may be accepted later
			if i >= len(raws)-len(refused) {
				results[eventID] = errStranger
			}
		}
	}
}

// completeAmong splits events into those that refer only to stored events or to each other, and the rest.
func (s *Service) completeAmong(ctx context.Context, r *Room, events []*incoming) (complete, rest []*incoming, err error) {
	var ids []id.EventID
	for _, e := range events {
		ids = append(append(ids, e.PrevEvents()...), e.AuthEvents()...)
	}
	known, err := s.stored(ctx, r, ids)
	if err != nil {
		return nil, nil, err
	}
	has := map[id.EventID]bool{}
	for eventID, e := range known {
		has[eventID] = placed(e)
	}
	lacks := func(prev id.EventID) bool { return !has[prev] }
	cites := func(auth id.EventID) bool { return !has[auth] && known[auth] == nil }
	for rest, events = events, nil; len(rest) != len(events); {
		events, rest = rest, nil
		for _, e := range events {
			if slices.ContainsFunc(e.PrevEvents(), lacks) || slices.ContainsFunc(e.AuthEvents(), cites) {
				rest = append(rest, e)
				continue
			}
			has[e.ID()] = true
			complete = append(complete, e)
		}
	}
	return complete, rest, nil
}

// Parked holds events that were parked and may be passed to Receive now.
type Parked struct {
	Origin string
	Room   id.RoomID
	PDUs   []json.RawMessage
}

// Unparked removes and returns the parked events that can be received now, because their server turned out to be in the
// room or the join of the room is done.
func (s *Service) Unparked() (out []Parked) {
	return s.gate.due(s.opts.Now(), func(key parkKey) bool {
		if s.joining.Busy(key.room) {
			return false
		}
		r := s.cache.byID(key.room)
		return r == nil || !r.Resident() || r.HasServer(key.origin)
	})
}

// MayUnpark returns a channel that receives a value when Unparked may have events soon. Callers should call Unparked
// every second as well.
func (s *Service) MayUnpark() <-chan struct{} { return s.gate.fresh }

// gate holds parked events and counts the fetches of memberships.
type gate struct {
	fresh chan struct{} // one slot
	// mu guards the rest. It is a leaf lock.
	mu      sync.Mutex
	parked  map[parkKey]*parked
	bytes   int
	servers map[string]int // parked bytes
	fetches map[string]spending
}

type parkKey struct {
	origin string
	room   id.RoomID
}

type parked struct {
	pdus  []json.RawMessage
	bytes int
	since time.Time
}

// spending is how much of a budget was used at a time. The budget is refilled over time.
type spending struct {
	used time.Duration
	at   time.Time
}

// spend uses one pause of a budget of n pauses, and reports whether the budget allowed it.
func (b spending) spend(now time.Time, n int, pause time.Duration) (spending, bool) {
	used := max(0, b.used-max(0, now.Sub(b.at))) + pause
	return spending{used, now}, used <= time.Duration(n)*pause
}

func newGate() *gate {
	return &gate{fresh: make(chan struct{}, 1), parked: map[parkKey]*parked{}, servers: map[string]int{}, fetches: map[string]spending{}}
}

// mayFetch counts the fetch of a member event for a server, and reports whether it is allowed.
func (g *gate) mayFetch(origin string, now time.Time) bool {
	const all = "" // no server has this name
	g.mu.Lock()
	defer g.mu.Unlock()
	own, ok := g.fetches[origin].spend(now, maxMemberFetches, memberFetchPause)
	if !ok {
		return false
	}
	sum, ok := g.fetches[all].spend(now, maxAllMemberFetches, allMemberFetchPause)
	if !ok {
		return false
	}
	for server, b := range g.fetches { // bounded by what the total has allowed recently
		if now.Sub(b.at) >= b.used {
			delete(g.fetches, server)
		}
	}
	g.fetches[origin], g.fetches[all] = own, sum
	return true
}

// park stores events and returns those that exceed the server's bound. If the total is exceeded, the server with the
// most events loses some.
func (g *gate) park(now time.Time, key parkKey, pdus []json.RawMessage) (refused []json.RawMessage) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, raw := range pdus {
		cost := len(raw) + parkedEvent
		if g.servers[key.origin]+cost > maxParkedServer {
			return pdus[i:]
		}
		for g.bytes+cost > maxParked || g.parked[key] == nil && len(g.parked) >= maxParkedRooms {
			g.evict()
		}
		p := g.parked[key]
		if p == nil {
			p = &parked{since: now}
			g.parked[key] = p
		}
		p.pdus, p.bytes = append(p.pdus, raw), p.bytes+cost
		g.bytes += cost
		g.servers[key.origin] += cost
	}
	return nil
}

// evict drops the events of one room of the server that has the most. mu is held.
func (g *gate) evict() {
	most := ""
	for server, bytes := range g.servers {
		if bytes > g.servers[most] {
			most = server
		}
	}
	for key := range g.parked {
		if key.origin == most {
			g.remove(key)
			return
		}
	}
}

// remove removes and returns the events of a server for a room. mu is held.
func (g *gate) remove(key parkKey) []json.RawMessage {
	p := g.parked[key]
	if p == nil {
		return nil
	}
	delete(g.parked, key)
	g.bytes -= p.bytes
	if g.servers[key.origin] -= p.bytes; g.servers[key.origin] == 0 {
		delete(g.servers, key.origin)
	}
	return p.pdus
}

// take removes and returns the events of a server for a room.
func (g *gate) take(key parkKey) []json.RawMessage {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.remove(key)
}

// due removes and returns what is ready, and drops what has been parked for too long.
func (g *gate) due(now time.Time, ready func(parkKey) bool) (out []Parked) {
	g.mu.Lock()
	keys := make(map[parkKey]time.Time, len(g.parked))
	for key, p := range g.parked {
		keys[key] = p.since
	}
	g.mu.Unlock()
	for key, since := range keys {
		switch {
		case ready(key):
			out = append(out, Parked{key.origin, key.room, g.take(key)})
		case now.Sub(since) > parkTime:
			g.take(key)
		}
	}
	return out
}

// announce signals that events may be ready.
func (g *gate) announce() {
	select {
	case g.fresh <- struct{}{}:
	default:
	}
}

// ServerIn reports whether a server is known to be in a room in which this server participates.
func (s *Service) ServerIn(ctx context.Context, room id.RoomID, server string) bool {
	r, err := s.Room(context.WithoutCancel(ctx), room)
	return err == nil && r.Resident() && r.HasServer(server)
}
