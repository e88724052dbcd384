package rooms

import (
	"context"

	"ebb/rooms/graph"
	"ebb/rooms/pdu"
)

// addCitedMembers adds to the partial state before an event the members that the event cites; they are in the full
// state, or the sender's server would not have cited them. If the partial state has another event for one of these
// members, the two are resolved, so that a user who has left does not come back.
func (b *batch) addCitedMembers(p *graph.Reader, in *incoming, pe *pendingEvent) error {
	in.cited = nil // from an earlier attempt
	known, cited := graph.State{}, graph.State{}
	conflict := false
	for _, eventID := range in.AuthEvents() {
		e, err := p.Event(eventID)
		if err != nil {
			return err
		}
		e = e.AsAuth()
		user, isState := e.StateKey()
		if !isState || e.Type() != typeMember {
			continue
		}
		key := pdu.StateKey{Type: typeMember, Key: user}
		cited[key] = refTo(p, e)
		ref, found, err := p.Find(pe.before, key)
		if err != nil {
			return err
		}
		if !found {
			continue
		}
		now, err := p.EventOf(ref)
		if err != nil {
			return err
		}
		known[key] = ref
		conflict = conflict || now.ID() != eventID
	}
	if conflict {
		var err error
		if cited, err = b.resolveMembers(p, pe, known, cited); err != nil {
			return err
		}
	}
	for key, ref := range cited {
		if key.Type == typeMember && ref != known[key] {
			in.cited = append(in.cited, ref)
		}
	}
	pe.before = pe.before.Over(in.cited...)
	return nil
}

// refTo returns the state entry for an event that is stored or part of the batch.
func refTo(p *graph.Reader, e *Event) graph.Entry {
	key, _ := e.StateKey()
	ref := graph.Entry{Key: pdu.StateKey{Type: e.Type(), Key: key}, Pos: e.Pos}
	if p.IsQueued(e.ID()) {
		ref = graph.Entry{Key: ref.Key, Event: e}
	}
	return ref
}

// resolveMembers resolves known and cited, two states that consist of some members only. To each of them it adds the
// create event, power levels and join rules of the state before the event.
func (b *batch) resolveMembers(p *graph.Reader, pe *pendingEvent, known, cited graph.State) (graph.State, error) {
	for _, typ := range []string{typeCreate, typePowerLevels, typeJoinRules} {
		key := pdu.StateKey{Type: typ}
		ref, found, err := p.Find(pe.before, key)
		if err != nil {
			return nil, err
		}
		if found {
			known[key], cited[key] = ref, ref
		}
	}
	return p.ResolveStates([]graph.State{known, cited})
}

// addCitedToHead adds to the current state the members that an event following the head cites.
func (b *batch) addCitedToHead(ctx context.Context, p *graph.Reader, in *incoming, pe *pendingEvent) error {
	for _, ref := range in.cited {
		e, err := p.EventOf(ref)
		if err != nil {
			return err
		}
		if in.IsStateKey(typeMember, ref.Key.Key) { // the event itself is newer
			continue
		}
		member, err := b.resolvedMember(ctx, ref.Key, e)
		if err != nil {
			return err
		}
		b.change(&stateChange{key: ref.Key, event: e, by: pe, member: member})
	}
	return nil
}
