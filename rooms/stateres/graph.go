package stateres

import (
	"slices"
	"strings"

	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"

	"maunium.net/go/mautrix/id"
)

const (
	typeCreate      = "m.room.create"
	typeMember      = "m.room.member"
	typeJoinRules   = "m.room.join_rules"
	typePowerLevels = "m.room.power_levels"
)

// node is an event of the auth graph. Only events that the store knows have a node.
type node struct {
	event    *pdu.Event
	auth     []*node // the known auth events; see authOf
	authRead bool    // whether auth has been read

	chains  int  // the number of state sets whose auth chains contain the event
	lastSet int  // the last state set whose auth chain was found to contain it, counted from 1
	full    bool // part of the full conflicted set
	below   bool // conflicted or in the auth chain of a conflicted event
	above   bool // conflicted or with a conflicted event in its auth chain
	picked  bool // part of the set X of step 1
}

// graph is the part of a room's auth graph that one resolution has read.
type graph struct {
	v      *pdu.Version
	store  Store
	nodes  map[id.EventID]*node // nil for an event that the store does not know
	levels map[levelsKey]*eventauth.PowerLevels
	limit  int  // the maximum number of nodes
	full   bool // more than limit nodes are needed
}

func newGraph(v *pdu.Version, store Store, limit int) *graph {
	return &graph{v: v, store: store, limit: limit, nodes: make(map[id.EventID]*node), levels: make(map[levelsKey]*eventauth.PowerLevels)}
}

// node returns the node of an event. It returns nil if the store does not know the event or the graph is full.
func (g *graph) node(eventID id.EventID) *node {
	n, seen := g.nodes[eventID]
	if seen {
		return n
	}
	if len(g.nodes) >= g.limit {
		g.full = true
		return nil
	}
	if e := g.store.Event(eventID); e != nil {
		n = &node{event: e}
	}
	g.nodes[eventID] = n
	return n
}

// authOf returns the known auth events of a node.
func (g *graph) authOf(n *node) []*node {
	if n.authRead {
		return n.auth
	}
	n.authRead = true
	for _, eventID := range n.event.AuthEvents() {
		if a := g.node(eventID); a != nil && !slices.Contains(n.auth, a) {
			n.auth = append(n.auth, a)
		}
	}
	return n.auth
}

// authEvent returns the auth event of a node that has the given type and an empty state key, or nil if there is none.
func (g *graph) authEvent(n *node, typ string) *node {
	for _, a := range g.authOf(n) {
		if a.event.IsStateKey(typ, "") {
			return a
		}
	}
	return nil
}

// walk calls visit for each auth event of the roots. Where visit returns true, walk goes on to the auth events of that
// node. A node may be visited several times.
func (g *graph) walk(roots []*node, visit func(*node) bool) {
	stack := slices.Clone(roots)
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for _, a := range g.authOf(n) {
			if visit(a) {
				stack = append(stack, a)
			}
		}
	}
}

// known returns the nodes of those events that the store knows.
func (g *graph) known(ids []id.EventID) []*node {
	nodes := make([]*node, 0, len(ids))
	for _, eventID := range ids {
		if n := g.node(eventID); n != nil {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// markFull marks the events of the full conflicted set. It returns them sorted by event ID.
//
// Spec: rooms/v12#definitions
func (g *graph) markFull(sets []StateSet, agreed StateSet, conflicts []conflict) []*node {
	var conflicted []*node
	for _, c := range conflicts {
		conflicted = append(conflicted, g.known(c.events)...)
	}
	for _, n := range conflicted {
		n.full = true
	}
	g.markDifference(sets, agreed, conflicts)
	if g.v.StateRes == pdu.StateResV2_1 {
		g.markSubgraph(conflicted)
	}
	var full []*node
	for _, n := range g.nodes {
		if n != nil && n.full {
			full = append(full, n)
		}
	}
	slices.SortFunc(full, func(a, b *node) int { return strings.Compare(string(a.event.ID()), string(b.event.ID())) })
	return full
}

// markDifference marks the auth difference: the events that are in the auth chains of some sets but not of all.
//
// The auth chain of the agreed state is part of every set's auth chain. Therefore only the chains of the conflicting
// entries are walked set by set. The chain of the agreed state is walked once, and only if that can change the result.
func (g *graph) markDifference(sets []StateSet, agreed StateSet, conflicts []conflict) {
	for i, set := range sets {
		var roots []*node
		for _, c := range conflicts {
			if eventID, ok := set[c.key]; ok {
				roots = append(roots, g.known([]id.EventID{eventID})...)
			}
		}
		g.walk(roots, func(n *node) bool {
			if n.lastSet == i+1 {
				return false
			}
			n.lastSet = i + 1
			n.chains++
			return true
		})
	}
	var differing []*node
	for _, n := range g.nodes {
		if n != nil && n.chains > 0 && n.chains < len(sets) {
			differing = append(differing, n)
		}
	}
	if len(differing) == 0 {
		return
	}
	g.markChainOf(agreed, len(sets))
	for _, n := range differing {
		n.full = n.full || n.chains < len(sets)
	}
}

// markChainOf marks the auth chain of the agreed state as part of the chains of all sets.
func (g *graph) markChainOf(agreed StateSet, sets int) {
	roots := make([]*node, 0, len(agreed))
	for _, eventID := range agreed {
		if n := g.node(eventID); n != nil {
			roots = append(roots, n)
		}
	}
	const everySet = -1
	g.walk(roots, func(n *node) bool {
		if n.lastSet == everySet {
			return false
		}
		n.lastSet = everySet
		n.chains = sets
		return true
	})
}

// markSubgraph marks the conflicted state subgraph: every event on a path along auth events from one conflicted event
// to another.
func (g *graph) markSubgraph(conflicted []*node) {
	cited := make(map[*node][]*node) // the nodes marked below whose auth events include a node
	for _, n := range conflicted {
		n.below, n.above = true, true
	}
	reached := slices.Clone(conflicted)
	for i := 0; i < len(reached); i++ {
		for _, a := range g.authOf(reached[i]) {
			cited[a] = append(cited[a], reached[i])
			if !a.below {
				a.below = true
				reached = append(reached, a)
			}
		}
	}
	above := slices.Clone(conflicted)
	for i := 0; i < len(above); i++ {
		for _, n := range cited[above[i]] {
			if !n.above {
				n.above = true
				above = append(above, n)
			}
		}
	}
	for _, n := range above {
		n.full = true
	}
}

// isPower reports whether an event is a power event as the specification defines it, such as a ban or a change of power
// levels.
//
// Spec: rooms/v2#definitions
func isPower(e *pdu.Event) bool {
	key, isState := e.StateKey()
	if !isState {
		return false
	}
	switch e.Type() {
	case typePowerLevels, typeJoinRules:
		return true
	case typeMember:
		membership := eventauth.Membership(e)
		return (membership == "leave" || membership == "ban") && key != string(e.Sender())
	}
	return false
}
