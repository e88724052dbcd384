package pdu

import (
	"strings"
	"unicode/utf8"

	"ebb/canonjson"
	"maunium.net/go/mautrix/id"
)

// check looks at the types and sizes of a stranger's event before its id is known.
// Spec: rooms/v1#event-format to rooms/v12#event-format
func (e *Event) check(m *members) error {
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
		return failf(BadShape, "content is not an object")
	case !isNumber(m.depth):
		return failf(BadShape, "depth is not a number")
	case !isNumber(m.ts):
		return failf(BadShape, "origin_server_ts is not a number")
	case !isObject(m.hashes):
		return failf(BadShape, "hashes is not an object")
	case !validSignatures(m.signatures):
		return failf(BadShape, "signatures is not an object of objects of strings")
	}
	if err := e.checkReferences("prev_events", m.prev, e.prev, MaxPrevEvents); err != nil {
		return err
	}
	if err := e.checkReferences("auth_events", m.auth, e.auth, MaxAuthEvents); err != nil {
		return err
	}
	return e.checkSizes()
}

// checkReferences checks a list of event ids: its form, which differs in room versions 1 and 2, and its length.
func (e *Event) checkReferences(name string, raw []byte, ids []id.EventID, most int) error {
	elements, ok := canonjson.Elements(raw)
	if !ok || len(elements) != len(ids) {
		return failf(BadShape, "%s is not a list of events", name)
	}
	if len(ids) > most {
		return failf(BadShape, "%s has more than %d entries", name, most)
	}
	for i, element := range elements {
		pair, isPair := canonjson.Elements(element)
		if isPair != (e.version.EventIDFormat == EventIDFromServer) || isPair && (len(pair) != 2 || !isObject(pair[1])) {
			return failf(BadShape, "%s has an entry of the wrong form", name)
		}
		if !validReference(ids[i]) {
			return failf(BadID, "%s has an entry that is no event id", name)
		}
	}
	return nil
}

// checkSizes checks the limits of single members, and that the texts by which events are stored hold no NUL.
// Deviation: the specification forbids NUL in ids only. PostgreSQL cannot store it in a type or state key either. In room
// versions before 11 the limit is one of characters: other servers have always taken it so, and rooms hold such events.
// Spec: client-server-api#size-limits
func (e *Event) checkSizes() error {
	for _, field := range [...]struct{ name, value string }{
		{"type", e.typ}, {"state_key", e.stateKey}, {"sender", string(e.sender)}, {"room_id", string(e.roomID)},
		{"redacts", string(e.redacts)},
	} {
		if len(field.value) > MaxIDLength && (e.version.ByteLimits || utf8.RuneCountInString(field.value) > MaxIDLength) {
			return failf(TooLarge, "%s is longer than %d bytes", field.name, MaxIDLength)
		}
		if strings.IndexByte(field.value, 0) >= 0 {
			return failf(BadID, "%s contains NUL", field.name)
		}
	}
	return nil
}

// checkIDs checks the grammar of the event's own ids.
func (e *Event) checkIDs(m *members) error {
	if !ValidUserID(e.sender) {
		return failf(BadID, "sender is not a user id")
	}
	if !ValidRoomID(e.version, e.roomID) {
		return failf(BadID, "room_id is not a room id of room version %s", e.version.ID)
	}
	if e.version.EventIDFormat != EventIDFromServer {
		return nil
	}
	if len(e.id) > MaxIDLength {
		return failf(TooLarge, "event_id is longer than %d bytes", MaxIDLength)
	}
	if !isText(m.eventID) || !validOwnEventID(e.id) {
		return failf(BadID, "event_id is not an event id of room version %s", e.version.ID)
	}
	return nil
}

// validSignatures checks the type of signatures: entity → key id → base64.
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
