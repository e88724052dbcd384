package stateres

import (
	"bytes"
	"cmp"
	"crypto/sha1" // room version 1 breaks ties by it; nothing rests on its strength
	"slices"

	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"

	"maunium.net/go/mautrix/id"
)

// resolveV1 decides conflicts by depth, in four passes: power levels, join rules, members, and everything else.
//
// Two things the specification leaves open are done as the servers that made these rooms do them: within one pass each
// piece of state is resolved for itself (all conflicting members as one list would stop at the first stranger's
// failure), and where no event of a piece of state is allowed the last one tried stands.
//
// Spec: rooms/v1#state-resolution
func resolveV1(v *pdu.Version, agreed StateSet, conflicts []conflict, store Store) StateSet {
	r := &v1Resolver{v: v, store: store, state: agreed}
	for _, typ := range []string{typePowerLevels, typeJoinRules, typeMember} {
		r.pass(conflicts, func(key pdu.StateKey) bool { return key.Type == typ }, r.replayUpwards)
	}
	r.pass(conflicts, func(key pdu.StateKey) bool {
		return key.Type != typePowerLevels && key.Type != typeJoinRules && key.Type != typeMember
	}, r.pickDownwards)
	return r.state
}

type v1Resolver struct {
	v     *pdu.Version
	store Store
	state StateSet
}

// pass resolves the conflicts of one kind against the state as it was before the pass.
func (r *v1Resolver) pass(conflicts []conflict, belongs func(pdu.StateKey) bool, decide func([]*pdu.Event) *pdu.Event) {
	won := make(StateSet)
	for _, c := range conflicts {
		if !belongs(c.key) {
			continue
		}
		if events := r.byDepth(c.events); len(events) > 0 {
			won[c.key] = decide(events).ID()
		}
	}
	for key, eventID := range won {
		r.state[key] = eventID
	}
}

// byDepth sorts events by ascending depth, then by descending SHA-1 of their ids. Events not known are left out.
func (r *v1Resolver) byDepth(ids []id.EventID) []*pdu.Event {
	events := make([]*pdu.Event, 0, len(ids))
	for _, eventID := range ids {
		if e := r.store.Event(eventID); e != nil {
			events = append(events, e)
		}
	}
	slices.SortFunc(events, func(a, b *pdu.Event) int {
		if d := cmp.Compare(a.Depth(), b.Depth()); d != 0 {
			return d
		}
		x, y := sha1.Sum([]byte(a.ID())), sha1.Sum([]byte(b.ID()))
		return bytes.Compare(y[:], x[:])
	})
	return events
}

// replayUpwards starts with the lowest event and goes on as long as each is allowed after the one before.
func (r *v1Resolver) replayUpwards(events []*pdu.Event) *pdu.Event {
	winner := events[0]
	for _, e := range events[1:] {
		if eventauth.Check(r.v, e, v1State{r, winner}) != nil {
			break
		}
		winner = e
	}
	return winner
}

// pickDownwards takes the highest event that is allowed.
func (r *v1Resolver) pickDownwards(events []*pdu.Event) *pdu.Event {
	for _, e := range slices.Backward(events) {
		if eventauth.Check(r.v, e, v1State{r, nil}) == nil {
			return e
		}
	}
	return events[0]
}

// v1State is the state resolved so far, with one event on top.
type v1State struct {
	r   *v1Resolver
	top *pdu.Event
}

// Get returns the state event with this type and state key, or nil.
func (s v1State) Get(typ, key string) *pdu.Event {
	if s.top != nil && s.top.IsStateKey(typ, key) {
		return s.top
	}
	if eventID, ok := s.r.state[pdu.StateKey{Type: typ, Key: key}]; ok {
		return s.r.store.Event(eventID)
	}
	return nil
}
