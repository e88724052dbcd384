package pdu

import (
	"strings"
	"unicode/utf8"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
)

// check checks the types of the event's top-level keys, and the sizes of their values. The event's ID is not known yet.
// Spec: rooms/v1#event-format to rooms/v12#event-format
func (e *Event) check(m *fields) error {
	switch {
	case !isText(m.typ):
		return failf(BadShape, "type is not a string")
	case !isText(m.sender):
		return failf(BadShape, "sender is not a string")
	case m.room != nil && !isText(m.room):
		return failf(BadShape, "room_id is not a string")
	case m.stateKey != nil && !isText(m.stateKey):
		return failf(BadShape, "state_key is not a string")
	case !isObject(m.content):
		return failf(BadShape, "content must be an object")
	case !isNumber(m.depth):
		return failf(BadShape, "depth is not a number")
	case !isNumber(m.ts):
		return failf(BadShape, "origin_server_ts is not a number")
	case !isObject(m.hashes):
		return failf(BadShape, "hashes is not an object")
	case !validSignatures(m.signatures):
		return failf(BadShape, "signatures is not an object of objects of strings")
	}
	if err := e.checkReferences("prev_events", m.prev, e.PrevEvents(), MaxPrevEvents); err != nil {
		return err
	}
	if err := e.checkReferences("auth_events", m.auth, e.AuthEvents(), MaxAuthEvents); err != nil {
		return err
	}
	return e.checkSizes()
}

// checkReferences checks the form and the length of a list of event IDs. The form in room versions 1 and 2 differs from
// that in later ones.
func (e *Event) checkReferences(name string, raw []byte, ids []id.EventID, limit int) error {
	elements, ok := canonjson.Elements(raw)
	if !ok || len(elements) != len(ids) {
		return failf(BadShape, "%s is not a list of events", name)
	}
	if len(ids) > limit {
		return failf(BadShape, "%s has more than %d entries", name, limit)
	}
	for i, element := range elements {
		pair, isPair := canonjson.Elements(element)
		if isPair != (e.version.EventIDFormat == EventIDFromServer) || isPair && (len(pair) != 2 || !isObject(pair[1])) {
			return failf(BadShape, "%s has an entry of the wrong form", name)
		}
		if !validReference(ids[i]) {
			return failf(BadID, "%s has an entry that is not an event ID", name)
		}
	}
	return nil
}

// checkSizes checks the size limits of single values. It also checks that the values with their own database columns
// contain no NUL.
// Deviation: the specification forbids NUL only in IDs, but PostgreSQL cannot store it in a type or state key either.
// In room versions before 11 the size is counted in characters: other servers have always done so, and rooms contain
// such events.
// Spec: client-server-api#size-limits
func (e *Event) checkSizes() error {
	for _, field := range [...]struct{ name, value string }{
		{"type", e.typ}, {"state_key", e.stateKey}, {"sender", string(e.sender)}, {"room_id", string(e.roomID)},
		{"redacts", string(e.redacts)},
	} {
		if len(field.value) > MaxIDLength && (e.version.ByteLimits || utf8.RuneCountInString(field.value) > MaxIDLength) {
			return failf(TooLarge, "%s must not be longer than %d bytes", field.name, MaxIDLength)
		}
		if strings.Contains(field.value, nul) {
			return failf(BadID, "%s contains NUL", field.name)
		}
	}
	return nil
}

// checkIDs checks the grammar of the event's sender, room ID and, in room versions 1 and 2, event ID.
func (e *Event) checkIDs(m *fields) error {
	if !ValidUserID(e.sender) {
		return failf(BadID, "sender is not a user ID")
	}
	if !ValidRoomID(e.version, e.roomID) {
		return failf(BadID, "room_id is not a room ID of room version %s", e.version.ID)
	}
	if e.version.EventIDFormat != EventIDFromServer {
		return nil
	}
	if len(e.id) > MaxIDLength {
		return failf(TooLarge, "event_id is longer than %d bytes", MaxIDLength)
	}
	if !isText(m.eventID) || !validOwnEventID(e.id) {
		return failf(BadID, "event_id is not an event ID of room version %s", e.version.ID)
	}
	return nil
}

// validSignatures reports whether raw is an object of objects of strings: the outer keys are servers, the inner keys
// are key IDs, and the strings are signatures.
func validSignatures(raw []byte) bool {
	err := canonjson.Each(raw, func(_ string, keys []byte) error {
		return canonjson.Each(keys, func(_ string, signature []byte) error {
			if !isText(signature) {
				return failf(BadShape, "signature is not a string")
			}
			return nil
		})
	})
	return err == nil
}

func isText(raw []byte) bool { return len(raw) > 0 && raw[0] == '"' }

func isNumber(raw []byte) bool {
	return len(raw) > 0 && (raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9')
}
