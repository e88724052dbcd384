package handshake

import (
	"cmp"
	"encoding/json"
	"slices"

	"ebb/canonjson"
	"ebb/mxerr"
)

// StrippedTypes are the types of the state events that are shown to users who are not in the room yet.
// Spec: client-server-api#stripped-state
var StrippedTypes = []string{
	"m.room.create", "m.room.name", "m.room.avatar", "m.room.topic", "m.room.join_rules", "m.room.canonical_alias", "m.room.encryption",
}

// Bounds of the stripped state of an invite or a knock.
const (
	maxStripped      = 100       // events
	maxStrippedBytes = 512 << 10 // in total
	maxStrippedKept  = 80 << 10  // stored bytes: enough for the largest event and the usual state
)

// SplitStripped splits the stripped state of an invite or a knock into two lists: stripped events, in canonical form,
// and full PDUs, whose signatures still have to be verified.
//
// Errors: M_INVALID_PARAM, M_BAD_JSON, M_TOO_LARGE.
func SplitStripped(events []json.RawMessage) (stripped, full []json.RawMessage, err error) {
	size := 0
	for _, raw := range events {
		size += len(raw)
		switch {
		case !isStripped(raw):
			return nil, nil, mxerr.InvalidParam("invite_room_state has an entry that is not an event")
		case isFullPDU(raw):
			full = append(full, raw)
		default:
			if raw, err = canonjson.Canonical(raw, false); err != nil {
				return nil, nil, mxerr.BadJSON("Invalid invite_room_state: %v", err)
			}
			stripped = append(stripped, raw)
		}
	}
	if len(events) > maxStripped || size > maxStrippedBytes {
		return nil, nil, mxerr.BadRequest(mxerr.CodeTooLarge, "invite_room_state is too large")
	}
	return stripped, full, nil
}

// KeepStripped returns the part of the stripped state that is stored. If it is too large, the most important events are
// kept, because they are part of every /sync response that contains the invite.
func KeepStripped(shown []json.RawMessage) (kept []json.RawMessage) {
	rank := func(raw json.RawMessage) int {
		if i := slices.Index(StrippedTypes, TypeOf(raw)); i >= 0 {
			return i
		}
		return len(StrippedTypes)
	}
	sorted := slices.SortedStableFunc(slices.Values(shown), func(a, b json.RawMessage) int { return cmp.Compare(rank(a), rank(b)) })
	size := 0
	for _, raw := range sorted {
		if size+len(raw) <= maxStrippedKept {
			kept, size = append(kept, raw), size+len(raw)
		}
	}
	return kept
}

// isFullPDU reports whether a stripped event is a full PDU.
func isFullPDU(raw json.RawMessage) bool {
	_, signed := canonjson.Get(raw, "signatures")
	_, placed := canonjson.Get(raw, "auth_events")
	return signed && placed
}

// TypeOf returns the type of an event, which need not be valid, or "" if it has none.
func TypeOf(raw json.RawMessage) string {
	typ, _ := canonjson.Get(raw, "type")
	return canonjson.String(typ)
}

// isStripped reports whether raw is valid JSON and has the keys of a stripped event, with values of the right types.
func isStripped(raw json.RawMessage) bool {
	if !canonjson.IsObject(raw) || !json.Valid(raw) {
		return false
	}
	for _, member := range []string{"type", "state_key", "sender"} {
		text, ok := canonjson.Get(raw, member)
		if !ok {
			return false
		}
		if _, isText := canonjson.Unquote(text); !isText {
			return false
		}
	}
	content, _ := canonjson.Get(raw, "content")
	return canonjson.IsObject(content)
}
