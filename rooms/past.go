package rooms

import (
	"cmp"
	"context"
	"fmt"
	"maps"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/pdu"
	"ebb/rooms/stateres"
	"ebb/storage"
)

// pastReader reads the stored graph of a room: events by ID, and the states before and after them. It is for use in one
// read transaction, while nothing of the room is queued.
type pastReader struct {
	r      *Room
	tx     *storage.Tx
	events map[id.EventID]*Event        // nil: not stored
	queued map[id.EventID]*pendingEvent // of the batch in the making
	// partial means that members may be missing from the states.
	partial bool
	*pastFacts
	beforeJoin *snapshot // the state before the join by which this server entered the room, if that is not the stored one
}

// pastFacts caches what never changes once it is stored. The events of a batch share it: if many of them follow an old
// event of a large room, its state is read once.
type pastFacts struct {
	at     map[storage.Pos]*Event
	names  map[storage.Pos]id.EventID
	states map[int64]state // by snapshot
	afters map[id.EventID]*snapshot
}

// state is a full room state. It is shared and must not be modified.
type state = map[pdu.StateKey]stateRef

func newPastFacts() *pastFacts {
	return &pastFacts{at: map[storage.Pos]*Event{}, names: map[storage.Pos]id.EventID{}, states: map[int64]state{}, afters: map[id.EventID]*snapshot{}}
}

// maxPastStates bounds the states that a batch keeps in memory.
const maxPastStates = 8

func newPastReader(r *Room, tx *storage.Tx, queued []*pendingEvent, facts *pastFacts) *pastReader {
	p := &pastReader{
		r: r, tx: tx, events: map[id.EventID]*Event{}, queued: make(map[id.EventID]*pendingEvent, len(queued)), partial: r.partialState() != nil, pastFacts: facts,
	}
	for _, e := range queued {
		p.queued[e.ID()] = e
	}
	return p
}

// event returns an event of the room, or nil if it is not stored.
func (p *pastReader) event(eventID id.EventID) (*Event, error) {
	if e := p.queued[eventID]; e != nil {
		return e.Event, nil
	}
	err := p.load([]id.EventID{eventID})
	return p.events[eventID], err
}

// load reads several events at once.
func (p *pastReader) load(ids []id.EventID) error {
	var missing []string
	for _, eventID := range ids {
		if _, ok := p.events[eventID]; !ok && p.queued[eventID] == nil {
			p.events[eventID] = nil
			missing = append(missing, string(eventID))
		}
	}
	rows, err := p.tx.EventsByID(p.r.nid, missing)
	if err != nil {
		return err
	}
	for i := range rows {
		e, err := fromRow(p.r.version, &rows[i])
		if err != nil {
			return err
		}
		old := p.events[e.ID()]
		switch {
		case old == nil:
			p.events[e.ID()] = e
		case cmp.Or(cmp.Compare(e.Order, old.Order), cmp.Compare(e.Pos, old.Pos)) > 0:
			e.outlier, p.events[e.ID()] = outlierOf(old), e
		default:
			old.outlier = cmp.Or(old.outlier, outlierOf(e))
		}
	}
	return nil
}

// outlierOf returns an event as it was accepted by its auth events alone, or nil if it was not.
func outlierOf(e *Event) *Event {
	if e.Flags&(storage.OutlierEvent|storage.RejectedEvent) == storage.OutlierEvent {
		return e
	}
	return e.outlier
}

// asAuth returns the event for use as an auth event: an event accepted as an outlier still authorises others if the
// state before it, unknown at the time, turns out to reject it.
func (e *Event) asAuth() *Event {
	if e.Flags&storage.RejectedEvent != 0 && e.outlier != nil {
		return e.outlier
	}
	return e
}

// of returns the event of a state entry.
func (p *pastReader) of(ref stateRef) (*Event, error) {
	if ref.event != nil {
		return ref.event, nil
	}
	if e := p.at[ref.pos]; e != nil {
		return e, nil
	}
	row, found, err := p.tx.EventAt(ref.pos)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("the state event at %d of room %s is not stored", ref.pos, p.r.id)
	}
	e, err := fromRow(p.r.version, &row)
	if err != nil {
		return nil, err
	}
	p.at[ref.pos] = e
	return e, nil
}

// loadEntries reads the events of several state entries at once.
func (p *pastReader) loadEntries(s state, keys []pdu.StateKey) error {
	var missing []storage.Pos
	for _, key := range keys {
		if ref, ok := s[key]; ok && ref.event == nil && p.at[ref.pos] == nil {
			missing = append(missing, ref.pos)
		}
	}
	events, err := p.r.EventsAt(p.tx, missing)
	maps.Copy(p.at, events)
	return err
}

// after returns the state after an event. It returns nil if the event is not stored or has no state, as an outlier.
func (p *pastReader) after(eventID id.EventID) (*snapshot, error) {
	if e := p.queued[eventID]; e != nil {
		return e.after, nil
	}
	for _, x := range p.r.next.extremities {
		if x.id == eventID && x.after != nil {
			return x.after, nil
		}
	}
	if s := p.afters[eventID]; s != nil {
		return s, nil
	}
	s, err := p.storedAfter(eventID)
	if s == nil && err == nil {
		s, err = p.bridge([]id.EventID{eventID})
	}
	if s != nil {
		p.afters[eventID] = s
	}
	return s, err
}

