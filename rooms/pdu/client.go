package pdu

import (
	"strconv"

	"ebb/canonjson"
)

// ClientJSON returns the event in the form for clients. It lacks unsigned, which differs between users: the caller
// inserts `,"unsigned":{…}` before the last byte. room_id is included on request, also for the create event of a
// version 12 room. In every room version a redaction has redacts both at the top level and in its content. An
// m.room.redaction event that does not redact anything has it in neither place, since some clients check only the type
// of the event.
// Spec: client-server-api#room-event-format,
// rooms/v11#moving-the-redacts-property-of-mroomredaction-events-to-a-content-property
func (e *Event) ClientJSON(withRoomID bool) []byte {
	b := make([]byte, 0, len(e.content)+512) // 512 bytes hold the other keys of a typical event
	b = e.appendClientContent(append(b, `{"content":`...))
	b = canonjson.AppendString(append(b, `,"event_id":`...), string(e.id))
	if e.stickyMS != notSticky {
		b = appendSticky(b, int64(e.stickyMS))
	}
	b = strconv.AppendInt(append(b, `,"origin_server_ts":`...), e.ts, 10)
	if e.redactsForClients() {
		b = canonjson.AppendString(append(b, `,"redacts":`...), string(e.redacts))
	}
	if withRoomID {
		b = canonjson.AppendString(append(b, `,"room_id":`...), string(e.roomID))
	}
	b = canonjson.AppendString(append(b, `,"sender":`...), string(e.sender))
	if e.isState {
		b = canonjson.AppendString(append(b, `,"state_key":`...), e.stateKey)
	}
	b = canonjson.AppendString(append(b, `,"type":`...), e.typ)
	return append(b, '}')
}

func (e *Event) appendClientContent(dst []byte) []byte {
	switch {
	case e.typ == typeRedaction && !e.redactsForClients():
		return append(dst, canonjson.Without(e.content, "redacts")...)
	case e.typ == typeRedaction && !e.version.RedactsInContent:
		return canonjson.AppendWith(dst, e.content, "redacts", canonjson.AppendString(nil, string(e.redacts)))
	case e.content == nil:
		return append(dst, "{}"...)
	}
	return append(dst, e.content...)
}

// redactsForClients reports whether the event redacts another one. A state event never does, whatever its type.
func (e *Event) redactsForClients() bool { return e.redacts != "" && !e.isState }
