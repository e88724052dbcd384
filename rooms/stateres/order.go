package stateres

import (
	"cmp"
	"container/heap"
	"math"
	"slices"
	"strings"

	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"

	"maunium.net/go/mautrix/id"
)

// pickPower marks and returns the set X of step 1: the power events of the full conflicted set, and the events in their
// auth chains that belong to that set.
//
// Deviation: like other servers, it follows an auth chain only while it stays within the full conflicted set. By the
// specification a chain could leave the set and enter it again. That requires a state that contradicts its own auth
// chains, in a room version before 12, and then it matters more to agree with the other servers in the room.
func (g *graph) pickPower(full []*node) []*node {
	var picked []*node
	pick := func(n *node) bool {
		if !n.full || n.picked {
			return false
		}
		n.picked = true
		picked = append(picked, n)
		return true
	}
	for _, n := range full {
		if isPower(n.event) && pick(n) {
			g.walk([]*node{n}, pick)
		}
	}
	return picked
}

// entry is a node with what is needed to sort it by the reverse topological power ordering.
type entry struct {
	*node
	level   int64 // the power level of the sender
	waiting int   // the number of its auth events among the entries that are not sorted yet
	citing  []int // the entries that have it among their auth events
}

// orderByPower sorts events by the reverse topological power ordering. Every event comes after its auth events. Among
// events without such an order, those whose senders have a higher power level come first, then those with an earlier
// origin_server_ts, then those with a smaller event ID. Events in a cycle come last; a cycle is possible only where
// event IDs are not hashes.
//
// Spec: rooms/v2#definitions
func (g *graph) orderByPower(nodes []*node) []*node {
	entries := make([]entry, len(nodes))
	index := make(map[*node]int, len(nodes))
	for i, n := range nodes {
		entries[i] = entry{node: n, level: g.senderLevel(n)}
		index[n] = i
	}
	for i := range entries {
		for _, a := range g.authOf(entries[i].node) {
			if j, ok := index[a]; ok {
				entries[i].waiting++
				entries[j].citing = append(entries[j].citing, i)
			}
		}
	}
	ready := &entryHeap{entries: entries}
	for i := range entries {
		if entries[i].waiting == 0 {
			ready.order = append(ready.order, i)
		}
	}
	heap.Init(ready)
	sorted := make([]*node, 0, len(nodes))
	for ready.Len() > 0 {
		i := heap.Pop(ready).(int)
		sorted = append(sorted, entries[i].node)
		for _, j := range entries[i].citing {
			if entries[j].waiting--; entries[j].waiting == 0 {
				heap.Push(ready, j)
			}
		}
	}
	return append(sorted, leftInCycles(entries)...)
}

func leftInCycles(entries []entry) []*node {
	var left []*node
	for i := range entries {
		if entries[i].waiting > 0 {
			left = append(left, entries[i].node)
		}
	}
	slices.SortFunc(left, func(a, b *node) int { return compareAge(a.event, b.event) })
	return left
}

// entryHeap is a heap of the entries whose auth events have all been sorted. The entry to be sorted next is at the top.
type entryHeap struct {
	entries []entry
	order   []int
}

func (h *entryHeap) Len() int      { return len(h.order) }
func (h *entryHeap) Swap(i, j int) { h.order[i], h.order[j] = h.order[j], h.order[i] }
func (h *entryHeap) Push(x any)    { h.order = append(h.order, x.(int)) }
func (h *entryHeap) Less(i, j int) bool {
	a, b := &h.entries[h.order[i]], &h.entries[h.order[j]]
	return cmp.Or(cmp.Compare(b.level, a.level), compareAge(a.event, b.event)) < 0
}

func (h *entryHeap) Pop() any {
	last := len(h.order) - 1
	x := h.order[last]
	h.order = h.order[:last]
	return x
}

// compareAge compares events by origin_server_ts, then by event ID.
func compareAge(a, b *pdu.Event) int {
	return cmp.Or(cmp.Compare(a.OriginServerTS(), b.OriginServerTS()), strings.Compare(string(a.ID()), string(b.ID())))
}

// levelsKey identifies power levels by the two events that determine them.
type levelsKey struct{ create, powerLevels id.EventID }

// levelsOf returns the power levels that follow from a create event and a power levels event, each of which may be nil.
// It computes them only once for each pair.
func (g *graph) levelsOf(create, powerLevels *pdu.Event) *eventauth.PowerLevels {
	var key levelsKey
	if create != nil {
		key.create = create.ID()
	}
	if powerLevels != nil {
		key.powerLevels = powerLevels.ID()
	}
	levels, ok := g.levels[key]
	if !ok {
		levels = eventauth.Levels(g.v, create, powerLevels)
		g.levels[key] = levels
	}
	return levels
}

// senderLevel returns the power level of an event's sender according to the event's own auth events.
func (g *graph) senderLevel(n *node) int64 {
	var powerLevels *pdu.Event
	if a := g.authEvent(n, typePowerLevels); a != nil {
		powerLevels = a.event
	}
	return g.levelsOf(g.createOf(n), powerLevels).UserLevel(n.event.Sender())
}

// createOf returns the create event of an event's room, or nil if it is unknown. Before room version 12 the create
// event is among the event's auth events; since then its ID follows from the room ID.
func (g *graph) createOf(n *node) *pdu.Event {
	a := g.authEvent(n, typeCreate)
	if g.v.RoomIDIsCreateHash {
		a = g.node(pdu.CreateEventID(n.event.RoomID()))
	}
	if a == nil || !a.event.IsStateKey(typeCreate, "") {
		return nil
	}
	return a.event
}

// orderByMainline sorts events by the mainline ordering based on powerLevels, which may be nil.
//
// Spec: rooms/v2#definitions
func (g *graph) orderByMainline(nodes []*node, powerLevels *node) {
	position := make(map[*node]int)
	for n := powerLevels; n != nil; n = g.authEvent(n, typePowerLevels) {
		if _, cycle := position[n]; cycle {
			break
		}
		position[n] = len(position)
	}
	memo := make(map[*node]int)
	of := make(map[*node]int, len(nodes))
	for _, n := range nodes {
		of[n] = g.mainlinePosition(g.authEvent(n, typePowerLevels), position, memo)
	}
	slices.SortFunc(nodes, func(a, b *node) int {
		return cmp.Or(cmp.Compare(of[b], of[a]), compareAge(a.event, b.event))
	})
}

// offMainline is the position of an event whose power levels events never reach the mainline.
const offMainline = math.MaxInt

// mainlinePosition returns the position at which the chain of power levels events that begins with n reaches the
// mainline. It stores the result for each event of the chain in memo, so that a long chain is followed only once.
func (g *graph) mainlinePosition(n *node, position, memo map[*node]int) int {
	var passed []*node
	found := offMainline
	for ; n != nil; n = g.authEvent(n, typePowerLevels) {
		if at, ok := position[n]; ok {
			found = at
			break
		}
		if at, ok := memo[n]; ok {
			found = at
			break
		}
		memo[n] = offMainline // also ends a cycle
		passed = append(passed, n)
	}
	for _, p := range passed {
		memo[p] = found
	}
	return found
}
