package pdu

import (
	"strconv"

	"ebb/canonjson"
)

// ClientJSON is the event in the form for clients, without unsigned, which differs from reader to reader: the caller
// splices `,"unsigned":{…}` in before the last byte. room_id is in it on request, for the create event of a version 12
// room as well. A redaction has redacts at the top level and in its content, whatever its room version; what redacts nothing
// has it nowhere, since some clients look at no more than the type of an event, and at either place.
// Spec: client-server-api#room-event-format, rooms/v11#moving-the-redacts-property-of-mroomredaction-events-to-a-content-property
func (e *Event) ClientJSON(withRoomID bool) []byte {
	b := make([]byte, 0, len(e.content)+512) // 512: the other members of a usual event
	b = e.appendClientContent(append(b, `{"content":`...))
	b = canonjson.AppendString(append(b, `,"event_id":`...), string(e.id))
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

// redactsForClients reports whether the event is a redaction of another one. A state event is none, whatever its type.
func (e *Event) redactsForClients() bool { return e.redacts != "" && !e.isState }
