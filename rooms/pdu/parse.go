package pdu

import (
	"bytes"
	"math"
	"strconv"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
)

// The limits of events.
// Spec: client-server-api#size-limits; the lists: rooms/v1#event-format and later
const (
	MaxSize       = 65536 // bytes of canonical JSON, signatures included
	MaxPrevEvents = 20
	MaxAuthEvents = 10
)

// maxRawSize bounds the text that Parse accepts. It may be longer than the canonical JSON: \u escapes make it up to six
// times longer, and it may be indented.
const maxRawSize = 16 * MaxSize

// Parse reads an untrusted event and computes its ID. It checks that the event is valid JSON for the room version and
// has values of the right types, and it checks the grammar of IDs and the size limits. It does not check hashes and
// signatures. Errors are *Error.
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
	var m fields
	if err := m.scan(canonical); err != nil {
		return nil, badJSON(err)
	}
	e := newCitingEvent(v, canonical, &m)
	if err := e.check(&m); err != nil {
		return nil, err
	}
	e.setID(e.computeID(&m))
	if err := e.checkIDs(&m); err != nil {
		return nil, err
	}
	return e, nil
}

// ParseStored reads an event that has been checked before, such as one from the database. It uses the given ID and does
// not validate raw. The event keeps raw, which must not be modified afterwards. An error means that the database is
// damaged.
func ParseStored(v *Version, eventID id.EventID, raw []byte) (*Event, error) {
	var m fields
	if err := m.scan(raw); err != nil {
		return nil, badJSON(err)
	}
	e := newEvent(v, raw, &m)
	e.setID(eventID)
	return e, nil
}

// ParseLenient reads an event for debugging. It takes the ID from event_id and checks nothing but the JSON syntax.
// Hashes and signatures may be missing.
func ParseLenient(v *Version, raw []byte) (*Event, error) {
	canonical, err := canonjson.Canonical(raw, false)
	if err != nil {
		return nil, badJSON(err)
	}
	var m fields
	if err := m.scan(canonical); err != nil {
		return nil, badJSON(err)
	}
	eventID, ok := canonjson.Unquote(m.eventID)
	if !ok {
		return nil, failf(BadShape, "event has no event_id")
	}
	e := newCitingEvent(v, canonical, &m)
	e.setID(id.EventID(eventID))
	return e, nil
}

// fields holds the raw values of those top-level keys of an event that servers interpret. The value of a missing key is
// nil.
type fields struct {
	auth, content, depth, eventID, hashes, sticky, ts, prev, redacts, room, sender, signatures, stateKey, typ, unsigned []byte
}

func (m *fields) scan(obj []byte) error {
	return canonjson.Each(obj, func(key string, raw []byte) error {
		if field := m.field(key); field != nil {
			*field = raw
		}
		return nil
	})
}

// field returns a pointer to the value of the given key, or nil if servers do not interpret the key.
func (m *fields) field(key string) *[]byte {
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
	case stickyKey:
		return &m.sticky
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

// newEvent returns an event without an ID, given its JSON and the values found in it. Values that are missing or have
// the wrong type are left empty.
func newEvent(v *Version, raw []byte, m *fields) *Event {
	e := new(Event)
	e.read(v, raw, m)
	return e
}

// newCitingEvent is like newEvent, for an event whose references will be needed. They are read at once, and take no
// allocation of their own.
func newCitingEvent(v *Version, raw []byte, m *fields) *Event {
	e := &struct {
		Event
		own cited
	}{own: cited{references(m.prev), references(m.auth)}}
	e.read(v, raw, m)
	e.cited.Store(&e.own)
	return &e.Event
}

// read sets the fields of an empty event to the values found in its JSON.
func (e *Event) read(v *Version, raw []byte, m *fields) {
	e.version, e.json, e.content, e.rawUnsigned, e.hasRoomID = v, raw, m.content, m.unsigned, m.room != nil
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
	e.stickyMS = stickyDuration(m.sticky)
	if e.typ == typeRedaction {
		e.redacts = redactedID(v, m)
	}
}

// setID sets the event's ID. For the create event of a version 12 room it also sets the room ID, which follows from the
// event ID.
func (e *Event) setID(eventID id.EventID) {
	e.id = eventID
	if e.version.RoomIDIsCreateHash && e.typ == typeCreate && eventID != "" {
		e.roomID = id.RoomID("!" + eventID[1:])
	}
}

func redactedID(v *Version, m *fields) id.EventID {
	raw := m.redacts
	if v.RedactsInContent {
		raw, _ = canonjson.Get(m.content, "redacts")
	}
	target, _ := canonjson.Unquote(raw)
	return id.EventID(target)
}

// references reads a list of event IDs or, as in room versions 1 and 2, of pairs of an event ID and hashes. It returns
// nil if raw is not such a list.
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

// integer reads a number. Numbers other than 64-bit integers, which old room versions permit, are truncated and limited
// to 64 bits.
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
