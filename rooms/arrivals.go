package rooms

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// incoming is a verified event of another server that is not part of the room yet.
type incoming struct {
	*pdu.Event
	relay bool // this server sends it on to the other servers
	asked bool // this server requested it

	// precedes: it is a sticky event that precedes the join with which this server entered the room.
	precedes bool

	unverified bool  // its signature cannot be checked: the event is undecided
	noAuth     bool  // one of its auth events cannot be fetched: the event is undecided
	followed   bool  // a valid event follows it: the event is kept even if it is undecided
	elsewhere  bool  // it cites an event of another room
	refused    error // why the room's policy server has not signed it

	fetchedAfter map[id.EventID]graph.State // the states after missing prev_events, as another server returned them
	behind       []id.EventID               // those keys of fetchedAfter that precede this server's join

	cited []graph.Entry // members that the event cites and that a partial-state room did not know

	lookup
	historical
}

// lookup holds what is read from the database before an event is placed. None of it depends on the room's head.
type lookup struct {
	sender  ident.UserNID // NID
	target  ident.UserNID // NID of the user that a member event is about
	outlier *Event        // the event as it is stored as an outlier, if it is

	relation   *pdu.Relation
	threadRoot storage.Pos

	redacted     *Event    // the target of an m.room.redaction; nil if it is not stored
	purgedSender id.UserID // the sender of the target, if the target was purged

	hasRedactions bool               // redactions of the event arrived before it
	earlier       []earlierRedaction // the valid ones of those redactions
	redactedBy    storage.Pos        // the first of earlier, if the event is stored in its redacted form

	late      bool        // other events that follow the event arrived before it
	lateOrder ident.Order // the order of the first of those events
}

// historical holds what is needed in addition to place an event of the history.
type historical struct {
	order         ident.Order  // its position in the timeline
	fetchedBefore graph.State  // the state before it, as another server returned it; nil if its prev_events are stored
	base          int64        // a snapshot that does not differ much from that state
	missing       []id.EventID // prev_events that are not stored
}

// storedEvents caches which events of a room are stored.
type storedEvents struct {
	svc  *Service
	room *Room

	known     map[id.EventID]*Event
	absent    map[id.EventID]bool // looked up and not stored
	elsewhere map[id.EventID]bool // of another room
}

func newStoredEvents(r *Room) *storedEvents {
	return &storedEvents{svc: r.svc, room: r, known: map[id.EventID]*Event{}, absent: map[id.EventID]bool{}, elsewhere: map[id.EventID]bool{}}
}

// find looks up the given events unless they were looked up before.
func (s *storedEvents) find(ctx context.Context, ids []id.EventID) error {
	var unknown []id.EventID
	for _, eventID := range ids {
		if s.known[eventID] == nil && !s.absent[eventID] {
			s.absent[eventID] = true
			unknown = append(unknown, eventID)
		}
	}
	return s.read(ctx, unknown)
}

// read looks up the given events, even if they were looked up before.
func (s *storedEvents) read(ctx context.Context, ids []id.EventID) error {
	found, err := s.svc.stored(ctx, s.room, ids)
	for eventID, e := range found {
		s.known[eventID] = e
	}
	return err
}

// forget clears the results, so that find looks everything up again.
func (s *storedEvents) forget() {
	clear(s.known)
	clear(s.absent)
}

// isPlaced reports whether an event is stored as part of the graph.
func (s *storedEvents) isPlaced(eventID id.EventID) bool {
	e := s.known[eventID]
	return e != nil && e.InGraph()
}

// unknownOf returns those of the given events that are not in known.
func unknownOf(known map[id.EventID]*Event, ids []id.EventID) (unknown []id.EventID) {
	for _, eventID := range ids {
		if known[eventID] == nil {
			unknown = append(unknown, eventID)
		}
	}
	return unknown
}

