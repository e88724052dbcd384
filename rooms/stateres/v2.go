package stateres

import (
	"fmt"
	"maps"

	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"

	"maunium.net/go/mautrix/id"
)

// resolveV2 resolves states by the algorithm of room version 2 and later, including the changes of room version 12
// (v2.1).
//
// Spec: rooms/v2#algorithm, rooms/v12#algorithm
func resolveV2(g *graph, sets []StateSet, agreed StateSet, conflicts []conflict) (StateSet, error) {
	full := g.markFull(sets, agreed, conflicts)
	// 1. Sort the power events and the events of the full conflicted set in their auth chains.
	power := g.orderByPower(g.pickPower(full))
	// 2. Apply the iterative auth checks to them, starting from the unconflicted state; in v2.1 from an empty state, so
	// that their own auth events count.
	r := &replay{graph: g, state: make(StateSet)}
	if g.v.StateRes != pdu.StateResV2_1 {
		maps.Copy(r.state, agreed)
	}
	r.apply(power)
	// 3. Sort the other events by the mainline of the power levels that resulted.
	var rest []*node
	for _, n := range full {
		if !n.picked {
			rest = append(rest, n)
		}
	}
	var powerLevels *node
	if eventID, ok := r.state[pdu.StateKey{Type: typePowerLevels}]; ok {
		powerLevels = g.node(eventID)
	}
	g.orderByMainline(rest, powerLevels)
	// 4. Apply the iterative auth checks to them.
	r.apply(rest)
	if g.full {
		return nil, fmt.Errorf("%w: more than %d in the auth chains", ErrTooLarge, g.limit)
	}
	// 5. The unconflicted state replaces what the checks resulted in.
	maps.Copy(r.state, agreed)
	return r.state, nil
}

// replay runs the iterative auth checks algorithm, which adds the allowed events to state.
type replay struct {
	*graph
	state StateSet
}

// apply checks the events in the given order and adds each one that is allowed to the state.
func (r *replay) apply(nodes []*node) {
	for _, n := range nodes {
		key, isState := n.event.StateKey()
		if !isState || eventauth.Check(r.v, n.event, replayState{r, n}) != nil {
			continue
		}
		r.state[pdu.StateKey{Type: n.event.Type(), Key: key}] = n.event.ID()
	}
}

// replayState is the state against which one event is checked: the state resolved so far. An entry that this state
// lacks is taken from the event's own auth events, unless the auth event was rejected.
type replayState struct {
	r *replay
	n *node
}

// Get returns the state event with this type and state key, or nil.
func (s replayState) Get(typ, key string) *pdu.Event {
	if eventID, ok := s.r.state[pdu.StateKey{Type: typ, Key: key}]; ok {
		return s.r.eventOf(eventID)
	}
	if typ == typeCreate && s.r.v.RoomIDIsCreateHash {
		return s.r.accepted(s.r.createOf(s.n))
	}
	for _, a := range s.r.authOf(s.n) {
		if a.event.IsStateKey(typ, key) {
			if e := s.r.accepted(a.event); e != nil {
				return e
			}
		}
	}
	return nil
}

// Levels returns the power levels of this state.
func (s replayState) Levels() *eventauth.PowerLevels {
	return s.r.levelsOf(s.Get(typeCreate, ""), s.Get(typePowerLevels, ""))
}

func (r *replay) eventOf(eventID id.EventID) *pdu.Event {
	if n := r.node(eventID); n != nil {
		return n.event
	}
	return nil
}

// accepted returns the event unless it is nil or was rejected.
func (r *replay) accepted(e *pdu.Event) *pdu.Event {
	if e == nil || r.store.Rejected(e.ID()) {
		return nil
	}
	return e
}
