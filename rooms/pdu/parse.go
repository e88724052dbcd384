package pdu

import (
	"bytes"
	"math"
	"strconv"

	"ebb/canonjson"
	"maunium.net/go/mautrix/id"
)

// Limits of an event.
// Spec: client-server-api#size-limits; the lists: rooms/v1#event-format and later
const (
	MaxSize       = 65536 // bytes of canonical JSON, signatures included
	MaxPrevEvents = 20
	MaxAuthEvents = 10
)

// maxRawSize bounds what Parse looks at. Canonical JSON can be up to six times shorter (\u escapes), and a peer may
// indent; what is longer than this is no event that anybody sent in good faith.
const maxRawSize = 16 * MaxSize

// Parse reads an event that a stranger gave us: JSON by the rules of the room version, members of the right types, the
// grammar of ids, size limits. It computes the id. Hashes and signatures are the caller's to check; errors are *Error.
func Parse(v *Version, raw []byte) (*Event, error) {
	if len(raw) > maxRawSize {
		return nil, failf(TooLarge, "event is larger than %d bytes", MaxSize)
	}
	canonical, err := canonjson.Canonical(raw, v.StrictCanonicalJSON)
	if err != nil {
		return nil, badJSON(err)
	}
	if len(canonical) > MaxSize {
		return nil, failf(TooLarge, "event is larger than %d bytes", MaxSize)
	}
	var m members
	if err := m.scan(canonical); err != nil {
		return nil, badJSON(err)
	}
	e := newEvent(v, canonical, &m)
	if err := e.check(&m); err != nil {
		return nil, err
	}
	e.setID(e.computeID(&m))
	if err := e.checkIDs(&m); err != nil {
		return nil, err
	}
	return e, nil
}

// ParseStored reads an event that was checked before: from our own disk, or in a test. The id is taken as given, and
// of the bytes, which become the event's, only the bounds of members are looked at; they must not change afterwards.
// The error is a sign of a damaged database.
func ParseStored(v *Version, eventID id.EventID, raw []byte) (*Event, error) {
	var m members
	if err := m.scan(raw); err != nil {
		return nil, badJSON(err)
	}
	e := newEvent(v, raw, &m)
	e.setID(eventID)
	return e, nil
}

// ParseLenient reads an event for debugging: the id comes from its event_id, hashes and signatures may be missing, and
// nothing but the JSON is checked.
func ParseLenient(v *Version, raw []byte) (*Event, error) {
	canonical, err := canonjson.Canonical(raw, false)
	if err != nil {
		return nil, badJSON(err)
	}
	var m members
	if err := m.scan(canonical); err != nil {
		return nil, badJSON(err)
	}
	eventID, ok := canonjson.Unquote(m.eventID)
	if !ok {
		return nil, failf(BadShape, "event has no event_id")
	}
	e := newEvent(v, canonical, &m)
	e.setID(id.EventID(eventID))
	return e, nil
}

// members are the values of the members of an event that mean something to servers, nil where missing.
type members struct {
	auth, content, depth, eventID, hashes, ts, prev, redacts, room, sender, signatures, stateKey, typ, unsigned []byte
}

func (m *members) scan(obj []byte) error {
	return canonjson.Each(obj, func(key string, raw []byte) error {
		if place := m.place(key); place != nil {
			*place = raw
		}
		return nil
	})
}

func (m *members) place(key string) *[]byte {
	switch key {
	case "auth_events":
		return &m.auth
	case "content":
		return &m.content
	case "depth":
		return &m.depth
	case "event_id":
		return &m.eventID
	case "hashes":
		return &m.hashes
	case "origin_server_ts":
		return &m.ts
	case "prev_events":
		return &m.prev
	case "redacts":
		return &m.redacts
	case "room_id":
		return &m.room
	case "sender":
		return &m.sender
	case "signatures":
		return &m.signatures
	case "state_key":
		return &m.stateKey
	case "type":
		return &m.typ
	case "unsigned":
		return &m.unsigned
	}
	return nil
}

// newEvent fills an event from the members of raw; what is missing or of the wrong type is empty. The id comes later.
func newEvent(v *Version, raw []byte, m *members) *Event {
	e := &Event{version: v, json: raw, content: m.content, rawUnsigned: m.unsigned, namesRoom: m.room != nil}
	if m.unsigned != nil {
		e.json = canonjson.Without(raw, "unsigned")
	}
	e.typ, _ = canonjson.Unquote(m.typ)
	sender, _ := canonjson.Unquote(m.sender)
	e.sender = id.UserID(sender)
	room, _ := canonjson.Unquote(m.room)
	e.roomID = id.RoomID(room)
	e.stateKey, e.isState = canonjson.Unquote(m.stateKey)
	e.depth = max(0, integer(m.depth))
	e.ts = integer(m.ts)
	e.auth = references(m.auth)
	e.prev = references(m.prev)
	if e.typ == typeRedaction {
		e.redacts = redactedID(v, m)
	}
	return e
}

// setID completes the event; the room of a version 12 create event follows from the id.
func (e *Event) setID(eventID id.EventID) {
	e.id = eventID
	if e.version.RoomIDIsCreateHash && e.typ == typeCreate && eventID != "" {
		e.roomID = id.RoomID("!" + eventID[1:])
	}
}

func redactedID(v *Version, m *members) id.EventID {
	raw := m.redacts
	if v.RedactsInContent {
		raw, _ = canonjson.Get(m.content, "redacts")
	}
	target, _ := canonjson.Unquote(raw)
	return id.EventID(target)
}

// references reads a list of event ids, or as room versions 1 and 2 have it of pairs of an id and its hashes.
// What is none is nil.
func references(raw []byte) []id.EventID {
	elements, ok := canonjson.Elements(raw)
	if !ok || len(elements) == 0 {
		return nil
	}
	ids := make([]id.EventID, 0, len(elements))
	for _, element := range elements {
		if pair, isPair := canonjson.Elements(element); isPair && len(pair) > 0 {
			element = pair[0]
		}
		text, isText := canonjson.Unquote(element)
		if !isText {
			return nil
		}
		ids = append(ids, id.EventID(text))
	}
	return ids
}

// integer reads a number; one that is no integer, which old room versions permit, is cut off and clamped to 64 bits.
func integer(raw []byte) int64 {
	if n, ok := canonjson.Int(raw); ok {
		return n
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	switch {
	case f >= math.MaxInt64:
		return math.MaxInt64
	case f <= math.MinInt64:
		return math.MinInt64
	case err != nil || math.IsNaN(f):
		return 0
	}
	return int64(f)
}

func isObject(raw []byte) bool { return bytes.HasPrefix(raw, []byte("{")) }
