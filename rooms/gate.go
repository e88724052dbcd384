package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"ebb/ident"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/rooms/eventauth"
	"ebb/rooms/handshake"
	"ebb/rooms/parking"
	"ebb/rooms/pdu"
	"ebb/rooms/signatures"
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
	// maxMemberCandidates is how many of the unknown auth events of an event are fetched, since any of them may be the
	// member event.
	maxMemberCandidates = 3
	// maxMemberServers is how many servers in the room are asked before the origin. memberTime bounds each request.
	maxMemberServers = 2
	memberTime       = 10 * time.Second
)

var errStranger = errors.New("neither the sender nor its server is known to be in the room")

// admits reports whether events from the server origin may cause requests to other servers.
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
		if resident && len(unknown) > 0 { // the sender's join may be among them, and a server in the room may cause requests
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

// fromMember reports whether the sender of an event may be a member of the room, or the event claims to be the sender's
// own member event. The event is not verified yet.
func (r *Room) fromMember(raw json.RawMessage) bool {
	text := func(key string) string {
		value, _ := canonjson.Get(raw, key)
		return canonjson.String(value)
	}
	sender := id.UserID(text("sender"))
	return r.MayBeJoined(sender) || handshake.TypeOf(raw) == typeMember && text("state_key") == string(sender)
}

// fetchMembership fetches one event and reports whether it is a join of the user that the room's current state allows.
// Servers in the room are asked before the origin, since the origin could have forged the event.
func (s *Service) fetchMembership(ctx context.Context, r *Room, origin string, user id.UserID, eventID id.EventID) (bool, error) {
	if s.opts.Remote == nil {
		return false, nil
	}
	servers := slices.DeleteFunc(r.others(maxMemberServers+1), func(server string) bool { return server == origin })
	for _, server := range append(servers[:min(len(servers), maxMemberServers)], origin) {
		if !s.parking.MayFetch(origin, s.opts.Now()) {
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
	events, _ := s.verifier.Verify(ctx, r.version, []json.RawMessage{raw})
	return events[0]
}

// hasJoinedBy reports whether a verified event is a join of the user that both its own auth events and the current
// state allow.
func (s *Service) hasJoinedBy(ctx context.Context, r *Room, user id.UserID, e *pdu.Event) (bool, error) {
	if e.RoomID() != r.id || !e.IsStateKey(typeMember, string(user)) || e.Sender() != user || pdu.Membership(e.Content()) != Join {
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

// receiveFromStranger receives events from a server that may not cause requests. It authorises the events that lack
// nothing; of the others it parks those that may turn out to be valid.
func (s *Service) receiveFromStranger(ctx context.Context, r *Room, origin string, raws []json.RawMessage) (map[id.EventID]error, error) {
	results := map[id.EventID]error{}
	var good []*incoming
	var waiting []json.RawMessage
	for _, raw := range raws {
		e, err := s.verifyKnown(ctx, r, origin, raw)
		switch {
		case errors.Is(err, signatures.ErrNoKey):
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

// verifyKnown verifies one event of a server that may not cause requests. The error wraps signatures.ErrNoKey if the
// keys of a third server are needed that is not known to be in the room either.
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
			return nil, fmt.Errorf("%w: of %s", signatures.ErrNoKey, server)
		}
	}
	events, errs := []*pdu.Event{e}, make([]error, 1)
	s.verifier.VerifyParsed(ctx, events, errs)
	return events[0], errs[0]
}

// parkAll parks events, unless their server is known to be in the room, and sets the result of each event.
func (s *Service) parkAll(r *Room, origin string, raws []json.RawMessage, results map[id.EventID]error) {
	refused := raws
	if !r.HasServer(origin) {
		refused = s.parking.Park(s.opts.Now(), parking.Key{Origin: origin, Room: r.id}, raws)
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

// completeAmong splits events into two lists: complete has those that refer only to stored events and to each other,
// and rest has the others.
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
		has[eventID] = e.InGraph()
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

// Unparked removes and returns the parked events that can be received now. Their server has turned out to be in the
// room, or a local user has finished joining the room.
func (s *Service) Unparked() []parking.Events {
	return s.parking.Due(s.opts.Now(), func(key parking.Key) bool {
		if s.joining.Busy(key.Room) {
			return false
		}
		r := s.cache.ByID(key.Room)
		return r == nil || !r.Resident() || r.HasServer(key.Origin)
	})
}

// MayUnpark returns a channel that receives a value when Unparked may return events. Not every case is signalled, so
// callers should also call Unparked once a second.
func (s *Service) MayUnpark() <-chan struct{} { return s.parking.Fresh() }

// ServerIn reports whether this server participates in the given room and knows the given server to be in it.
func (s *Service) ServerIn(ctx context.Context, room id.RoomID, server string) bool {
	r, err := s.Room(context.WithoutCancel(ctx), room)
	return err == nil && r.Resident() && r.HasServer(server)
}
