package rooms

import (
	"context"
	"ebb/rooms/pdu"
)

// learn adds to the partial state before an event the members that the event cites, as its sender's own server knows them. Where the
// state has another event for one of them, the two are resolved: who is known to have left is not brought back.
func (b *batch) learn(p *pastReader, in *incoming, pe *pendingEvent) error {
	in.found = nil // of a try before this one
	known, cited := state{}, state{}
	conflict := false
	for _, eventID := range in.AuthEvents() {
		e, err := p.event(eventID)
		if err != nil {
			return err
		}
		e = e.asAuth()
		user, isState := e.StateKey()
		if !isState || e.Type() != typeMember {
			continue
		}
		key := pdu.StateKey{Type: typeMember, Key: user}
		cited[key] = refTo(p, e)
		ref, found, err := pe.before.find(p.tx, key)
		if err != nil {
			return err
		}
		if !found {
			continue
		}
		now, err := p.of(ref)
		if err != nil {
			return err
		}
		known[key] = ref
		conflict = conflict || now.ID() != eventID
	}
	if conflict {
		var err error
		if cited, err = b.between(p, pe, known, cited); err != nil {
			return err
		}
	}
	for key, ref := range cited {
		if key.Type == typeMember && ref != known[key] {
			in.found = append(in.found, ref)
		}
	}
	pe.before = pe.before.over(in.found...)
	return nil
}

// refTo is an entry of a state for an event that is stored or part of the batch.
func refTo(p *pastReader, e *Event) stateRef {
	key, _ := e.StateKey()
	ref := stateRef{key: pdu.StateKey{Type: e.Type(), Key: key}, pos: e.Pos}
	if p.queued[e.ID()] != nil {
		ref = stateRef{key: ref.key, event: e}
	}
	return ref
}

// between resolves two notions of some members, in the light of the rest of what allows an event.
func (b *batch) between(p *pastReader, pe *pendingEvent, known, cited state) (state, error) {
	for _, typ := range []string{typeCreate, typePowerLevels, typeJoinRules} {
		key := pdu.StateKey{Type: typ}
		ref, found, err := pe.before.find(p.tx, key)
		if err != nil {
			return nil, err
		}
		if found {
			known[key], cited[key] = ref, ref
		}
	}
	return p.resolveStates([]state{known, cited})
}

// adoptFound makes the members that an event on the head brought to light part of the current state.
func (b *batch) adoptFound(ctx context.Context, p *pastReader, in *incoming, pe *pendingEvent) error {
	for _, ref := range in.found {
		e, err := p.of(ref)
		if err != nil {
			return err
		}
		if in.IsStateKey(typeMember, ref.key.Key) { // the event itself is newer
			continue
		}
		member, err := b.resolvedMember(ctx, ref.key, e)
		if err != nil {
			return err
		}
		b.change(&stateChange{key: ref.key, event: e, by: pe, member: member})
	}
	return nil
}
