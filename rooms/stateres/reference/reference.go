// Package reference resolves states as the specification words it, set by set and event by event, without regard to
// cost. Tests compare what servers do with it; the program does not use it.
package reference

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"maps"
	"slices"
	"strings"

	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"
	"ebb/rooms/stateres"

	"maunium.net/go/mautrix/id"
)

// Resolver resolves several states of one room.
type Resolver struct {
	Version  *pdu.Version
	Sets     []stateres.StateSet
	Events   map[id.EventID]*pdu.Event
	Rejected map[id.EventID]bool
}

type idSet = map[id.EventID]bool

// Resolve returns the resolved state of the sets.
func (r Resolver) Resolve() stateres.StateSet {
	if r.Version.StateRes == pdu.StateResV1 {
		return r.resolveV1()
	}
	agreed, conflicted := make(stateres.StateSet), make(idSet)
	for _, set := range r.Sets {
		for key, eventID := range set {
			if !slices.ContainsFunc(r.Sets, func(other stateres.StateSet) bool { return other[key] != eventID }) {
				agreed[key] = eventID
			} else if r.Events[eventID] != nil {
				conflicted[eventID] = true
			}
		}
	}
	if len(conflicted) == 0 {
		return agreed
	}
	full := r.fullConflictedSet(conflicted)
	x := r.powerSet(full)

	state := make(stateres.StateSet)
	if r.Version.StateRes == pdu.StateResV2 {
		state = maps.Clone(agreed)
	}
	r.replay(state, r.sortByPower(x))
	rest := make(idSet)
	for eventID := range full {
		if !x[eventID] {
			rest[eventID] = true
		}
	}
	r.replay(state, r.sortByMainline(rest, state[pdu.StateKey{Type: "m.room.power_levels"}]))
	maps.Copy(state, agreed)
	return state
}

// chain returns the auth chain of an event.
func (r Resolver) chain(eventID id.EventID) idSet {
	chain := make(idSet)
	todo := []id.EventID{eventID}
	for len(todo) > 0 {
		e := r.Events[todo[0]]
		todo = todo[1:]
		if e == nil {
			continue
		}
		for _, a := range e.AuthEvents() {
			if r.Events[a] != nil && !chain[a] {
				chain[a] = true
				todo = append(todo, a)
			}
		}
	}
	return chain
}

func (r Resolver) fullConflictedSet(conflicted idSet) idSet {
	full := maps.Clone(conflicted)
	// the auth difference
	count := make(map[id.EventID]int)
	for _, set := range r.Sets {
		union := make(idSet)
		for _, eventID := range set {
			maps.Copy(union, r.chain(eventID))
		}
		for eventID := range union {
			count[eventID]++
		}
	}
	for eventID, n := range count {
		if n < len(r.Sets) {
			full[eventID] = true
		}
	}
	if r.Version.StateRes == pdu.StateResV2 {
		return full
	}
	// the conflicted state subgraph
	for from := range conflicted {
		for between := range r.chain(from) {
			for to := range r.chain(between) {
				if conflicted[to] {
					full[between] = true
				}
			}
		}
	}
	return full
}

func (r Resolver) isPower(eventID id.EventID) bool {
	e := r.Events[eventID]
	key, isState := e.StateKey()
	membership := eventauth.Membership(e)
	return isState && (e.Type() == "m.room.power_levels" || e.Type() == "m.room.join_rules" ||
		e.Type() == "m.room.member" && (membership == "leave" || membership == "ban") && string(e.Sender()) != key)
}

// powerSet returns the set X of step 1 of the algorithm. For v2.1 it follows the wording of the specification: no path
// between two events of the full conflicted set leaves that set. For v2 it follows auth chains only within the set, as
// other servers do; see the deviation in pickPower.
func (r Resolver) powerSet(full idSet) idSet {
	x := make(idSet)
	for eventID := range full {
		if !r.isPower(eventID) {
			continue
		}
		x[eventID] = true
		for a := range r.chainWithin(eventID, full) {
			x[a] = true
		}
	}
	return x
}

