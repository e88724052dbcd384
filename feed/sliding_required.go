package feed

import (
	"context"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// knownSet is a remembered result of slidingBuilder.knows.
type knownSet struct {
	set   int
	want  *combinedWant
	knows bool
}

// knows reports whether a client that has the state selected by the given set (see slidingState) has everything that it
// wants, so that only changes are new to it. It remembers the result, which is the same for most rooms.
func (b *slidingBuilder) knows(set int, want *combinedWant) bool {
	for i := range b.known {
		if k := &b.known[i]; k.set == set && k.want == want {
			return k.knows
		}
	}
	texts := b.change.texts(set)
	knows := !slices.ContainsFunc(want.required, func(p *requiredState) bool { return !slices.Contains(texts, p.text) })
	b.known = append(b.known, knownSet{set, want, knows})
	return knows
}

// nextSet returns the set of selections whose state the client has after the answer. The set has what the client wants
// now. It also has what the client wanted before, unless some of that has changed and was not sent.
func (b *slidingBuilder) nextSet(before int, r *roomWork, x *slidingNews) int {
	if !r.fresh && !x.narrowed && b.knows(before, r.want) {
		return before
	}
	var texts []string
	for _, p := range r.want.required {
		texts = append(texts, p.text)
	}
	if !r.fresh && !x.narrowed {
		texts = append(texts, b.change.texts(before)...)
	}
	return b.change.setOf(texts)
}

// requiredState gathers the state of a room that the client wants and does not have: the entries that have changed,
// and, if wider is set, those that the client did not want before.
func (b *slidingBuilder) requiredState(ctx context.Context, r *roomWork, n *roomNews, x *slidingNews, wider bool) error {
	g := &requiredGatherer{stateGatherer: stateGatherer{b: b.builder, q: &n.wanted, have: map[pdu.StateKey]bool{}}, x: x, r: r, n: n}
	if !r.fresh {
		g.texts = b.change.texts(r.next.set)
	}
	if x.left != nil && x.left.leave == nil {
		g.ownMember()
		n.state = g.events
		return nil
	}
	if !r.fresh {
		if err := g.addChanged(ctx); err != nil {
			return err
		}
	}
	if wider {
		if err := g.addWanted(ctx); err != nil {
			return err
		}
	}
	if x.left != nil {
		if err := g.addKey(ctx, b.ownKey()); err != nil {
			return err
		}
	}
	if n.lazy {
		n.wanted.needed = timelineMembers(n.timeline.events)
		if err := g.neededMembers(ctx); err != nil {
			return err
		}
	}
	if err := g.load(ctx); err != nil {
		return err
	}
	n.state = g.events
	return nil
}

// requiredGatherer collects the required_state of a room.
type requiredGatherer struct {
	stateGatherer
	r     *roomWork
	n     *roomNews
	x     *slidingNews
	texts []string         // the selections of state that the client has, except for what has changed
	known []*requiredState // texts parsed, as soon as knows needs them
}

// knows reports whether the client has been sent the given entry, perhaps in an older version. A text that cannot be
// parsed, which the server never stores, selects nothing.
func (g *requiredGatherer) knows(key pdu.StateKey) bool {
	for len(g.known) < len(g.texts) {
		p, err := requiredStateOf(g.texts[len(g.known)])
		if err != nil {
			p = &requiredState{}
		}
		g.known = append(g.known, p)
	}
	return slices.ContainsFunc(g.known, func(p *requiredState) bool { return p.selects(key, g.b.UserID) })
}

// addKey adds the entry with the given key, as it is at the end of the timeline.
func (g *requiredGatherer) addKey(ctx context.Context, key pdu.StateKey) error {
	if g.have[key] {
		return nil
	}
	pos, err := g.b.atEnd(ctx, g.q, key)
	if err == nil && pos != 0 {
		g.add(key, pos, g.find(key, pos))
	}
	return err
}

// addChanged adds the wanted entries that have changed since the client had the room.
func (g *requiredGatherer) addChanged(ctx context.Context) error {
	changed, err := g.changed(ctx)
	if err != nil {
		return err
	}
	everyMember := g.n.lazy && !g.n.timeline.limited
	for _, key := range changed {
		switch {
		case g.r.want.selects(key, g.b.UserID), everyMember && ofMembers(key):
			if g.have[key] {
				continue
			}
			pos, err := g.b.atEnd(ctx, g.q, key)
			if err != nil {
				return err
			}
			if pos == 0 {
				g.x.stubs = append(g.x.stubs, key)
				g.have[key] = true
				continue
			}
			g.add(key, pos, g.find(key, pos))
		case g.knows(key):
			g.x.narrowed = true
		}
	}
	return nil
}

// changed returns the entries that have changed since the client had the room.
func (g *requiredGatherer) changed(ctx context.Context) (keys []pdu.StateKey, err error) {
	q := g.q
	switch {
	case q.window.whole:
		for _, e := range q.window.events {
			if key, isState := stateKey(e); isState {
				keys = append(keys, key)
			}
		}
		keys = append(keys, q.room.Resolved(q.since)...)
	case q.left != nil:
		if err := g.readAll(ctx, &q.end); err != nil {
			return nil, err
		}
		for key, pos := range q.end.entries {
			if pos > q.since {
				keys = append(keys, key)
			}
		}
	default:
		q.room.EachState(func(key pdu.StateKey, _, changed storage.Pos, _ *rooms.Event) bool {
			if changed > q.since {
				keys = append(keys, key)
			}
			return true
		})
		keys = append(keys, q.room.Resolved(q.since)...) // for those that were deleted
	}
	return keys, nil
}

// addWanted adds the wanted entries that the client did not want before.
func (g *requiredGatherer) addWanted(ctx context.Context) error {
	var wanted []pdu.StateKey
	wild := false
	for _, p := range g.r.want.required {
		for i := range p.include {
			e := &p.include[i]
			key := e.keyOf(g.b.UserID)
			if e.Type == nil || key == nil {
				wild = true
				continue
			}
			wanted = append(wanted, pdu.StateKey{Type: *e.Type, Key: *key})
		}
	}
	if wild {
		all, err := g.everyKey(ctx)
		if err != nil {
			return err
		}
		wanted = append(wanted, all...)
	}
	for _, key := range wanted {
		if !g.knows(key) && g.r.want.selects(key, g.b.UserID) {
			if err := g.addKey(ctx, key); err != nil {
				return err
			}
		}
	}
	return nil
}

// everyKey returns the keys of all state entries of the room. It leaves out members unless the client may want them.
func (g *requiredGatherer) everyKey(ctx context.Context) (keys []pdu.StateKey, err error) {
	if g.q.left != nil {
		if g.q.end.entries == nil {
			err = g.readAll(ctx, &g.q.end)
		}
		for key := range g.q.end.entries {
			keys = append(keys, key)
		}
		return keys, err
	}
	members := g.r.want.allMembers() || g.namesMembers()
	g.q.room.EachState(func(key pdu.StateKey, _, _ storage.Pos, _ *rooms.Event) bool {
		if members || !ofMembers(key) {
			keys = append(keys, key)
		}
		return true
	})
	return keys, nil
}

// namesMembers reports whether a selection may include a member because it names a state key without naming a type.
func (g *requiredGatherer) namesMembers() bool {
	return slices.ContainsFunc(g.r.want.required, func(p *requiredState) bool {
		return slices.ContainsFunc(p.include, func(e stateElement) bool { return e.Type == nil && (e.Me || e.Key != nil && *e.Key != "") })
	})
}

// timelineMembers returns the users whose member events a client needs to show a timeline: the senders of its events,
// and the users whom its member events are about.
func timelineMembers(events []*rooms.Event) (users []id.UserID) {
	for _, e := range events {
		of := []id.UserID{e.Sender()}
		if key, isState := stateKey(e); isState && ofMembers(key) {
			of = append(of, id.UserID(key.Key))
		}
		for _, user := range of {
			if !slices.Contains(users, user) {
				users = append(users, user)
			}
		}
	}
	return users
}
