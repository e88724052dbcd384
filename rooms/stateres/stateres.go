// Package stateres resolves conflicting room states by the state resolution algorithm of the room's version: v1, v2 or
// v2.1.
//
// It is pure and deterministic: the result does not depend on the order of the state sets. It neither stores nor
// fetches events; a Store supplies those that the sets and their auth chains name. Resolve first separates the entries
// that all sets agree on from those in conflict. In v1 (v1.go) conflicts are decided by depth. In v2 and v2.1 (v2.go)
// the auth chains of the conflicting events are loaded (graph.go), and the events are ordered (order.go) and checked
// one after the other under the authorisation rules. ResolveFiles resolves events and state sets in files.
package stateres

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ebb/rooms/pdu"

	"maunium.net/go/mautrix/id"
)

// MaxEvents bounds how many events one resolution reads, including auth chains. A room of 100,000 members whose entire
// state conflicts stays below it and takes about a second.
const MaxEvents = 500_000

// ErrTooLarge is returned if a resolution would read more than MaxEvents events.
var ErrTooLarge = errors.New("state resolution: too many events")

// Store gives access to the events of one room. Its answers must not change during a resolution.
type Store interface {
	// Event returns an event, or nil if it is unknown.
	Event(id.EventID) *pdu.Event
	// Rejected reports whether an event was rejected when it was received.
	Rejected(id.EventID) bool
}

// StateSet is a room state: an event ID for each type and state key.
type StateSet = map[pdu.StateKey]id.EventID

// Resolve returns the resolved state of a set of room states. The result is a new map, and the sets are not modified.
// Events that the store does not know are ignored: they neither become part of the resolved state nor authorise other
// events. The only error is ErrTooLarge.
//
// Spec: rooms/v1#state-resolution, rooms/v2#state-resolution, rooms/v12#state-resolution
func Resolve(v *pdu.Version, sets []StateSet, store Store) (StateSet, error) {
	return resolve(v, sets, store, MaxEvents)
}

func resolve(v *pdu.Version, sets []StateSet, store Store, limit int) (StateSet, error) {
	for _, set := range sets {
		if len(set) > limit {
			return nil, fmt.Errorf("%w: %d in one state", ErrTooLarge, len(set))
		}
	}
	if v.StateRes == pdu.StateResV1 {
		agreed, conflicts := separate(sets, false)
		return resolveV1(v, agreed, conflicts, store), nil
	}
	agreed, conflicts := separate(sets, true)
	if len(conflicts) == 0 {
		return agreed, nil
	}
	return resolveV2(newGraph(v, store, limit), sets, agreed, conflicts)
}

// conflict is a type and state key for which the sets have different events. The events are sorted and without
// duplicates.
type conflict struct {
	key    pdu.StateKey
	events []id.EventID
}

// separate divides the entries of all sets into agreed and conflicting ones; the latter are sorted by key. An entry
// conflicts if two sets have different events for it. If inAll is true, an entry also conflicts if some sets have no
// event for it: v2 requires this (see unconflicted state map and conflicted state set), and v1 does not.
func separate(sets []StateSet, inAll bool) (StateSet, []conflict) {
	size := 0
	for _, set := range sets {
		size = max(size, len(set))
	}
	agreed := make(StateSet, size)
	differing := make(map[pdu.StateKey][]id.EventID)
	for i, set := range sets {
		for key, eventID := range set {
			if seenBefore(sets[:i], key) {
				continue
			}
			if same, everyone := agree(sets[i+1:], key, eventID); same && (everyone && i == 0 || !inAll) {
				agreed[key] = eventID
			} else {
				differing[key] = candidates(sets[i:], key)
			}
		}
	}
	conflicts := make([]conflict, 0, len(differing))
	for key, events := range differing {
		conflicts = append(conflicts, conflict{key, events})
	}
	slices.SortFunc(conflicts, func(a, b conflict) int { return compareKeys(a.key, b.key) })
	return agreed, conflicts
}

// agree compares the sets' events for a key with the given event. same reports whether no set has another event for the
// key, and everyone reports whether every set has an event for it.
func agree(sets []StateSet, key pdu.StateKey, eventID id.EventID) (same, everyone bool) {
	same, everyone = true, true
	for _, set := range sets {
		e, ok := set[key]
		everyone = everyone && ok
		same = same && (!ok || e == eventID)
	}
	return same, everyone
}

// candidates returns the events that the sets have for a key, sorted and without duplicates.
func candidates(sets []StateSet, key pdu.StateKey) []id.EventID {
	var events []id.EventID
	for _, set := range sets {
		if e, ok := set[key]; ok {
			events = append(events, e)
		}
	}
	slices.Sort(events)
	return slices.Compact(events)
}

func seenBefore(sets []StateSet, key pdu.StateKey) bool {
	return slices.ContainsFunc(sets, func(set StateSet) bool {
		_, ok := set[key]
		return ok
	})
}

func compareKeys(a, b pdu.StateKey) int {
	return cmp.Or(strings.Compare(a.Type, b.Type), strings.Compare(a.Key, b.Key))
}
