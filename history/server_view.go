package history

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/expiry"
	"ebb/rooms/visibility"
	"ebb/storage"
)

// Bounds of one request of another server.
const (
	maxBackfill       = 100
	maxMissingAnswer  = 100
	maxServerWalk     = 2000 // events read
	defaultMissing    = 10
	maxEarliestEvents = 100
)

// serverView is another server's view of a room during one response. The server sees what its users could: if the
// history is visible only to members, it needs a member at the time. Events that it may not see are redacted, so that
// the event graph stays complete, and so are expired messages.
type serverView struct {
	svc    *Service
	room   *rooms.Room
	server string
	tx     *storage.Tx
	states map[int64]serverState // states before the events that were passed to prepare
	policy expiry.Policy
}

// forServer calls f with the view of a server that is in the room.
func (s *Service) forServer(ctx context.Context, origin string, room id.RoomID, f func(v *serverView) error) error {
	r, err := s.rooms.RoomForServer(ctx, origin, room)
	if err != nil {
		return err
	}
	if !r.HasServer(origin) {
		return mxerr.Forbidden("Your server is not in the room")
	}
	return s.db.Read(ctx, func(tx *storage.Tx) error {
		return f(&serverView{svc: s, room: r, server: origin, tx: tx, states: map[int64]serverState{}, policy: r.Retention()})
	})
}

// serverState is the part of a room state that determines whether the server may see events sent in it.
type serverState struct {
	history         visibility.History
	joined, invited bool // whether a user of the server was joined or invited
}

func (st serverState) visible() bool {
	switch st.history {
	case visibility.Joined:
		return st.joined
	case visibility.Invited:
		return st.joined || st.invited
	}
	return true
}

// prepare reads what the methods sees and shown need to know of the states before the given events, for all events at
// once.
func (v *serverView) prepare(events []*rooms.Event) error {
	var wanted []storage.StateKey
	for _, e := range events {
		if _, known := v.states[e.Snapshot]; !known && e.Snapshot != 0 && !v.concerns(e) {
			v.states[e.Snapshot] = serverState{history: visibility.Shared}
			wanted = append(wanted, storage.StateKey{Snapshot: e.Snapshot, Type: typeHistoryVisibility})
		}
	}
	positions, err := v.tx.StateKeysOf(wanted)
	if err != nil {
		return err
	}
	histories, err := v.room.EventsAt(v.tx, slices.Collect(maps.Values(positions)))
	if err != nil {
		return err
	}
	for key, pos := range positions {
		if e := histories[pos]; e != nil {
			v.states[key.Snapshot] = serverState{history: visibility.ParseHistory(e.Content())}
		}
	}
	return v.prepareMembers(events)
}

// prepareMembers finds out in which of the given states the server had members, for those states in which visibility
// depends on it.
func (v *serverView) prepareMembers(events []*rooms.Event) error {
	var snapshots []int64
	for _, e := range events {
		if st, known := v.states[e.Snapshot]; known && (v.erased(e) && !st.joined || !st.visible()) {
			snapshots = append(snapshots, e.Snapshot)
		}
	}
	if len(snapshots) == 0 {
		return nil
	}
	positions, err := v.tx.MembersOfServer(snapshots, v.server)
	if err != nil {
		return err
	}
	var all []storage.Pos
	for _, list := range positions {
		all = append(all, list...)
	}
	members, err := v.room.EventsAt(v.tx, all)
	if err != nil {
		return err
	}
	for nid, list := range positions {
		st := v.states[nid]
		for _, pos := range list {
			if e := members[pos]; e != nil {
				m := membershipOf(e)
				st.joined, st.invited = st.joined || m == visibility.Join, st.invited || m == visibility.Invite
			}
		}
		v.states[nid] = st
	}
	return nil
}

// shown returns an event in the form for the server. The event must have been passed to prepare.
func (v *serverView) shown(e *rooms.Event) (json.RawMessage, error) {
	if v.sees(e) {
		return e.JSON(), nil
	}
	pruned, err := e.Redact()
	if err != nil {
		return nil, err
	}
	return pruned.JSON(), nil
}

