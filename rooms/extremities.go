package rooms

import (
	"context"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/pdu"
	"ebb/storage"
)

// extendHead makes an accepted event a forward extremity, and resolves the current state from the forward extremities.
func (b *batch) extendHead(ctx context.Context, p *pastReader, in *incoming, pe *pendingEvent, onHead bool) error {
	n := &b.room.next
	x := extremity{id: in.ID(), event: pe.Event, after: pe.after}
	if onHead {
		if key, isState := in.StateKey(); isState {
			k := pdu.StateKey{Type: in.Type(), Key: key}
			b.change(&stateChange{key: k, event: pe.Event, by: pe, member: b.memberChange(in, k)})
			pe.after = b.shorten(pe.after)
			x.after = pe.after
		}
		if err := b.addCitedToHead(ctx, p, in, pe); err != nil {
			return err
		}
		n.snapshot, n.extremities, n.met = pe.after, []extremity{x}, nil
		b.settleHead(pe)
		return nil
	}
	if in.late { // the states after the events that follow it include its change
		b.settleHead(pe)
		return nil
	}
	superseded, err := b.superseded(p, in.PrevEvents())
	if err != nil {
		return err
	}
	heads := slices.DeleteFunc(slices.Clone(n.extremities), func(x extremity) bool { return superseded[x.id] })
	n.extremities = append(heads, x)
	if len(n.extremities) > maxExtremities {
		n.extremities = n.extremities[len(n.extremities)-maxExtremities:]
	}
	if err := b.updateCurrentState(ctx, p, pe); err != nil {
		return err
	}
	b.settleHead(pe)
	return nil
}

// maxExtremities bounds the forward extremities of a room; the oldest is dropped. It is the number of prev_events that
// an event can have.
const maxExtremities = pdu.MaxPrevEvents

// superseded returns the events that are no longer forward extremities because of an event: its prev_events, and the
// prev_events of those that were rejected or soft-failed.
func (b *batch) superseded(p *pastReader, prev []id.EventID) (map[id.EventID]bool, error) {
	found := map[id.EventID]bool{}
	queue := slices.Clone(prev)
	for steps := 0; len(queue) > 0 && steps < maxRefusedWalk; steps++ {
		eventID := queue[0]
		queue = queue[1:]
		if found[eventID] {
			continue
		}
		found[eventID] = true
		e, err := p.event(eventID)
		if err != nil {
			return nil, err
		}
		if e != nil && e.Flags&(storage.RejectedEvent|storage.SoftFailedEvent) != 0 {
			queue = append(queue, e.PrevEvents()...)
		}
	}
	return found, nil
}

// updateCurrentState resolves the room's current state from the states after the forward extremities.
func (b *batch) updateCurrentState(ctx context.Context, p *pastReader, pe *pendingEvent) error {
	n := &b.room.next
	var points []*snapshot
	for i, x := range n.extremities {
		if x.after == nil {
			after, err := p.after(x.id)
			if err != nil {
				return err
			}
			if after == nil {
				return fmt.Errorf("room %s: the forward extremity %s has no state", b.room.id, x.id)
			}
			n.extremities = slices.Clone(n.extremities)
			n.extremities[i].after = after
		}
		points = append(points, n.extremities[i].after)
	}
	points = distinct(points)
	if len(points) == 1 && points[0].same(n.snapshot) || sameStates(points, n.met) {
		return nil
	}
	// The event itself may be in the state already.
	p.queued[pe.ID()] = pe
	var state map[pdu.StateKey]stateRef
	var err error
	if len(points) == 1 {
		state, err = p.all(points[0])
	} else {
		state, err = p.resolve(points)
	}
	if err != nil {
		return err
	}
	changes, err := b.changesTo(ctx, p, pe, state)
	if err != nil {
		return err
	}
	own := make([]stateRef, 0, len(changes))
	for _, c := range changes {
		b.change(c)
		ref := state[c.key]
		ref.key = c.key
		own = append(own, ref)
	}
	switch {
	case len(points) == 1:
		n.snapshot = points[0]
	case len(own) > 0:
		n.snapshot = b.shorten(n.snapshot.over(own...))
	}
	n.met = points
	return nil
}

// sameStates reports whether the states to resolve are those of the last resolution.
func sameStates(points, met []*snapshot) bool {
	if len(points) != len(met) {
		return false
	}
	for _, s := range points {
		if !slices.ContainsFunc(met, s.same) {
			return false
		}
	}
	return true
}

// changesTo returns the changes that turn the provisional state into another one.
func (b *batch) changesTo(ctx context.Context, p *pastReader, pe *pendingEvent, state map[pdu.StateKey]stateRef) ([]*stateChange, error) {
	want, err := p.ids(state)
	if err != nil {
		return nil, err
	}
	have, err := b.provisionalIDs(p)
	if err != nil {
		return nil, err
	}
	var keys []pdu.StateKey
	for key, eventID := range want {
		if have[key] != eventID {
			keys = append(keys, key)
		}
	}
	for key := range have {
		if _, ok := want[key]; !ok {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, compareKeys)
	if err := p.loadEntries(state, keys); err != nil {
		return nil, err
	}
	changes := make([]*stateChange, 0, len(keys))
	for _, key := range keys {
		c := &stateChange{key: key, by: pe}
		if ref, ok := state[key]; ok {
			if c.event, err = p.of(ref); err != nil {
				return nil, err
			}
		}
		if c.member, err = b.resolvedMember(ctx, key, c.event); err != nil {
			return nil, err
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// provisionalIDs returns the provisional state as event IDs.
func (b *batch) provisionalIDs(p *pastReader) (map[pdu.StateKey]id.EventID, error) {
	r := b.room
	refs := map[pdu.StateKey]stateRef{}
	r.mu.RLock()
	for k, e := range r.head.state {
		refs[k] = stateRef{key: k, event: e}
	}
	for user, m := range r.head.members {
		k := pdu.StateKey{Type: typeMember, Key: string(user)}
		refs[k] = stateRef{key: k, pos: m.Pos}
		if e := m.event.Load(); e != nil {
			refs[k] = stateRef{key: k, event: e}
		}
	}
	for k, c := range r.pending.state {
		if refs[k] = (stateRef{key: k, event: c.event}); c.event == nil {
			delete(refs, k)
		}
	}
	r.mu.RUnlock()
	return p.ids(refs)
}

// memberChange returns how a member event of another server changes a membership; nil if the event is of another type.
func (b *batch) memberChange(in *incoming, k pdu.StateKey) *memberChange {
	if k.Type != typeMember {
		return nil
	}
	user := id.UserID(k.Key)
	return &memberChange{user: user, nid: in.target, from: b.room.provisionalMembership(user), to: pdu.Membership(in.Content())}
}

// resolvedMember returns how a membership changes if state resolution makes e the current member event; nil if the key
// is of another type.
func (b *batch) resolvedMember(ctx context.Context, key pdu.StateKey, e *Event) (*memberChange, error) {
	if key.Type != typeMember {
		return nil, nil
	}
	user := id.UserID(key.Key)
	nid, err := b.svc.UserNID(ctx, user)
	if err != nil {
		return nil, err
	}
	c := &memberChange{user: user, nid: nid, from: b.room.provisionalMembership(user)}
	if e != nil {
		c.to = pdu.Membership(e.Content())
	}
	return c, nil
}
