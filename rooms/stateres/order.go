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

// pickPower marks and returns the set X of step 1: the power events of the full conflicted set, and of their auth
// chains what is of that set.
//
// Deviation: the auth chain of a power event is followed only as long as it stays within the full conflicted set, as
// other servers do it. By the words of the specification a chain could leave the set and come back; that takes a state
// that disagrees with its own auth chains in a room before version 12, where agreeing with the rest of the room is
// worth more.
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

// entry is an event with what the reverse topological power ordering compares it by.
type entry struct {
	*node
	level   int64
	waiting int   // auth events among the events to order that are not placed yet
	citing  []int // entries that have it among their auth events
}

// orderByPower sorts events by the reverse topological power ordering: auth events first; among those free to go the
// higher sender's level first, then the older origin_server_ts, then the smaller event id. Events that form a cycle,
// which only event ids that are not hashes can, come last.
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

// entryHeap holds the entries that are free to be placed, the first one on top.
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

// compareAge compares by origin_server_ts, then by event id.
func compareAge(a, b *pdu.Event) int {
	return cmp.Or(cmp.Compare(a.OriginServerTS(), b.OriginServerTS()), strings.Compare(string(a.ID()), string(b.ID())))
}

// levelsKey names the two events that power levels come from.
type levelsKey struct{ create, powerLevels id.EventID }

// levelsOf returns the power levels that two events give, compiled once; each may be nil.
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

// senderLevel returns the power level of an event's sender by the event's own auth events.
func (g *graph) senderLevel(n *node) int64 {
	var powerLevels *pdu.Event
	if a := g.authEvent(n, typePowerLevels); a != nil {
		powerLevels = a.event
	}
	return g.levelsOf(g.createOf(n), powerLevels).UserLevel(n.event.Sender())
}

// createOf returns the create event that an event goes by: the one among its auth events, or where the room id is the
// create event's hash the one that it names; nil if it is not known or was rejected.
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

// orderByMainline sorts events by the mainline ordering based on a power levels event, which may be nil.
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

// offMainline is the position of an event whose power levels never meet the mainline.
const offMainline = math.MaxInt

// mainlinePosition follows a power levels event back until the mainline. The answers on the way are kept in memo, so
// that a long line of power levels is walked once.
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
