// Package stateres resolves conflicting room states into one, by the algorithm of the room's version: v1, v2 or v2.1.
//
// It is pure and deterministic: the same sets of events give the same state, in whatever order they come. It does not
// store or fetch: a Store hands it the events that the sets and their auth chains name. One resolution goes as follows:
// Resolve separates what the sets agree on from what they do not; for v1 (v1.go) what is left is decided by depth, for
// v2 and v2.1 (v2.go) the auth chains of the conflicting events are loaded (graph.go), ordered (order.go) and replayed
// under the authorisation rules (replay.go). ResolveFiles does it for events and sets in files.
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

// MaxEvents bounds how many events one resolution looks at, auth chains included. A room of 100,000 members whose
// state conflicts as a whole stays below it; it takes about a second.
const MaxEvents = 500_000

// ErrTooLarge is returned when a resolution would look at more than MaxEvents events.
var ErrTooLarge = errors.New("state resolution: too many events")

// Store gives access to the events of one room. It must answer the same for the same id during one resolution.
type Store interface {
	// Event returns an event, or nil if it is not known.
	Event(id.EventID) *pdu.Event
	// Rejected tells whether an event was rejected when it was received.
	Rejected(id.EventID) bool
}

// StateSet is a room state: the event for each type and state key.
type StateSet = map[pdu.StateKey]id.EventID

// Resolve returns the state that a room has where the given states meet. The result is a new map; the sets are not
// changed. An event that a set or auth chain names and the store does not know is passed over: it can neither win nor
// authorise. The only error is ErrTooLarge.
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

// conflict is a piece of state on which the sets differ, with the events that they name, each once, sorted.
type conflict struct {
	key    pdu.StateKey
	events []id.EventID
}

// separate divides the entries of all sets into those agreed on and those in conflict, the latter sorted by key. With
// everywhere, an entry that some sets lack is in conflict (v2: unconflicted state map and conflicted state set);
// without, only one for which sets name different events (v1).
func separate(sets []StateSet, everywhere bool) (StateSet, []conflict) {
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
			if same, everyone := agree(sets[i+1:], key, eventID); same && (everyone && i == 0 || !everywhere) {
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

// agree tells whether the sets name one event for a key, as far as they have it, and whether all of them have it.
func agree(sets []StateSet, key pdu.StateKey, eventID id.EventID) (same, everyone bool) {
	same, everyone = true, true
	for _, set := range sets {
		e, ok := set[key]
		everyone = everyone && ok
		same = same && (!ok || e == eventID)
	}
	return same, everyone
}

// candidates returns the events that the sets name for a key, each once, sorted.
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