// sees reports whether the server may see the content of an event, which must have been passed to prepare. This
// includes state events: a redacted one still has what the auth rules need. History visibility does not apply to an
// event while it is sticky.
func (v *serverView) sees(e *rooms.Event) bool {
	switch {
	case v.expired(e):
		return false
	case v.concerns(e), e.Snapshot == 0:
		return true
	}
	st := v.states[e.Snapshot]
	return (st.visible() || e.StickyUntil() > v.svc.now().UnixMilli()) && (st.joined || !v.erased(e))
}

// expired reports whether an event is an expired message.
func (v *serverView) expired(e *rooms.Event) bool {
	return e.Flags&storage.GoneEvent != 0 || !e.IsState() && expiry.Expired(v.policy, e.OriginServerTS(), e.ReceivedTS, v.svc.now())
}

// erased reports whether the sender's account was erased after the event was sent. In that case only servers that were
// in the room see the event in full.
func (v *serverView) erased(e *rooms.Event) bool {
	at, erased := v.svc.rooms.ErasedAt(e.SenderNID)
	return erased && e.Pos < at
}

// concerns reports whether the sender or the subject of an event is a user of the server.
func (v *serverView) concerns(e *rooms.Event) bool {
	key, isState := e.StateKey()
	return e.Sender().Homeserver() == v.server || isState && e.Type() == typeMember && id.UserID(key).Homeserver() == v.server
}

func (v *serverView) all(events []*rooms.Event) ([]json.RawMessage, error) {
	if err := v.prepare(events); err != nil {
		return nil, err
	}
	out := make([]json.RawMessage, 0, len(events))
	for _, e := range events {
		raw, err := v.shown(e)
		if err != nil {
			return nil, err
		}
		out = append(out, raw)
	}
	return out, nil
}

// event returns an accepted event of the room.
func (v *serverView) event(eventID id.EventID) (*rooms.Event, error) {
	row, found, err := v.tx.EventByID(v.room.NID(), string(eventID))
	if err != nil {
		return nil, err
	}
	if !found || row.Flags&storage.RejectedEvent != 0 {
		return nil, errNoEvent
	}
	return v.room.LoadEvent(&row)
}

// EventForServer returns one event to a server in its room.
// Spec: server-server-api#get_matrixfederationv1eventeventid
func (s *Service) EventForServer(ctx context.Context, origin string, eventID id.EventID) (raw json.RawMessage, err error) {
	var room ident.RoomNID
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		row, found, err := tx.EventAnywhere(string(eventID))
		if err == nil && !found {
			err = errNoEvent
		}
		room = row.Room
		return err
	})
	if err != nil {
		return nil, err
	}
	r, err := s.rooms.RoomByNID(ctx, room)
	if err != nil {
		return nil, err
	}
	err = s.forServer(ctx, origin, r.ID(), func(v *serverView) error {
		e, err := v.event(eventID)
		if err != nil {
			return err
		}
		if v.expired(e) {
			// The answer does not even reveal the type of the event. A server that needs the event for the graph gets
			// its redacted form when it requests the events around it.
			return errNoEvent
		}
		raws, err := v.all([]*rooms.Event{e})
		if err == nil {
			raw = raws[0]
		}
		return err
	})
	return raw, err
}

