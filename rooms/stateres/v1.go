package stateres

import (
	"bytes"
	"cmp"
	"crypto/sha1" // room version 1 breaks ties with it; its strength does not matter
	"slices"

	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"

	"maunium.net/go/mautrix/id"
)

// resolveV1 decides conflicts by depth, in four passes: power levels, join rules, members, and everything else.
//
// Where the specification is unclear, it does what other servers do. Within a pass each type and state key is resolved
// on its own, because one list of all conflicting members would end at the first event that is not allowed. If no event
// for a type and state key is allowed, the last one tried is used.
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

// pass resolves the conflicts for whose key belongs returns true. decide chooses the event of each conflict by the
// state before the pass, since the results take effect only at the end.
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

// byDepth returns the known events sorted by ascending depth, then by descending SHA-1 of their IDs.
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

// replayUpwards goes through events sorted by depth, and checks each against the state in which its predecessor is
// current. It stops at the first event that is not allowed and returns the predecessor of that event.
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

// pickDownwards returns the allowed event of the greatest depth.
func (r *v1Resolver) pickDownwards(events []*pdu.Event) *pdu.Event {
	for _, e := range slices.Backward(events) {
		if eventauth.Check(r.v, e, v1State{r, nil}) == nil {
			return e
		}
	}
	return events[0]
}

// v1State is the state resolved so far, with one event replaced or added.
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
