// Package pdu implements events (PDUs) in the format of every room version: their canonical JSON, fields, hashes and
// signatures, their redacted form and their form for clients.
//
// Events come from [Parse] (untrusted bytes), [ParseStored] (Ebb's own database) or [Build] (new events) and never
// change. The package is pure. Whether an event is allowed is decided by rooms/eventauth, and the signing keys of
// servers are looked up by fedclient.
package pdu

import (
	"encoding/json"
	"slices"
	"sync/atomic"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
)

// The event types whose content this package interprets.
const (
	typeCreate            = "m.room.create"
	typeMember            = "m.room.member"
	typeJoinRules         = "m.room.join_rules"
	typePowerLevels       = "m.room.power_levels"
	typeAliases           = "m.room.aliases"
	typeHistoryVisibility = "m.room.history_visibility"
	typeRedaction         = "m.room.redaction"
)

// StateKey is the key of an entry of a room's state.
type StateKey struct{ Type, Key string }

// Event is an event of a room of a known version. It never changes, so it is safe to share. The byte slices that its
// methods return share memory with the event and must not be modified.
type Event struct {
	version     *Version
	id          id.EventID
	roomID      id.RoomID
	typ         string
	sender      id.UserID
	stateKey    string
	isState     bool
	hasRoomID   bool // the event itself has a room_id
	redacts     id.EventID
	content     []byte
	depth       int64
	ts          int64
	stickyMS    int32 // see stickyDuration
	cited       atomic.Pointer[cited]
	json        []byte
	rawUnsigned []byte
}

// cited holds the IDs of the events that an event cites.
type cited struct{ prev, auth []id.EventID }

// references returns the IDs of the events that the event cites. For a stored event they are read when they are first
// needed, since most readers of a timeline do not need them.
func (e *Event) references() *cited {
	if c := e.cited.Load(); c != nil {
		return c
	}
	prev, _ := canonjson.Get(e.json, "prev_events")
	auth, _ := canonjson.Get(e.json, "auth_events")
	c := &cited{references(prev), references(auth)}
	e.cited.Store(c)
	return c
}

// Version returns the version of the event's room.
func (e *Event) Version() *Version { return e.version }

// ID returns the event's ID: the event_id in room versions 1 and 2, the encoded reference hash in later ones.
func (e *Event) ID() id.EventID { return e.id }

// RoomID returns the event's room. For the create event of a version 12 room it is derived from the event's ID.
func (e *Event) RoomID() id.RoomID { return e.roomID }

// HasRoomID reports whether the event has a room_id. The create event of a version 12 room must not have one.
func (e *Event) HasRoomID() bool { return e.hasRoomID }

// Type returns the event's type.
func (e *Event) Type() string { return e.typ }

// StateKey returns the event's state key. It returns false if the event is not a state event.
func (e *Event) StateKey() (string, bool) { return e.stateKey, e.isState }

// IsState reports whether the event is a state event.
func (e *Event) IsState() bool { return e.isState }

// IsStateKey reports whether the event is a state event with the given type and state key.
func (e *Event) IsStateKey(typ, key string) bool {
	return e.isState && e.typ == typ && e.stateKey == key
}

// Sender returns the user who sent the event.
func (e *Event) Sender() id.UserID { return e.sender }

// Content returns the event's content, a canonical JSON object.
func (e *Event) Content() json.RawMessage { return e.content }

// PrevEvents returns the IDs of the events that precede this one in the room's graph.
func (e *Event) PrevEvents() []id.EventID { return e.references().prev }

// AuthEvents returns the IDs of the state events that authorise this one.
func (e *Event) AuthEvents() []id.EventID { return e.references().auth }

// Depth returns the event's depth as its server claims it, from 0 to 2^63-1.
func (e *Event) Depth() int64 { return e.depth }

// OriginServerTS returns the time at which the sender's server claims to have created the event, in milliseconds since
// 1970.
func (e *Event) OriginServerTS() int64 { return e.ts }

// Redacts returns the ID of the event that an m.room.redaction event redacts, or "" for other events. Depending on the
// room version, the ID is in the content or at the top level.
func (e *Event) Redacts() id.EventID { return e.redacts }

// Unsigned returns the value of the key unsigned that the event was received with, or nil if there was none. JSON does
// not include it.
func (e *Event) Unsigned() json.RawMessage { return e.rawUnsigned }

// JSON returns the event in the form that servers exchange and Ebb stores: canonical JSON with hashes and signatures,
// without unsigned.
func (e *Event) JSON() []byte { return e.json }

// AuthEventIDs returns the IDs of the events that authorise the event: its auth_events and, since room version 12, the
// create event, which is implied by the room ID. Other servers expect the create event in every auth chain.
func (e *Event) AuthEventIDs() []id.EventID {
	cited := e.AuthEvents()
	if !e.version.RoomIDIsCreateHash || e.IsStateKey("m.room.create", "") {
		return cited
	}
	return append(slices.Clip(cited), CreateEventID(e.roomID))
}

// Membership returns the membership in the content of a member event, or "" if there is none.
func Membership(content []byte) string {
	raw, _ := canonjson.Get(content, "membership")
	return canonjson.String(raw)
}
