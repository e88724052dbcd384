package stateres

import (
	"fmt"
	"maps"

	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"

	"maunium.net/go/mautrix/id"
)

// resolveV2 is the algorithm of room version 2 and later, with the changes of version 12 (v2.1).
//
// Spec: rooms/v2#algorithm, rooms/v12#algorithm
func resolveV2(g *graph, sets []StateSet, agreed StateSet, conflicts []conflict) (StateSet, error) {
	full := g.markFull(sets, agreed, conflicts)
	// 1. The power events, with those of the full conflicted set that they rest on.
	power := g.orderByPower(g.pickPower(full))
	// 2. Replayed on what the sets agree on; in v2.1 on nothing, so that each event is judged by its own auth events.
	r := &replay{graph: g, state: make(StateSet)}
	if g.v.StateRes != pdu.StateResV2_1 {
		maps.Copy(r.state, agreed)
	}
	r.apply(power)
	// 3. The rest, by the power levels that came out of that.
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
	// 4. Replayed on top.
	r.apply(rest)
	if g.full {
		return nil, fmt.Errorf("%w: more than %d in the auth chains", ErrTooLarge, g.limit)
	}
	// 5. What the sets agree on stands.
	maps.Copy(r.state, agreed)
	return r.state, nil
}

// replay is the iterative auth checks algorithm: a state that grows by the events that it allows.
type replay struct {
	*graph
	state StateSet
}

// apply adds those events to the state that are allowed, one after the other.
func (r *replay) apply(nodes []*node) {
	for _, n := range nodes {
		key, isState := n.event.StateKey()
		if !isState || eventauth.Check(r.v, n.event, replayState{r, n}) != nil {
			continue
		}
		r.state[pdu.StateKey{Type: n.event.Type(), Key: key}] = n.event.ID()
	}
}

// replayState is what one event is judged against: the state so far and, where that has nothing, the event's own auth
// events unless rejected.
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