func (p *pastReader) storedAfter(eventID id.EventID) (*snapshot, error) {
	e, err := p.event(eventID)
	if err != nil || e == nil || e.Flags&storage.OutlierEvent != 0 {
		return nil, err
	}
	before, err := p.before(e)
	if err != nil {
		return nil, err
	}
	key, isState := e.StateKey()
	if !isState || e.Flags&storage.RejectedEvent != 0 {
		return before, nil
	}
	return before.over(stateRef{key: pdu.StateKey{Type: e.Type(), Key: key}, pos: e.Pos}), nil
}

// before returns the stored state before an event.
func (p *pastReader) before(e *Event) (s *snapshot, err error) {
	s = &snapshot{nid: e.Snapshot}
	if e.Snapshot != 0 {
		s.length, err = p.tx.SnapshotLength(e.Snapshot)
	}
	return s, err
}

// all reads a full state.
func (p *pastReader) all(s *snapshot) (state, error) {
	if s.nid == 0 || p.states[s.nid] == nil {
		found, err := s.all(p.tx)
		if err != nil || s.nid == 0 {
			return found, err
		}
		if len(p.states) >= maxPastStates {
			clear(p.states)
		}
		p.states[s.nid] = found
	}
	return p.states[s.nid], nil
}

// ids returns the IDs of the events of a state.
func (p *pastReader) ids(state map[pdu.StateKey]stateRef) (stateres.StateSet, error) {
	var unnamed []storage.Pos
	for _, ref := range state {
		if ref.event == nil && p.names[ref.pos] == "" {
			unnamed = append(unnamed, ref.pos)
		}
	}
	rows, err := p.tx.EventNames(unnamed)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		p.names[row.Position] = id.EventID(row.EventID)
	}
	out := make(stateres.StateSet, len(state))
	for key, ref := range state {
		switch {
		case ref.event != nil:
			out[key] = ref.event.ID()
		case p.names[ref.pos] == "":
			return nil, fmt.Errorf("the state event at %d of room %s is not stored", ref.pos, p.r.id)
		default:
			out[key] = p.names[ref.pos]
		}
	}
	return out, nil
}

// resolving makes a pastReader a stateres.Store. It keeps the first read error, which fails the resolution.
type resolving struct {
	*pastReader
	err error
}

func (p *resolving) Event(eventID id.EventID) *pdu.Event {
	e, err := p.event(eventID)
	if err != nil && p.err == nil {
		p.err = err
	}
	if e == nil {
		return nil
	}
	return e.Event
}

// Rejected reports whether an event may not take part in a state.
func (p *resolving) Rejected(eventID id.EventID) bool {
	e, err := p.event(eventID)
	if err != nil && p.err == nil {
		p.err = err
	}
	return e != nil && e.asAuth().Flags&storage.RejectedEvent != 0
}

// distinct removes duplicate snapshots.
func distinct(points []*snapshot) (out []*snapshot) {
	for _, s := range points {
		same := false
		for _, o := range out {
			same = same || o.same(s)
		}
		if !same {
			out = append(out, s)
		}
	}
	return out
}

// resolve returns the state that several states resolve to.
func (p *pastReader) resolve(points []*snapshot) (state, error) {
	states := make([]state, len(points))
	for i, s := range points {
		var err error
		if states[i], err = p.all(s); err != nil {
			return nil, err
		}
	}
	return p.resolveStates(states)
}

func (p *pastReader) resolveStates(states []state) (state, error) {
	if p.partial {
		states = fillMembers(states)
	}
	sets := make([]stateres.StateSet, len(states))
	refs := map[id.EventID]stateRef{}
	for i, state := range states {
		var err error
		if sets[i], err = p.ids(state); err != nil {
			return nil, err
		}
		for key, eventID := range sets[i] {
			refs[eventID] = state[key]
		}
	}
	store := &resolving{pastReader: p}
	resolved, err := stateres.Resolve(p.r.version, sets, store)
	if err = firstError(store.err, err); err != nil {
		return nil, fmt.Errorf("resolve the state of room %s: %w", p.r.id, err)
	}
	resolutions.Inc()
	out := make(state, len(resolved))
	for key, eventID := range resolved {
		ref, ok := refs[eventID]
		if !ok { // from the auth difference or the conflicted subgraph
			e, err := p.event(eventID)
			if err != nil || e == nil {
				return nil, fmt.Errorf("the resolved state of room %s has %s: %w", p.r.id, eventID, err)
			}
			if ref = (stateRef{pos: e.asAuth().Pos}); p.queued[eventID] != nil {
				ref = stateRef{event: e}
			}
		}
		ref.key = key
		out[key] = ref
	}
	return out, nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// pastView gives the authorisation rules a past state.
type pastView struct {
	p   *pastReader
	s   *snapshot
	err error
}

// Get returns an entry of the state.
func (v *pastView) Get(typ, key string) *pdu.Event {
	ref, found, err := v.s.find(v.p.tx, pdu.StateKey{Type: typ, Key: key})
	if err == nil && found {
		var e *Event
		if e, err = v.p.of(ref); err == nil {
			return e.Event
		}
	}
	if v.err == nil {
		v.err = err
	}
	return nil
}

// settled waits until nothing of the room is queued, then reads. The writer lock is held. Only events that need the
// database wait like this, as when the graph forks; a message that follows the newest event does not.
func (r *Room) settled(ctx context.Context, f func(tx *storage.Tx) error) error {
	if q := r.next.queued; q != nil {
		<-q.Done()
	}
	return r.svc.db.Read(context.WithoutCancel(ctx), f)
}
