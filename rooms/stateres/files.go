package stateres

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"ebb/rooms/pdu"

	"maunium.net/go/mautrix/id"
)

// ResolveFiles resolves states of one room that are given as JSON. It returns the resolved state as a JSON array of
// {type, state_key, event_id}, sorted by type and state key.
//
// Each of pdus is a JSON array of PDUs. They are read leniently: event_id is used as given, and hashes and signatures
// are not checked. Each of states is a state set, as a JSON array of the IDs of such events. If there are no states,
// ResolveFiles resolves the states after the forward extremities of the graph that the PDUs form by prev_events. It
// computes the state after each event from the states after its prev_events, of which it ignores those that are not
// among the PDUs.
//
// If version is empty, the create event determines it.
func ResolveFiles(version id.RoomVersion, pdus [][]byte, states [][]byte) ([]byte, error) {
	raws, err := splitAll(pdus)
	if err != nil {
		return nil, err
	}
	if version == "" {
		version = versionNamed(raws)
	}
	v, ok := pdu.VersionOf(version)
	if !ok {
		return nil, fmt.Errorf("room version %q is not known", version)
	}
	room, err := readRoom(v, raws)
	if err != nil {
		return nil, err
	}
	var sets []StateSet
	if len(states) > 0 {
		sets, err = room.readSets(states)
	} else {
		sets, err = room.heads()
	}
	if err != nil {
		return nil, err
	}
	resolved, err := Resolve(v, sets, room)
	if err != nil {
		return nil, err
	}
	return encodeState(resolved)
}

func splitAll(files [][]byte) ([]json.RawMessage, error) {
	var all []json.RawMessage
	for i, file := range files {
		var items []json.RawMessage
		if err := json.Unmarshal(file, &items); err != nil {
			return nil, fmt.Errorf("PDU file %d is not a JSON array: %w", i+1, err)
		}
		all = append(all, items...)
	}
	return all, nil
}

// versionNamed returns the room version that the create event names. It is version 1 if the event names none, and "" if
// there is no create event.
func versionNamed(raws []json.RawMessage) id.RoomVersion {
	for _, raw := range raws {
		var create struct {
			Type    string
			Content struct {
				RoomVersion id.RoomVersion `json:"room_version"`
			}
		}
		if json.Unmarshal(raw, &create) == nil && create.Type == typeCreate {
			if create.Content.RoomVersion == "" {
				return id.RoomV1
			}
			return create.Content.RoomVersion
		}
	}
	return ""
}

// fileRoom is a Store of the events in files.
type fileRoom struct {
	v      *pdu.Version
	events map[id.EventID]*pdu.Event
	order  []id.EventID // in the order of the files
}

func readRoom(v *pdu.Version, raws []json.RawMessage) (*fileRoom, error) {
	room := &fileRoom{v: v, events: make(map[id.EventID]*pdu.Event, len(raws))}
	for i, raw := range raws {
		e, err := pdu.ParseLenient(v, raw)
		if err != nil {
			return nil, fmt.Errorf("PDU %d: %w", i+1, err)
		}
		if room.events[e.ID()] == nil {
			room.events[e.ID()] = e
			room.order = append(room.order, e.ID())
		}
	}
	return room, nil
}

// Event returns an event, or nil if it is not in the files.
func (r *fileRoom) Event(eventID id.EventID) *pdu.Event { return r.events[eventID] }

// Rejected returns false: all events in the files count as accepted.
func (r *fileRoom) Rejected(id.EventID) bool { return false }

func (r *fileRoom) readSets(files [][]byte) ([]StateSet, error) {
	sets := make([]StateSet, len(files))
	for i, file := range files {
		var ids []id.EventID
		if err := json.Unmarshal(file, &ids); err != nil {
			return nil, fmt.Errorf("state file %d is not a JSON array of event ids: %w", i+1, err)
		}
		sets[i] = make(StateSet, len(ids))
		for _, eventID := range ids {
			e := r.events[eventID]
			if e == nil {
				return nil, fmt.Errorf("state file %d: event %q is not among the PDUs", i+1, eventID)
			}
			key, isState := e.StateKey()
			if !isState {
				return nil, fmt.Errorf("state file %d: event %q is not a state event", i+1, eventID)
			}
			sets[i][pdu.StateKey{Type: e.Type(), Key: key}] = eventID
		}
	}
	return sets, nil
}

// heads returns the state after each forward extremity of the graph.
func (r *fileRoom) heads() ([]StateSet, error) {
	order, children, err := r.topological()
	if err != nil {
		return nil, err
	}
	after := make(map[id.EventID]StateSet)       // the states after events that have children left
	left := make(map[id.EventID]int, len(order)) // the number of children that have not been visited
	var heads []StateSet
	for _, eventID := range order {
		e := r.events[eventID]
		var before []StateSet
		for _, prev := range r.known(e.PrevEvents()) {
			before = append(before, after[prev])
			if left[prev]--; left[prev] == 0 {
				delete(after, prev)
			}
		}
		state, err := r.stateAfter(e, before)
		if err != nil {
			return nil, err
		}
		if left[eventID] = len(children[eventID]); left[eventID] == 0 {
			heads = append(heads, state)
		} else {
			after[eventID] = state
		}
	}
	return heads, nil
}

// stateAfter returns the state after an event, given the states after its prev_events.
func (r *fileRoom) stateAfter(e *pdu.Event, before []StateSet) (StateSet, error) {
	key, isState := e.StateKey()
	if len(before) == 1 && !isState {
		return before[0], nil
	}
	state, err := Resolve(r.v, before, r)
	if err != nil {
		return nil, fmt.Errorf("state before %s: %w", e.ID(), err)
	}
	if isState {
		state[pdu.StateKey{Type: e.Type(), Key: key}] = e.ID()
	}
	return state, nil
}

// topological returns the events sorted so that parents come before their children. It also returns the children of
// each event.
func (r *fileRoom) topological() ([]id.EventID, map[id.EventID][]id.EventID, error) {
	children := make(map[id.EventID][]id.EventID)
	waiting := make(map[id.EventID]int, len(r.order))
	var order []id.EventID
	for _, eventID := range r.order {
		parents := r.known(r.events[eventID].PrevEvents())
		for _, parent := range parents {
			children[parent] = append(children[parent], eventID)
		}
		if waiting[eventID] = len(parents); len(parents) == 0 {
			order = append(order, eventID)
		}
	}
	for i := 0; i < len(order); i++ {
		for _, child := range children[order[i]] {
			if waiting[child]--; waiting[child] == 0 {
				order = append(order, child)
			}
		}
	}
	if len(order) < len(r.order) {
		return nil, nil, fmt.Errorf("the prev_events of %d PDUs form a cycle", len(r.order)-len(order))
	}
	return order, children, nil
}

// known returns those of the given events that are in the files, without duplicates.
func (r *fileRoom) known(ids []id.EventID) []id.EventID {
	var out []id.EventID
	for _, eventID := range ids {
		if r.events[eventID] != nil && !slices.Contains(out, eventID) {
			out = append(out, eventID)
		}
	}
	return out
}

func encodeState(state StateSet) ([]byte, error) {
	type entry struct {
		Type     string     `json:"type"`
		StateKey string     `json:"state_key"`
		EventID  id.EventID `json:"event_id"`
	}
	keys := make([]pdu.StateKey, 0, len(state))
	for key := range state {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, compareKeys)
	entries := make([]entry, len(keys))
	for i, key := range keys {
		entries[i] = entry{key.Type, key.Key, state[key]}
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(entries); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
