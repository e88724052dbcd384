package stateres_test

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

// reference resolves states as the specification words it, set by set and event by event, without regard to cost.
type reference struct {
	v     *pdu.Version
	sets  []stateres.StateSet
	store *mapStore
}

type idSet = map[id.EventID]bool

func (r reference) resolve() stateres.StateSet {
	if r.v.StateRes == pdu.StateResV1 {
		return r.resolveV1()
	}
	agreed, conflicted := make(stateres.StateSet), make(idSet)
	for _, set := range r.sets {
		for key, eventID := range set {
			if !slices.ContainsFunc(r.sets, func(other stateres.StateSet) bool { return other[key] != eventID }) {
				agreed[key] = eventID
			} else if r.store.events[eventID] != nil {
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
	if r.v.StateRes == pdu.StateResV2 {
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

// chain is the auth chain of an event.
func (r reference) chain(eventID id.EventID) idSet {
	chain := make(idSet)
	todo := []id.EventID{eventID}
	for len(todo) > 0 {
		e := r.store.events[todo[0]]
		todo = todo[1:]
		if e == nil {
			continue
		}
		for _, a := range e.AuthEvents() {
			if r.store.events[a] != nil && !chain[a] {
				chain[a] = true
				todo = append(todo, a)
			}
		}
	}
	return chain
}

func (r reference) fullConflictedSet(conflicted idSet) idSet {
	full := maps.Clone(conflicted)
	// the auth difference
	count := make(map[id.EventID]int)
	for _, set := range r.sets {
		union := make(idSet)
		for _, eventID := range set {
			maps.Copy(union, r.chain(eventID))
		}
		for eventID := range union {
			count[eventID]++
		}
	}
	for eventID, n := range count {
		if n < len(r.sets) {
			full[eventID] = true
		}
	}
	if r.v.StateRes == pdu.StateResV2 {
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

func (r reference) isPower(eventID id.EventID) bool {
	e := r.store.events[eventID]
	key, isState := e.StateKey()
	membership := eventauth.Membership(e)
	return isState && (e.Type() == "m.room.power_levels" || e.Type() == "m.room.join_rules" ||
		e.Type() == "m.room.member" && (membership == "leave" || membership == "ban") && string(e.Sender()) != key)
}

// powerSet is X. In v2.1 it is by the words of the specification: no path between two events of the full conflicted set
// leaves it. In v2 paths stay within the set because other servers have it so; see the deviation in pickPower.
func (r reference) powerSet(full idSet) idSet {
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

func (r reference) chainWithin(eventID id.EventID, full idSet) idSet {
	within := make(idSet)
	if r.v.StateRes == pdu.StateResV2_1 {
		for a := range r.chain(eventID) {
			if full[a] {
				within[a] = true
			}
		}
		return within
	}
	todo := []id.EventID{eventID}
	for len(todo) > 0 {
		for _, a := range r.store.events[todo[0]].AuthEvents() {
			if full[a] && !within[a] {
				within[a] = true
				todo = append(todo, a)
			}
		}
		todo = todo[1:]
	}
	return within
}

func (r reference) auth(e *pdu.Event, typ string) *pdu.Event {
	for _, a := range e.AuthEvents() {
		if auth := r.store.events[a]; auth != nil && auth.IsStateKey(typ, "") {
			return auth
		}
	}
	return nil
}

func (r reference) create(e *pdu.Event) *pdu.Event {
	if r.v.RoomIDIsCreateHash {
		create := r.store.events[id.EventID("$"+strings.TrimPrefix(string(e.RoomID()), "!"))]
		if create == nil || !create.IsStateKey("m.room.create", "") {
			return nil
		}
		return create
	}
	return r.auth(e, "m.room.create")
}

func (r reference) level(eventID id.EventID) int64 {
	e := r.store.events[eventID]
	return eventauth.Levels(r.v, r.create(e), r.auth(e, "m.room.power_levels")).UserLevel(e.Sender())
}

func (r reference) byAge(a, b id.EventID) int {
	x, y := r.store.events[a], r.store.events[b]
	return cmp.Or(cmp.Compare(x.OriginServerTS(), y.OriginServerTS()), cmp.Compare(a, b))
}

// sortByPower takes, again and again, the smallest event that has no auth event left to take.
func (r reference) sortByPower(x idSet) []id.EventID {
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

// before are the events of x that must come before one of them.
func (r reference) before(eventID id.EventID, x idSet) idSet {
	before := make(idSet)
	if r.v.StateRes == pdu.StateResV2_1 {
		for a := range r.chain(eventID) {
			if x[a] {
				before[a] = true
			}
		}
		return before
	}
	for _, a := range r.store.events[eventID].AuthEvents() {
		if x[a] {
			before[a] = true
		}
	}
	return before
}

func (r reference) sortByMainline(rest idSet, powerLevels id.EventID) []id.EventID {
	var mainline []id.EventID
	for e := r.store.events[powerLevels]; e != nil && !slices.Contains(mainline, e.ID()); e = r.auth(e, "m.room.power_levels") {
		mainline = append(mainline, e.ID())
	}
	position := func(eventID id.EventID) int {
		seen := make(idSet)
		for e := r.auth(r.store.events[eventID], "m.room.power_levels"); e != nil && !seen[e.ID()]; e = r.auth(e, "m.room.power_levels") {
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

// replay is the iterative auth checks algorithm.
func (r reference) replay(state stateres.StateSet, events []id.EventID) {
	for _, eventID := range events {
		e := r.store.events[eventID]
		key, isState := e.StateKey()
		auth := make(eventauth.StateMap)
		for _, a := range slices.Backward(e.AuthEvents()) {
			authEvent := r.store.events[a]
			if authEvent == nil || r.store.rejected[a] {
				continue
			}
			if authKey, ok := authEvent.StateKey(); ok && (authEvent.Type() != "m.room.create" || !r.v.RoomIDIsCreateHash) {
				auth[pdu.StateKey{Type: authEvent.Type(), Key: authKey}] = authEvent
			}
		}
		if create := r.create(e); r.v.RoomIDIsCreateHash && create != nil && !r.store.rejected[create.ID()] {
			auth[pdu.StateKey{Type: "m.room.create"}] = create
		}
		for stateKey, stateID := range state {
			auth[stateKey] = r.store.events[stateID]
		}
		if isState && eventauth.Check(r.v, e, auth) == nil {
			state[pdu.StateKey{Type: e.Type(), Key: key}] = eventID
		}
	}
}

// resolveV1 is the algorithm of room version 1.
func (r reference) resolveV1() stateres.StateSet {
	state, conflicts := make(stateres.StateSet), make(map[pdu.StateKey]idSet)
	for _, set := range r.sets {
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

func (r reference) bestV1(base stateres.StateSet, events idSet, fromAbove bool) id.EventID {
	var sorted []*pdu.Event
	for eventID := range events {
		if e := r.store.events[eventID]; e != nil {
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
		state[key] = r.store.events[eventID]
	}
	if fromAbove {
		for i := len(sorted) - 1; i > 0; i-- {
			if eventauth.Check(r.v, sorted[i], state) == nil {
				return sorted[i].ID()
			}
		}
		return sorted[0].ID()
	}
	winner := sorted[0]
	for _, e := range sorted[1:] {
		key, _ := winner.StateKey()
		state[pdu.StateKey{Type: winner.Type(), Key: key}] = winner
		if eventauth.Check(r.v, e, state) != nil {
			break
		}
		winner = e
	}
	return winner.ID()
}