func (r Resolver) chainWithin(eventID id.EventID, full idSet) idSet {
	within := make(idSet)
	if r.Version.StateRes == pdu.StateResV2_1 {
		for a := range r.chain(eventID) {
			if full[a] {
				within[a] = true
			}
		}
		return within
	}
	todo := []id.EventID{eventID}
	for len(todo) > 0 {
		for _, a := range r.Events[todo[0]].AuthEvents() {
			if full[a] && !within[a] {
				within[a] = true
				todo = append(todo, a)
			}
		}
		todo = todo[1:]
	}
	return within
}

func (r Resolver) auth(e *pdu.Event, typ string) *pdu.Event {
	for _, a := range e.AuthEvents() {
		if auth := r.Events[a]; auth != nil && auth.IsStateKey(typ, "") {
			return auth
		}
	}
	return nil
}

func (r Resolver) create(e *pdu.Event) *pdu.Event {
	if r.Version.RoomIDIsCreateHash {
		create := r.Events[id.EventID("$"+strings.TrimPrefix(string(e.RoomID()), "!"))]
		if create == nil || !create.IsStateKey("m.room.create", "") {
			return nil
		}
		return create
	}
	return r.auth(e, "m.room.create")
}

func (r Resolver) level(eventID id.EventID) int64 {
	e := r.Events[eventID]
	return eventauth.Levels(r.Version, r.create(e), r.auth(e, "m.room.power_levels")).UserLevel(e.Sender())
}

func (r Resolver) byAge(a, b id.EventID) int {
	x, y := r.Events[a], r.Events[b]
	return cmp.Or(cmp.Compare(x.OriginServerTS(), y.OriginServerTS()), cmp.Compare(a, b))
}

// sortByPower sorts events by the reverse topological power ordering: it repeatedly removes the smallest of the events
// whose auth events have all been removed.
func (r Resolver) sortByPower(x idSet) []id.EventID {
	var sorted []id.EventID
	left := maps.Clone(x)
	before := make(map[id.EventID]idSet)
	for eventID := range x {
		before[eventID] = r.before(eventID, x)
	}
	for len(left) > 0 {
		var free []id.EventID
		for eventID := range left {
			waits := false
			for b := range before[eventID] {
				waits = waits || left[b]
			}
			if !waits {
				free = append(free, eventID)
			}
		}
		if len(free) == 0 {
			return append(sorted, slices.SortedFunc(maps.Keys(left), r.byAge)...)
		}
		next := slices.MinFunc(free, func(a, b id.EventID) int {
			return cmp.Or(cmp.Compare(r.level(b), r.level(a)), r.byAge(a, b))
		})
		sorted = append(sorted, next)
		delete(left, next)
	}
	return sorted
}

// before returns the events of x that must be sorted before the given one.
func (r Resolver) before(eventID id.EventID, x idSet) idSet {
	before := make(idSet)
	if r.Version.StateRes == pdu.StateResV2_1 {
		for a := range r.chain(eventID) {
			if x[a] {
				before[a] = true
			}
		}
		return before
	}
	for _, a := range r.Events[eventID].AuthEvents() {
		if x[a] {
			before[a] = true
		}
	}
	return before
}

func (r Resolver) sortByMainline(rest idSet, powerLevels id.EventID) []id.EventID {
	var mainline []id.EventID
	for e := r.Events[powerLevels]; e != nil && !slices.Contains(mainline, e.ID()); e = r.auth(e, "m.room.power_levels") {
		mainline = append(mainline, e.ID())
	}
	position := func(eventID id.EventID) int {
		seen := make(idSet)
		for e := r.auth(r.Events[eventID], "m.room.power_levels"); e != nil && !seen[e.ID()]; e = r.auth(e, "m.room.power_levels") {
			if i := slices.Index(mainline, e.ID()); i >= 0 {
				return i
			}
			seen[e.ID()] = true
		}
		return len(mainline)
	}
	return slices.SortedFunc(maps.Keys(rest), func(a, b id.EventID) int {
		return cmp.Or(cmp.Compare(position(b), position(a)), r.byAge(a, b))
	})
}