// arrivals holds events that one server sent for one room, and their results.
//
// They are processed in two steps. In the first step, called gathering, other servers are asked for what the events
// lack: missing events, states and auth events. In the second step, called placing, the events are authorised and
// stored; the room's receiving slot is held, and no requests are made. Events that lack nothing skip the first step.
type arrivals struct {
	*storedEvents
	origin string // the server that sent the events; "" if there are several

	waiting  map[id.EventID]*incoming // verified, and not placed yet
	unproven map[id.EventID]*incoming // with a signature that cannot be checked; see admitUnproven
	copies   map[id.EventID]*incoming // verified copies of events that are stored as undecided
	history  *ancestry                // the graph before this server's join; nil until it is needed

	results map[id.EventID]error
	lost    bool // an event could not be authorised, and may be when it comes again
}

func newArrivals(r *Room, origin string) *arrivals {
	return &arrivals{
		storedEvents: newStoredEvents(r), origin: origin,
		waiting: map[id.EventID]*incoming{}, unproven: map[id.EventID]*incoming{}, copies: map[id.EventID]*incoming{}, results: map[id.EventID]error{},
	}
}

// lookUpStored looks up which of the waiting events, and of the events that they refer to, are stored. Events that are
// part of the graph already are no longer waiting then.
func (a *arrivals) lookUpStored(ctx context.Context) error {
	a.admitUnproven()
	var ids []id.EventID
	for eventID, e := range a.waiting {
		ids = append(append(append(ids, eventID), e.PrevEvents()...), e.AuthEvents()...)
	}
	if err := a.find(ctx, ids); err != nil {
		return err
	}
	for eventID, w := range a.waiting {
		e := a.known[eventID]
		switch {
		case e == nil:
		case !e.InGraph():
			if w.unverified && graph.OutlierOf(e) != nil { // its signature was valid when it was stored
				w.Event, w.unverified = e.Event, false
			}
		case e.Undecided() && !w.unverified:
			a.copies[eventID] = w
			delete(a.waiting, eventID)
		default:
			a.finish(eventID, earlierRefusal(e))
			received.WithLabelValues("known").Inc()
		}
	}
	return nil
}

// lookUpAgain repeats lookUpStored, since other requests may have stored missing events meanwhile.
func (a *arrivals) lookUpAgain(ctx context.Context) error {
	a.forget()
	if err := a.lookUpStored(ctx); err != nil {
		return err
	}
	for _, e := range a.waiting {
		for prev := range e.fetchedAfter {
			if a.isPlaced(prev) {
				delete(e.fetchedAfter, prev)
			}
		}
		if len(e.fetchedAfter) == 0 {
			e.fetchedAfter = nil
		}
	}
	return nil
}

var (
	errRejectedBefore = errors.New("the event was rejected before")
	errNoAuthEvent    = errors.New("an auth event cannot be fetched")
	errNoPrevEvent    = errors.New("a prev_event cannot be fetched")
)

// earlierRefusal returns the reason why a stored event was not accepted, or nil if it was accepted.
func earlierRefusal(e *Event) error {
	switch {
	case e.Undecided():
		return errUndecided
	case e.Flags&storage.RejectedEvent != 0:
		return errRejectedBefore
	}
	return nil
}

// isTemporary reports whether err means that an event cannot be authorised yet.
func isTemporary(err error) bool {
	return errors.Is(err, errNoPrevEvent) || errors.Is(err, errNoAuthEvent) || errors.Is(err, errUndecided)
}

// finish removes a waiting event and records err as its result. If err only means that a referenced event could not be
// fetched, the sender gets no error, because the event can still be accepted later.
func (a *arrivals) finish(eventID id.EventID, err error) {
	e := a.waiting[eventID]
	delete(a.waiting, eventID)
	if e != nil && e.unverified { // no caller waits for the result
		return
	}
	if isTemporary(err) {
		a.lost, err = true, nil
	}
	a.results[eventID] = err
}

