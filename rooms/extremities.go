package rooms

import (
	"context"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/graph"
	"ebb/rooms/pdu"
)

// extendHead makes an accepted event a forward extremity, and updates the current state accordingly.
func (b *batch) extendHead(ctx context.Context, p *graph.Reader, in *incoming, pe *pendingEvent, onHead bool) error {
	n := &b.room.next
	x := graph.Extremity{ID: in.ID(), Event: pe.Event, After: pe.after}
	if onHead {
		if key, isState := in.StateKey(); isState {
			k := pdu.StateKey{Type: in.Type(), Key: key}
			b.change(&stateChange{key: k, event: pe.Event, by: pe, member: b.memberChange(in, k)})
			pe.after = b.shorten(pe.after)
			x.After = pe.after
		}
		if err := b.addCitedToHead(ctx, p, in, pe); err != nil {
			return err
		}
		n.snapshot, n.extremities, n.resolvedFrom = pe.after, []graph.Extremity{x}, nil
		b.settleHead(pe)
		return nil
	}
	if in.late || in.precedes { // the states after the events that follow it include its change
		b.settleHead(pe)
		return nil
	}
	superseded, err := p.Superseded(in.PrevEvents())
	if err != nil {
		return err
	}
	heads := slices.DeleteFunc(slices.Clone(n.extremities), func(x graph.Extremity) bool { return superseded[x.ID] })
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

// updateCurrentState resolves the states after the forward extremities into the room's current state.
func (b *batch) updateCurrentState(ctx context.Context, p *graph.Reader, pe *pendingEvent) error {
	n := &b.room.next
	var points []*graph.Snapshot
	for i, x := range n.extremities {
		if x.After == nil {
			after, err := p.After(x.ID)
			if err != nil {
				return err
			}
			if after == nil {
				return fmt.Errorf("room %s: the forward extremity %s has no state", b.room.id, x.ID)
			}
			n.extremities = slices.Clone(n.extremities)
			n.extremities[i].After = after
		}
		points = append(points, n.extremities[i].After)
	}
	points = graph.Distinct(points)
	if len(points) == 1 && points[0].Same(n.snapshot) || sameStates(points, n.resolvedFrom) {
		return nil
	}
	// The event itself may be in the state already.
	p.Queue(pe.Event, pe.after)
	var state map[pdu.StateKey]graph.Entry
	var err error
	if len(points) == 1 {
		state, err = p.All(points[0])
	} else {
		state, err = p.Resolve(points)
	}
	if err != nil {
		return err
	}
	changes, err := b.changesTo(ctx, p, pe, state)
	if err != nil {
		return err
	}
	own := make([]graph.Entry, 0, len(changes))
	for _, c := range changes {
		b.change(c)
		ref := state[c.key]
		ref.Key = c.key
		own = append(own, ref)
	}
	switch {
	case len(points) == 1:
		n.snapshot = points[0]
	case len(own) > 0:
		n.snapshot = b.shorten(n.snapshot.Over(own...))
	}
	n.resolvedFrom = points
	return nil
}

// sameStates reports whether the states to resolve are the same as in the last resolution.
func sameStates(points, resolvedFrom []*graph.Snapshot) bool {
	if len(points) != len(resolvedFrom) {
		return false
	}
	for _, s := range points {
		if !slices.ContainsFunc(resolvedFrom, s.Same) {
			return false
		}
	}
	return true
}

// changesTo returns the changes that turn the provisional state into the given one.
func (b *batch) changesTo(ctx context.Context, p *graph.Reader, pe *pendingEvent, state map[pdu.StateKey]graph.Entry) ([]*stateChange, error) {
	want, err := p.IDs(state)
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
	slices.SortFunc(keys, graph.CompareKeys)
	if err := p.LoadEntries(state, keys); err != nil {
		return nil, err
	}
	changes := make([]*stateChange, 0, len(keys))
	for _, key := range keys {
		c := &stateChange{key: key, by: pe}
		if ref, ok := state[key]; ok {
			if c.event, err = p.EventOf(ref); err != nil {
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

// provisionalIDs returns the IDs of the events in the provisional state.
func (b *batch) provisionalIDs(p *graph.Reader) (map[pdu.StateKey]id.EventID, error) {
	r := b.room
	refs := map[pdu.StateKey]graph.Entry{}
	r.mu.RLock()
	for k, e := range r.head.state {
		refs[k] = graph.Entry{Key: k, Event: e}
	}
	for user, m := range r.head.members {
		k := pdu.StateKey{Type: typeMember, Key: string(user)}
		refs[k] = graph.Entry{Key: k, Pos: m.Pos}
		if e := m.event.Load(); e != nil {
			refs[k] = graph.Entry{Key: k, Event: e}
		}
	}
	for k, c := range r.pending.state {
		if refs[k] = (graph.Entry{Key: k, Event: c.event}); c.event == nil {
			delete(refs, k)
		}
	}
	r.mu.RUnlock()
	return p.IDs(refs)
}

// memberChange returns the change of a membership by an event of another server, or nil if this is not a member event.
func (b *batch) memberChange(in *incoming, k pdu.StateKey) *memberChange {
	if k.Type != typeMember {
		return nil
	}
	user := id.UserID(k.Key)
	return &memberChange{user: user, nid: in.target, from: b.room.provisionalMembership(user), to: pdu.Membership(in.Content())}
}

// resolvedMember returns the change of a membership that results when state resolution makes e the current event of the
// given key. It returns nil if the key is not one of a member.
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
