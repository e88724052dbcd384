package rooms

import (
	"context"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// Events that precede the join with which this server entered a room are history: they are fetched when a client
// paginates back, and never arrive as new. Other servers send them anyway, since many ignore min_depth when asked for
// missing events. The graph decides which events are history. Where the known part of it does not decide, a requested
// event that is shallower than the join counts as history, and a pushed one does not. Only events that are still sticky
// arrive as new, flagged as storage.PrecedingEvent: they become no forward extremities, since the join has a later
// state.

// maxAncestryRounds bounds the requests for ancestors of the join that the events of one transaction may cause.
const maxAncestryRounds = 5

// ancestry is the part of the graph before the join that is known although its events are not stored.
type ancestry struct {
	join     *Event
	complete bool                     // the stored history reaches back to the create event
	roots    []id.EventID             // missing events that the stored history names
	nodes    map[id.EventID]graphNode // events of the history that are not stored
	aside    map[id.EventID]bool      // received events that are left to backfill
	ids      map[id.EventID]bool      // ancestors of the join
	ends     []id.EventID             // ancestors that are not in nodes
	bound    int64                    // an event of this depth or deeper that is not in ids is no ancestor
	asked    int                      // number of requests so far
}

// graphNode is the position of an event in the graph.
type graphNode struct {
	prev  []id.EventID
	depth int64
}

// knownFromJoin reports whether the state after prev, a missing prev_event of e, need not be fetched: either prev is
// the only prev_event of the join, or the join has the same prev_events as e. See graph.Reader.Bridge.
func (a *arrivals) knownFromJoin(e *incoming, prev id.EventID) bool {
	if a.history == nil {
		return false
	}
	before := a.history.join.PrevEvents()
	return len(before) == 1 && before[0] == prev || graph.SameEvents(before, e.PrevEvents())
}

// isHistory reports whether an event that is not stored is known to be history.
func (a *arrivals) isHistory(eventID id.EventID) bool {
	return a.history != nil && (a.history.ids[eventID] || a.history.aside[eventID])
}

// historySuspects returns the waiting events that may be history, sorted by depth. These are the events that this
// server requested, and the events that follow one which is not stored or is history.
func (a *arrivals) historySuspects(ctx context.Context) (out []*incoming, err error) {
	if create := a.room.State(typeCreate, ""); create != nil && a.waiting[create.ID()] != nil {
		a.finish(create.ID(), nil) // the create event is part of every state
		received.WithLabelValues("known").Inc()
	}
	if a.room.entered() == 0 {
		return nil, nil
	}
	for _, e := range a.waiting {
		if e.asked || slices.ContainsFunc(e.PrevEvents(), func(prev id.EventID) bool { return a.waiting[prev] == nil && !a.isSinceJoin(prev) }) {
			out = append(out, e)
		}
	}
	if len(out) > 0 && a.history == nil {
		a.history, err = a.openHistory(ctx)
	}
	slices.SortFunc(out, byDepth)
	return out, err
}

// isSinceJoin reports whether an event is stored and arrived after the join as a new event.
func (a *arrivals) isSinceJoin(eventID id.EventID) bool {
	e := a.known[eventID]
	return e != nil && e.InGraph() && !e.Backfilled() && e.Pos >= a.room.entered() && e.Flags&storage.PrecedingEvent == 0
}

// mustArrive reports whether an event is still sticky. Such an event arrives as a new one even if it precedes the join.
// Spec: MSC4354
func (a *arrivals) mustArrive(e *incoming) bool {
	now := a.svc.nowMS()
	return (&Event{Event: e.Event, ReceivedTS: now}).StickyUntil() > now
}

// setHistoryAside removes from the waiting events those that precede the join, and leaves them to backfill. It returns
// the suspects for which the known part of the graph does not decide this. Events that follow a suspect need not be
// suspects themselves.
func (a *arrivals) setHistoryAside(suspects []*incoming) (doubtful []*incoming) {
	if len(suspects) == 0 {
		return nil
	}
	a.history.walk(a)
	for eventID, e := range a.waiting {
		if e.precedes = a.history.ids[eventID] && a.mustArrive(e); a.history.ids[eventID] && !e.precedes {
			a.leaveToBackfill(e)
		}
	}
	since := map[id.EventID]bool{}
	for _, e := range suspects { // prev_events first, if the depths are right
		switch {
		case a.waiting[e.ID()] == nil, e.precedes:
		case e.Depth() >= a.history.bound,
			slices.ContainsFunc(e.PrevEvents(), func(prev id.EventID) bool { return a.isSinceJoin(prev) || since[prev] }):
			since[e.ID()] = true
		default:
			doubtful = append(doubtful, e)
		}
	}
	return doubtful
}

// leaveToBackfill removes an event from the waiting ones. When a client paginates back, the event is fetched again as
// history.
func (a *arrivals) leaveToBackfill(e *incoming) {
	a.history.nodes[e.ID()], a.history.aside[e.ID()] = graphNode{e.PrevEvents(), e.Depth()}, true
	a.finish(e.ID(), nil)
	received.WithLabelValues("history").Inc()
}

// gatherHistory leaves the waiting events that precede the join to backfill. If the known part of the graph does not
// decide which ones do, it asks the origin for ancestors of the join.
func (g *gathering) gatherHistory(ctx context.Context) error {
	suspects, err := g.historySuspects(ctx)
	if err != nil {
		return err
	}
	for {
		doubtful := g.setHistoryAside(suspects)
		if len(doubtful) == 0 {
			return nil
		}
		more, err := g.gatherAncestors(ctx)
		if err != nil {
			return err
		}
		if more {
			continue
		}
		for _, e := range doubtful {
			if e.asked && !g.mustArrive(e) {
				g.leaveToBackfill(e)
			}
		}
		return nil
	}
}

// openHistory returns what the database knows about the graph before the join: which events are missing there, and
// whether the stored history is complete.
func (a *arrivals) openHistory(ctx context.Context) (h *ancestry, err error) {
	h = &ancestry{nodes: map[id.EventID]graphNode{}, aside: map[id.EventID]bool{}}
	err = a.svc.db.Read(ctx, func(tx *storage.Tx) error {
		p := a.room.reader(tx)
		if h.join, err = p.Join(); err != nil {
			return err
		}
		edges, err := tx.BackwardEdges(a.room.nid, 0, h.join.Order, maxHistoryGaps)
		for _, e := range edges {
			h.roots = append(h.roots, id.EventID(e.Missing))
		}
		if create := a.room.State(typeCreate, ""); err == nil && create != nil {
			create, err = p.Event(create.ID())
			h.complete = create != nil && create.InGraph()
		}
		return err
	})
	return h, err
}

// walk finds the known ancestors of the join, and sets bound, the depth below which unknown events may be ancestors
// too.
func (h *ancestry) walk(a *arrivals) {
	h.ids, h.ends, h.bound = map[id.EventID]bool{}, nil, 0
	if !h.complete && len(h.roots) == 0 || len(h.roots) == maxHistoryGaps {
		h.bound = h.join.Depth() - 1
	}
	type step struct {
		event id.EventID
		depth int64 // at most
	}
	var todo []step
	for _, root := range h.roots {
		todo = append(todo, step{root, h.join.Depth() - 1})
	}
	for len(todo) > 0 {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		node, known := h.nodes[s.event]
		if e := a.waiting[s.event]; e != nil {
			node, known = graphNode{e.PrevEvents(), e.Depth()}, true
		}
		if !known {
			h.bound = max(h.bound, s.depth)
		}
		if h.ids[s.event] {
			continue
		}
		if h.ids[s.event] = true; !known {
			h.ends = append(h.ends, s.event)
			continue
		}
		for _, prev := range node.prev {
			if e := a.known[prev]; e == nil || !e.InGraph() {
				todo = append(todo, step{prev, node.depth - 1})
			}
		}
	}
}

// gatherAncestors asks the origin for ancestors of the join, and reports whether it got new ones. Only the shape of the
// graph is used. So the worst that a dishonest origin can do is to have its own events set aside.
func (g *gathering) gatherAncestors(ctx context.Context) (more bool, err error) {
	h := g.history
	if g.from.remote == nil || len(h.ends) == 0 || h.asked >= maxAncestryRounds {
		return false, nil
	}
	h.asked++
	raws, err := g.from.remote.Backfill(ctx, g.origin, g.room.id, h.ends[:min(len(h.ends), maxBackfillEdges)], maxBackfillPage)
	if err != nil {
		g.svc.log.DebugContext(ctx, "ancestors of the join could not be fetched", "room", g.room.id, "server", g.origin, "err", err)
		return false, ctx.Err()
	}
	var prev []id.EventID
	for _, raw := range raws[:min(len(raws), maxBackfillPage)] {
		e, err := pdu.Parse(g.room.version, raw)
		if err != nil || e.RoomID() != g.room.id {
			continue
		}
		if _, known := h.nodes[e.ID()]; !known {
			h.nodes[e.ID()] = graphNode{e.PrevEvents(), e.Depth()}
			prev = append(prev, e.PrevEvents()...)
			more = more || slices.Contains(h.ends, e.ID())
		}
	}
	return more, g.find(ctx, prev)
}