// replay runs the iterative auth checks algorithm, which adds the allowed events to state.
func (r Resolver) replay(state stateres.StateSet, events []id.EventID) {
	for _, eventID := range events {
		e := r.Events[eventID]
		key, isState := e.StateKey()
		auth := make(eventauth.StateMap)
		for _, a := range slices.Backward(e.AuthEvents()) {
			authEvent := r.Events[a]
			if authEvent == nil || r.Rejected[a] {
				continue
			}
			if authKey, ok := authEvent.StateKey(); ok && (authEvent.Type() != "m.room.create" || !r.Version.RoomIDIsCreateHash) {
				auth[pdu.StateKey{Type: authEvent.Type(), Key: authKey}] = authEvent
			}
		}
		if create := r.create(e); r.Version.RoomIDIsCreateHash && create != nil && !r.Rejected[create.ID()] {
			auth[pdu.StateKey{Type: "m.room.create"}] = create
		}
		for stateKey, stateID := range state {
			auth[stateKey] = r.Events[stateID]
		}
		if isState && eventauth.Check(r.Version, e, auth) == nil {
			state[pdu.StateKey{Type: e.Type(), Key: key}] = eventID
		}
	}
}

// resolveV1 resolves the sets by the algorithm of room version 1.
func (r Resolver) resolveV1() stateres.StateSet {
	state, conflicts := make(stateres.StateSet), make(map[pdu.StateKey]idSet)
	for _, set := range r.Sets {
		for key, eventID := range set {
			if conflicts[key] == nil {
				conflicts[key] = make(idSet)
			}
			conflicts[key][eventID] = true
		}
	}
	for key, events := range conflicts {
		if len(events) == 1 {
			state[key] = slices.Collect(maps.Keys(events))[0]
			delete(conflicts, key)
		}
	}
	for _, pass := range []string{"m.room.power_levels", "m.room.join_rules", "m.room.member", ""} {
		base := maps.Clone(state)
		for key, events := range conflicts {
			if key.Type == pass || pass == "" && !strings.Contains("m.room.power_levels m.room.join_rules m.room.member", key.Type) {
				if winner := r.bestV1(base, events, pass == ""); winner != "" {
					state[key] = winner
				}
			}
		}
	}
	return state
}

func (r Resolver) bestV1(base stateres.StateSet, events idSet, fromAbove bool) id.EventID {
	var sorted []*pdu.Event
	for eventID := range events {
		if e := r.Events[eventID]; e != nil {
			sorted = append(sorted, e)
		}
	}
	if len(sorted) == 0 {
		return ""
	}
	slices.SortFunc(sorted, func(a, b *pdu.Event) int {
		x, y := sha1.Sum([]byte(a.ID())), sha1.Sum([]byte(b.ID()))
		return cmp.Or(cmp.Compare(a.Depth(), b.Depth()), bytes.Compare(y[:], x[:]))
	})
	state := make(eventauth.StateMap)
	for key, eventID := range base {
		state[key] = r.Events[eventID]
	}
	if fromAbove {
		for i := len(sorted) - 1; i > 0; i-- {
			if eventauth.Check(r.Version, sorted[i], state) == nil {
				return sorted[i].ID()
			}
		}
		return sorted[0].ID()
	}
	winner := sorted[0]
	for _, e := range sorted[1:] {
		key, _ := winner.StateKey()
		state[pdu.StateKey{Type: winner.Type(), Key: key}] = winner
		if eventauth.Check(r.Version, e, state) != nil {
			break
		}
		winner = e
	}
	return winner.ID()
}
