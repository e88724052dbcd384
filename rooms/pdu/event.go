// Package pdu is the event as servers exchange it: its canonical bytes, its fields, its hashes and signatures, its
// redacted form and its form for clients, for every room version.
//
// An event enters through [Parse] (hostile bytes), [ParseStored] (our own disk) or [Build] (ours, new) and does not
// change afterwards. The package is pure: bytes and values in, verdicts out. Whether an event is allowed is for
// rooms/eventauth, whose signing keys are whose for the federation's key ring.
package pdu

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"
)

// Event types whose content this package has to look into.
const (
	typeCreate            = "m.room.create"
	typeMember            = "m.room.member"
	typeJoinRules         = "m.room.join_rules"
	typePowerLevels       = "m.room.power_levels"
	typeAliases           = "m.room.aliases"
	typeHistoryVisibility = "m.room.history_visibility"
	typeRedaction         = "m.room.redaction"
)

// StateKey names one entry of a room's state.
type StateKey struct{ Type, Key string }

// Event is one event of a room of a known version. It never changes, so it is safe to share. The strings and byte
// slices that its methods return share the event's memory and must not be written to.
type Event struct {
	version     *Version
	id          id.EventID
	roomID      id.RoomID
	typ         string
	sender      id.UserID
	stateKey    string
	isState     bool
	namesRoom   bool // the event itself has a room_id
	redacts     id.EventID
	content     []byte
	depth       int64
	ts          int64
	prev, auth  []id.EventID
	json        []byte
	rawUnsigned []byte
}

// Version is the version of the event's room.
func (e *Event) Version() *Version { return e.version }

// ID is the event's id: from the event in room versions 1 and 2, its reference hash in later ones.
func (e *Event) ID() id.EventID { return e.id }

// RoomID is the room of the event. For the create event of a version 12 room it is derived from the event's id.
func (e *Event) RoomID() id.RoomID { return e.roomID }

// NamesRoom says whether the event itself has a room_id; the create event of a version 12 room must not.
func (e *Event) NamesRoom() bool { return e.namesRoom }

// Type is the event's type.
func (e *Event) Type() string { return e.typ }

// StateKey is the event's state key; false where it is no state event.
func (e *Event) StateKey() (string, bool) { return e.stateKey, e.isState }

// IsState says whether the event has a state key.
func (e *Event) IsState() bool { return e.isState }

// IsStateKey says whether the event is a state event of that type and state key.
func (e *Event) IsStateKey(typ, key string) bool {
	return e.isState && e.typ == typ && e.stateKey == key
}

// Sender is the user who sent the event.
func (e *Event) Sender() id.UserID { return e.sender }

// Content is the event's content, a canonical JSON object.
func (e *Event) Content() json.RawMessage { return e.content }

// PrevEvents are the ids of the events before this one in the room's graph.
func (e *Event) PrevEvents() []id.EventID { return e.prev }

// AuthEvents are the ids of the state events that allow this one.
func (e *Event) AuthEvents() []id.EventID { return e.auth }

// Depth is the event's distance from the room's start as its server claims it, within 0 and 2^63-1.
func (e *Event) Depth() int64 { return e.depth }

// OriginServerTS is when the sender's server says it made the event, in milliseconds since 1970.
func (e *Event) OriginServerTS() int64 { return e.ts }

// Redacts is the event that this m.room.redaction event redacts, from the content or the top level as the room version
// says; empty for other events.
func (e *Event) Redacts() id.EventID { return e.redacts }

// Unsigned is the unsigned member that came with the event, nil if none did. It is no part of JSON.
func (e *Event) Unsigned() json.RawMessage { return e.rawUnsigned }

// JSON is the event as servers exchange it and as Ebb stores it: canonical, with hashes and signatures, without unsigned.
func (e *Event) JSON() []byte { return e.json }
