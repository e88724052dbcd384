package rooms

import (
	"context"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/pdu"
	"ebb/storage"
)

// Events that precede the join by which this server entered a room are history: they are fetched when somebody paginates back, and never
// arrive as new. Other servers send them anyway, since many ignore min_depth when asked for missing events. The graph decides which events
// are history. If it does not say, an event that was asked for and is shallower than the join counts as history; one that was pushed does
// not.

// maxAncestryRounds bounds the requests for ancestors of the join that the events of one transaction may cause.
const maxAncestryRounds = 5

// ancestry is what is known of the graph before the join, apart from what is stored.
type ancestry struct {
	join  *Event
	whole bool                     // the stored history reaches back to the create event
	roots []id.EventID             // missing events that the stored history names
	texts map[id.EventID]graphNode // events of the history that are not stored
	aside map[id.EventID]bool      // events that were given, and are left to backfill
	ids   map[id.EventID]bool      // ancestors of the join
	ends  []id.EventID             // those of them that are not in texts
	bound int64                    // an event of this depth or deeper that is not in ids is no ancestor
	asked int                      // requests so far
}

// graphNode is an event's place in the graph.
type graphNode struct {
	prev  []id.EventID
	depth int64
}

// entry is the join by which this server entered the room; nil if it created the room.
func (p *pastReader) entry() (*Event, error) {
	pos := p.r.entered()
	if pos == 0 {
		return nil, nil
	}
	return p.of(stateRef{pos: pos})
}

// bridge returns the state before the join if an event has the same prev_events as the join, else nil. These prev_events need not be
// stored.
func (p *pastReader) bridge(prev []id.EventID) (*snapshot, error) {
	join, err := p.entry()
	if join == nil || err != nil || !sameEvents(join.PrevEvents(), prev) {
		return nil, err
	}
	if p.beforeJoin != nil {
		return p.beforeJoin, nil
	}
	return p.before(join)
}

// isHistory reports whether an event is known to precede that join, and is not stored.
func (p *pastReader) isHistory(eventID id.EventID) (bool, error) {
	order, found, err := p.tx.MissingBefore(p.r.nid, string(eventID))
	return found && order <= int64(p.r.entered())*OrderStep, err
}

func sameEvents(a, b []id.EventID) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(e id.EventID) bool { return !slices.Contains(b, e) })
}

// bridged reports whether the state after a missing prev_event need not be fetched; see bridge.
func (in *ingest) bridged(e *incoming, prev id.EventID) bool {
	if in.past == nil {
		return false
	}
	before := in.past.join.PrevEvents()
	return len(before) == 1 && before[0] == prev || sameEvents(before, e.PrevEvents())
}

// behind reports whether an event is known to be history that is not stored.
func (in *ingest) behind(eventID id.EventID) bool {
	return in.past != nil && (in.past.ids[eventID] || in.past.aside[eventID])
}

// setHistoryAside removes events from before the join from the waiting events. If this needs ancestors of the join, it asks the origin for
// them if ask is set, else it returns false.
func (in *ingest) setHistoryAside(ctx context.Context, ask bool) (decided bool, err error) {
	if create := in.room.State(typeCreate, ""); create != nil && in.waiting[create.ID()] != nil {
		in.done(create.ID(), nil) // every state has it: there is nothing to judge
		received.WithLabelValues("known").Inc()
	}
	suspects := in.suspects()
	if len(suspects) == 0 {
		return true, nil
	}
	if in.past == nil {
		if in.past, err = in.openHistory(ctx); err != nil {
			return false, err
		}
	}
	for {
		in.past.walk(in)
		doubtful := in.judgePlaces(suspects)
		if len(doubtful) == 0 {
			return true, nil
		}
		if !ask {
			return false, nil
		}
		more, err := in.askAncestors(ctx)
		if err != nil {
			return false, err
		}
		if more {
			continue
		}
		for _, e := range doubtful {
			if e.asked {
				in.putAside(e)
			}
		}
		return true, nil
	}
}

// suspects lists waiting events that may be history, the least deep first: those that were asked for, and those that name what is not
// stored or is history.
func (in *ingest) suspects() (out []*incoming) {
	if in.room.entered() == 0 {
		return nil
	}
	for _, e := range in.waiting {
		if e.asked || slices.ContainsFunc(e.PrevEvents(), func(prev id.EventID) bool { return in.waiting[prev] == nil && !in.isSince(prev) }) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, byDepth)
	return out
}

// isSince reports whether an event is stored and arrived live after the join.
func (in *ingest) isSince(eventID id.EventID) bool {
	e := in.known[eventID]
	return e != nil && placed(e) && !isPast(e.row()) && e.Pos >= in.room.entered()
}

