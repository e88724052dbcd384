package graph

import (
	"cmp"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/pdu"
	"ebb/rooms/stateres"
	"ebb/storage"
	"ebb/telemetry"
)

// resolutions counts state resolutions.
var resolutions = telemetry.NewCounter("ebb_rooms_state_resolutions_total", "States resolved where the graph forked.")

// IDs returns a state as a map from its keys to the IDs of its events.
func (p *Reader) IDs(state State) (stateres.StateSet, error) {
	var unnamed []storage.Pos
	for _, ref := range state {
		if ref.Event == nil && p.facts.names[ref.Pos] == "" {
			unnamed = append(unnamed, ref.Pos)
		}
	}
	rows, err := p.tx.EventIDsAt(unnamed)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		p.facts.names[row.Position] = id.EventID(row.EventID)
	}
	out := make(stateres.StateSet, len(state))
	for key, ref := range state {
		switch {
		case ref.Event != nil:
			out[key] = ref.Event.ID()
		case p.facts.names[ref.Pos] == "":
			return nil, fmt.Errorf("the state event at %d of room %s is not stored", ref.Pos, p.Room.ID)
		default:
			out[key] = p.facts.names[ref.Pos]
		}
	}
	return out, nil
}

// resolving makes a Reader usable as a stateres.Store. Since the methods of a Store return no errors, it keeps the
// first read error; the resolution fails with it.
type resolving struct {
	p   *Reader
	err error
}

// Event returns an event, or nil if it is not stored.
func (r *resolving) Event(eventID id.EventID) *pdu.Event {
	if e := r.event(eventID); e != nil {
		return e.Event
	}
	return nil
}

// Rejected reports whether an event was rejected, so that it cannot become part of a state.
func (r *resolving) Rejected(eventID id.EventID) bool {
	e := r.event(eventID)
	return e != nil && e.AsAuth().Flags&storage.RejectedEvent != 0
}

func (r *resolving) event(eventID id.EventID) *Event {
	e, err := r.p.Event(eventID)
	r.err = cmp.Or(r.err, err)
	return e
}

// Distinct removes duplicate snapshots.
func Distinct(points []*Snapshot) (out []*Snapshot) {
	for _, s := range points {
		same := false
		for _, o := range out {
			same = same || o.Same(s)
		}
		if !same {
			out = append(out, s)
		}
	}
	return out
}

// Resolve resolves the states of several snapshots into one.
func (p *Reader) Resolve(points []*Snapshot) (State, error) {
	states := make([]State, len(points))
	for i, s := range points {
		var err error
		if states[i], err = p.All(s); err != nil {
			return nil, err
		}
	}
	return p.ResolveStates(states)
}

// ResolveStates is like Resolve, but takes full states instead of snapshots.
func (p *Reader) ResolveStates(states []State) (State, error) {
	if p.Room.Partial {
		states = fillMembers(states)
	}
	sets := make([]stateres.StateSet, len(states))
	refs := map[id.EventID]Entry{}
	for i, state := range states {
		var err error
		if sets[i], err = p.IDs(state); err != nil {
			return nil, err
		}
		for key, eventID := range sets[i] {
			refs[eventID] = state[key]
		}
	}
	store := &resolving{p: p}
	resolved, err := stateres.Resolve(p.Room.Version, sets, store)
	if err = cmp.Or(store.err, err); err != nil {
		return nil, fmt.Errorf("resolve the state of room %s: %w", p.Room.ID, err)
	}
	resolutions.Inc()
	out := make(State, len(resolved))
	for key, eventID := range resolved {
		ref, ok := refs[eventID]
		if !ok { // from the auth difference or the conflicted subgraph
			e, err := p.Event(eventID)
			if err != nil || e == nil {
				return nil, fmt.Errorf("the resolved state of room %s has %s: %w", p.Room.ID, eventID, err)
			}
			if ref = (Entry{Pos: e.AsAuth().Pos}); p.IsQueued(eventID) {
				ref = Entry{Event: e}
			}
		}
		ref.Key = key
		out[key] = ref
	}
	return out, nil
}

// fillMembers adds to each state the members that it lacks but another one of the states has, since in a partial-state
// room any state may lack members.
func fillMembers(states []State) []State {
	out := slices.Clone(states)
	for i := range out {
		var more State
		for j, other := range states {
			if i == j {
				continue
			}
			for key, ref := range other {
				if _, known := out[i][key]; known || key.Type != "m.room.member" {
					continue
				}
				if _, known := more[key]; known {
					continue
				}
				if more == nil {
					more = State{}
				}
				more[key] = ref
			}
		}
		if len(more) > 0 {
			for key, ref := range out[i] {
				more[key] = ref
			}
			out[i] = more
		}
	}
	return out
}

// ResolvedSnapshot resolves the states of one or more snapshots into one, and returns a snapshot of the result.
func (p *Reader) ResolvedSnapshot(points []*Snapshot) (*Snapshot, error) {
	points = Distinct(points)
	if len(points) == 1 {
		return points[0], nil
	}
	resolved, err := p.Resolve(points)
	if err != nil {
		return nil, err
	}
	return p.SnapshotOf(points[0], resolved)
}

// SnapshotOf returns a snapshot of the given state that is stored as the difference from base.
func (p *Reader) SnapshotOf(base *Snapshot, state State) (*Snapshot, error) {
	have, err := p.All(base)
	if err != nil {
		return nil, err
	}
	var own []Entry
	for key, ref := range state {
		if old, ok := have[key]; !ok || old != ref {
			own = append(own, ref)
		}
	}
	for key := range have {
		if _, ok := state[key]; !ok {
			own = append(own, Entry{Key: key})
		}
	}
	slices.SortFunc(own, func(a, b Entry) int { return CompareKeys(a.Key, b.Key) })
	if base.length >= maxSnapshotChain && len(own) > 0 {
		return FullSnapshot(state), nil
	}
	return base.Over(own...), nil
}

// Shortened returns s, or a full snapshot of the same state if the chain of s has grown too long; see Chain.
func (p *Reader) Shortened(s *Snapshot) (*Snapshot, error) {
	if s.length <= maxSnapshotChain {
		return s, nil
	}
	all, err := p.All(s)
	if err != nil {
		return nil, err
	}
	return FullSnapshot(all), nil
}