// has reports whether an event is part of the graph or is waiting.
func (a *arrivals) has(eventID id.EventID) bool {
	return a.waiting[eventID] != nil || a.isPlaced(eventID)
}

// lacksState reports whether prev, a prev_event of e, is missing and the state after it is unknown too.
func (a *arrivals) lacksState(e *incoming, prev id.EventID) bool {
	return !a.has(prev) && e.fetchedAfter[prev] == nil && !a.knownFromJoin(e, prev)
}

// lackingState returns the waiting events that have a prev_event for which lacksState is true, sorted by depth.
func (a *arrivals) lackingState() (out []*incoming) {
	for _, e := range a.waiting {
		if slices.ContainsFunc(e.PrevEvents(), func(prev id.EventID) bool { return a.lacksState(e, prev) }) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, byDepth)
	return out
}

// refuseLackingState rejects the events that lackingState returns, and the events that follow those.
func (a *arrivals) refuseLackingState() {
	followers := map[id.EventID][]id.EventID{}
	var lost []id.EventID
	for eventID, e := range a.waiting {
		for _, prev := range e.PrevEvents() {
			followers[prev] = append(followers[prev], eventID)
			if a.lacksState(e, prev) {
				lost = append(lost, eventID)
			}
		}
	}
	for len(lost) > 0 {
		eventID := lost[0]
		lost = lost[1:]
		if a.waiting[eventID] == nil {
			continue
		}
		a.finish(eventID, errNoPrevEvent)
		received.WithLabelValues("refused").Inc()
		lost = append(lost, followers[eventID]...)
	}
}

// lackingAuth returns a waiting event that cannot be authorised because one of its auth events is missing, or nil if
// there is no such event.
func (a *arrivals) lackingAuth() *incoming {
	var ids []id.EventID
	for eventID := range a.waiting {
		ids = append(ids, eventID)
	}
	slices.Sort(ids)
	for _, eventID := range ids {
		if e := a.waiting[eventID]; !e.unverified && !e.noAuth && len(a.missingAuth(e)) > 0 {
			return e
		}
	}
	return nil
}

// missingAuth returns those auth events of an event that are neither stored nor waiting. If another of its auth events
// was rejected, missingAuth returns none, because the event is going to be rejected anyway.
func (a *arrivals) missingAuth(e *incoming) (ids []id.EventID) {
	for _, auth := range e.AuthEvents() {
		known := a.known[auth]
		switch {
		case a.elsewhere[auth], known != nil && errors.Is(earlierRefusal(known.AsAuth()), errRejectedBefore):
			return nil
		case known == nil && a.waiting[auth] == nil:
			ids = append(ids, auth)
		}
	}
	return ids
}

// markFollowed marks each waiting event that another waiting event follows. Waiting events are valid, or a valid event
// follows them.
func (a *arrivals) markFollowed() {
	for _, e := range a.waiting {
		for _, prev := range e.PrevEvents() {
			if before := a.waiting[prev]; before != nil && before != e {
				before.followed = true
			}
		}
	}
}

func byDepth(a, b *incoming) int {
	return cmp.Or(cmp.Compare(a.Depth(), b.Depth()), cmp.Compare(a.OriginServerTS(), b.OriginServerTS()), cmp.Compare(a.ID(), b.ID()))
}

// idOf returns the ID of an event, which need not be valid, or "" if no ID can be computed.
func idOf(v *pdu.Version, raw json.RawMessage) id.EventID {
	if len(raw) > maxPDU {
		return ""
	}
	eventID, err := pdu.EventIDOf(v, raw)
	if err != nil {
		return ""
	}
	return eventID
}

// maxPDU bounds the JSON that is parsed for an event ID. Events have at most 64 KiB in canonical form, but may be sent
// with more whitespace.
const maxPDU = 1 << 20

var errUnknownRoomEvent = errors.New("the event belongs to another room")