// StateForServer returns the state of a room before an event, and the auth chain of that state.
// Spec: server-server-api#get_matrixfederationv1stateroomid
func (s *Service) StateForServer(ctx context.Context, origin string, room id.RoomID, eventID id.EventID) (state, chain []*rooms.Event, err error) {
	release, err := s.heavyRead(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	err = s.forServer(ctx, origin, room, func(v *serverView) error {
		e, err := v.event(eventID)
		if err != nil {
			return err
		}
		if e.Flags&storage.OutlierEvent != 0 {
			return mxerr.NotFound("This server does not know the state before this event")
		}
		if v.room.Partial() {
			return mxerr.Forbidden("This server has just joined the room and does not know all of its state yet; try again later")
		}
		entries, err := v.tx.StateOf(e.Snapshot)
		if err != nil {
			return err
		}
		positions := make([]storage.Pos, len(entries))
		for i, entry := range entries {
			positions[i] = entry.Position
		}
		events, err := v.room.EventsAt(v.tx, positions)
		if err != nil {
			return err
		}
		var auth []id.EventID
		for _, entry := range entries {
			if e := events[entry.Position]; e != nil {
				state = append(state, e)
				auth = append(auth, e.AuthEventIDs()...)
			}
		}
		chain, err = authChain(v.tx, v.room, auth)
		return err
	})
	return state, chain, err
}

// AuthChainForServer returns the auth chain of an event.
// Spec: server-server-api#get_matrixfederationv1event_authroomideventid
func (s *Service) AuthChainForServer(ctx context.Context, origin string, room id.RoomID, eventID id.EventID) (chain []*rooms.Event, err error) {
	release, err := s.heavyRead(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	err = s.forServer(ctx, origin, room, func(v *serverView) error {
		e, err := v.event(eventID)
		if err != nil {
			return err
		}
		chain, err = authChain(v.tx, v.room, e.AuthEventIDs())
		return err
	})
	return chain, err
}

// BackfillForServer returns events and their predecessors, newest first.
// Spec: server-server-api#get_matrixfederationv1backfillroomid
func (s *Service) BackfillForServer(ctx context.Context, origin string, room id.RoomID, from []id.EventID, limit int) (raws []json.RawMessage, err error) {
	limit = min(limit, maxBackfill)
	err = s.forServer(ctx, origin, room, func(v *serverView) error {
		events, err := v.walk(from[:min(len(from), maxEarliestEvents)], false, limit, func(e *rooms.Event) bool { return true })
		if err != nil {
			return err
		}
		raws, err = v.all(events)
		return err
	})
	return raws, err
}

// MissingEvents is a request for the events between Earliest, which the other server has, and Latest.
type MissingEvents struct {
	Room             id.RoomID
	Earliest, Latest []id.EventID
	Limit            int // 0: a default
	MinDepth         int64
}

// MissingEventsForServer returns the predecessors of the events in Latest, oldest first. It neither returns the events
// in Earliest nor goes beyond them.
// Spec: server-server-api#post_matrixfederationv1get_missing_eventsroomid
func (s *Service) MissingEventsForServer(ctx context.Context, origin string, q MissingEvents) (raws []json.RawMessage, err error) {
	if q.Limit <= 0 {
		q.Limit = defaultMissing
	}
	has := map[id.EventID]bool{}
	for _, e := range q.Earliest[:min(len(q.Earliest), maxEarliestEvents)] {
		has[e] = true
	}
	latest := q.Latest[:min(len(q.Latest), maxEarliestEvents)]
	err = s.forServer(ctx, origin, q.Room, func(v *serverView) error {
		var from []id.EventID
		for _, eventID := range latest {
			e, err := v.event(eventID)
			if errors.Is(err, errNoEvent) {
				continue
			}
			if err != nil {
				return err
			}
			for _, prev := range e.PrevEvents() {
				if !has[prev] && !slices.Contains(latest, prev) {
					from = append(from, prev)
				}
			}
		}
		events, err := v.walk(from, true, min(q.Limit, maxMissingAnswer), func(e *rooms.Event) bool { return !has[e.ID()] && e.Depth() >= q.MinDepth })
		if err != nil {
			return err
		}
		slices.Reverse(events)
		raws, err = v.all(events)
		return err
	})
	return raws, err
}

// walk goes back through the event graph from the given events, and returns the events for which want returns true. It
// visits the deepest events first, or, if nearest is set, those that are the fewest steps away. It does not go beyond
// events for which want returns false.
func (v *serverView) walk(from []id.EventID, nearest bool, limit int, want func(*rooms.Event) bool) (out []*rooms.Event, err error) {
	w := serverWalk{v: v, nearest: nearest, queued: map[id.EventID]bool{}}
	if err := w.add(from); err != nil {
		return nil, err
	}
	if err := w.readAhead(limit); err != nil {
		return nil, err
	}
	for looked := 0; len(w.queue) > 0 && len(out) < limit && looked < maxServerWalk; looked++ {
		e := w.queue[len(w.queue)-1]
		w.queue = w.queue[:len(w.queue)-1]
		if !want(e) {
			continue
		}
		if e.Flags&storage.RejectedEvent == 0 { // rejected events are passed, but not returned
			out = append(out, e)
		}
		if err := w.add(e.PrevEvents()); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// serverWalk is the state of a walk through a room's graph, from newer to older events, for get_missing_events or
// backfill.
type serverWalk struct {
	v       *serverView
	nearest bool
	queued  map[id.EventID]bool
	queue   []*rooms.Event // in reverse order: the next event is the last
	ahead   map[id.EventID]storage.EventRow
}

// readAhead reads the events that come before the newest queued event in the timeline, all at once. The walk will visit
// most of them.
func (w *serverWalk) readAhead(limit int) error {
	var newest ident.Order
	for _, e := range w.queue {
		newest = max(newest, e.Order)
	}
	if newest == 0 || limit < 2 {
		return nil
	}
	rows, err := w.v.tx.Timeline(w.v.room.NID(), 0, newest-1, true, limit)
	w.ahead = make(map[id.EventID]storage.EventRow, len(rows))
	for _, row := range rows {
		w.ahead[id.EventID(row.EventID)] = row
	}
	return err
}

// add queues events, each only once.
func (w *serverWalk) add(ids []id.EventID) error {
	var rows []storage.EventRow
	var unread []string
	for _, eventID := range ids {
		if w.queued[eventID] {
			continue
		}
		w.queued[eventID] = true
		if row, ok := w.ahead[eventID]; ok {
			rows = append(rows, row)
		} else {
			unread = append(unread, string(eventID))
		}
	}
	more, err := w.v.tx.EventsByID(w.v.room.NID(), unread)
	if err != nil {
		return err
	}
	rows = append(rows, more...)
	for i := range rows {
		if rows[i].Flags&storage.OutlierEvent != 0 {
			continue
		}
		e, err := w.v.room.LoadEvent(&rows[i])
		if err != nil {
			return err
		}
		at := 0
		if !w.nearest {
			at, _ = slices.BinarySearchFunc(w.queue, e, deeper)
		}
		w.queue = slices.Insert(w.queue, at, e)
	}
	return nil
}

func deeper(a, b *rooms.Event) int {
	return cmp.Or(cmp.Compare(a.Depth(), b.Depth()), cmp.Compare(a.Order, b.Order))
}

// EventAtTimeForServer returns the event closest to a time (ms), for a server in the room.
// Spec: server-server-api#get_matrixfederationv1timestamp_to_eventroomid
func (s *Service) EventAtTimeForServer(ctx context.Context, origin string, room id.RoomID, ts int64, backwards bool) (eventID id.EventID, at int64, err error) {
	err = s.forServer(ctx, origin, room, func(v *serverView) error {
		e, err := v.closest(ts, backwards)
		if err != nil {
			return err
		}
		eventID, at = e.ID(), e.OriginServerTS()
		return nil
	})
	return eventID, at, err
}

func (v *serverView) closest(ts int64, backwards bool) (*rooms.Event, error) {
	walk := newTimeWalk(v.room, ts, backwards)
	e, err := walk.first(v.tx, v)
	if err == nil && e == nil {
		err = errNoEvent
	}
	return e, err
}

// likely implements timeReader.
func (v *serverView) likely(_ *storage.Tx, events []storage.TimedEvent) ([]storage.TimedEvent, error) {
	now := v.svc.now()
	return slices.DeleteFunc(events, func(e storage.TimedEvent) bool {
		return e.Flags&storage.HiddenEvent != 0 || !e.IsState && expiry.Expired(v.policy, e.OriginTS, e.ReceivedTS, now)
	}), nil
}

// visible implements timeReader.
func (v *serverView) visible(_ *storage.Tx, events []*rooms.Event) ([]*rooms.Event, error) {
	if err := v.prepare(events); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(events, func(e *rooms.Event) bool { return !v.sees(e) }), nil
}