// openHistory reads what the stored history names as missing.
func (in *ingest) openHistory(ctx context.Context) (a *ancestry, err error) {
	a = &ancestry{texts: map[id.EventID]graphNode{}, aside: map[id.EventID]bool{}}
	err = in.svc.db.Read(ctx, func(tx *storage.Tx) error {
		p := newPastReader(in.room, tx, nil, newPastFacts())
		if a.join, err = p.entry(); err != nil {
			return err
		}
		edges, err := tx.BackwardEdges(in.room.nid, 0, a.join.Order, maxHoles)
		for _, e := range edges {
			a.roots = append(a.roots, id.EventID(e.Missing))
		}
		if create := in.room.State(typeCreate, ""); err == nil && create != nil {
			create, err = p.event(create.ID())
			a.whole = create != nil && placed(create)
		}
		return err
	})
	return a, err
}

// walk finds the ancestors of the join among what is known, and how deep others can be.
func (a *ancestry) walk(in *ingest) {
	a.ids, a.ends, a.bound = map[id.EventID]bool{}, nil, 0
	if !a.whole && len(a.roots) == 0 || len(a.roots) == maxHoles {
		a.bound = a.join.Depth() - 1
	}
	type step struct {
		event id.EventID
		depth int64 // at most
	}
	var todo []step
	for _, root := range a.roots {
		todo = append(todo, step{root, a.join.Depth() - 1})
	}
	for len(todo) > 0 {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		node, known := a.texts[s.event]
		if e := in.waiting[s.event]; e != nil {
			node, known = graphNode{e.PrevEvents(), e.Depth()}, true
		}
		if !known {
			a.bound = max(a.bound, s.depth)
		}
		if a.ids[s.event] {
			continue
		}
		if a.ids[s.event] = true; !known {
			a.ends = append(a.ends, s.event)
			continue
		}
		for _, prev := range node.prev {
			if e := in.known[prev]; e == nil || !placed(e) {
				todo = append(todo, step{prev, node.depth - 1})
			}
		}
	}
}

// judgePlaces sets aside the ancestors of the join, and returns the events that may or may not be ancestors. An event that follows an event
// since the join is not an ancestor.
func (in *ingest) judgePlaces(suspects []*incoming) (doubtful []*incoming) {
	since := map[id.EventID]bool{}
	for _, e := range suspects { // each after those that it follows, if their depths are right
		if in.waiting[e.ID()] == nil {
			continue
		}
		switch {
		case in.past.ids[e.ID()]:
			in.putAside(e)
		case e.Depth() >= in.past.bound,
			slices.ContainsFunc(e.PrevEvents(), func(prev id.EventID) bool { return in.isSince(prev) || since[prev] }):
			since[e.ID()] = true
		default:
			doubtful = append(doubtful, e)
		}
	}
	return doubtful
}

// putAside leaves an event to backfill.
func (in *ingest) putAside(e *incoming) {
	in.past.texts[e.ID()], in.past.aside[e.ID()] = graphNode{e.PrevEvents(), e.Depth()}, true
	in.done(e.ID(), nil)
	received.WithLabelValues("history").Inc()
}

// askAncestors asks the origin for ancestors of the join, and reports whether more of them are known then. Only the shape of the graph is
// taken from the answer: at worst, what the origin itself gave is set aside.
func (in *ingest) askAncestors(ctx context.Context) (more bool, err error) {
	a := in.past
	if in.remote() == nil || len(a.ends) == 0 || a.asked >= maxAncestryRounds {
		return false, nil
	}
	a.asked++
	raws, err := in.svc.Remote.Backfill(ctx, in.origin, in.room.id, a.ends[:min(len(a.ends), maxBackfillEdges)], maxBackfillPage)
	if err != nil {
		in.svc.log.DebugContext(ctx, "ancestors of the join could not be fetched", "room", in.room.id, "server", in.origin, "err", err)
		return false, ctx.Err()
	}
	var prev []id.EventID
	for _, raw := range raws[:min(len(raws), maxBackfillPage)] {
		e, err := pdu.Parse(in.room.version, raw)
		if err != nil || e.RoomID() != in.room.id {
			continue
		}
		if _, known := a.texts[e.ID()]; !known {
			a.texts[e.ID()] = graphNode{e.PrevEvents(), e.Depth()}
			prev = append(prev, e.PrevEvents()...)
			more = more || slices.Contains(a.ends, e.ID())
		}
	}
	return more, in.findStored(ctx, prev)
}
