package pdu

import (
	"slices"

	"maunium.net/go/mautrix/id"
)

// StateRes names a state resolution algorithm.
type StateRes uint8

// The algorithms of the specification, in the order in which room versions adopted them.
const (
	StateResV1   StateRes = iota + 1 // room version 1
	StateResV2                       // room versions 2 to 11
	StateResV2_1                     // room version 12 (MSC4297)
)

// EventIDFormat identifies the format of event IDs.
type EventIDFormat uint8

// The formats of event IDs, oldest first.
const (
	EventIDFromServer EventIDFormat = iota + 1 // "event_id" in the PDU (v1, v2)
	EventIDHash                                // reference hash, unpadded standard base64 (v3)
	EventIDURLHash                             // reference hash, unpadded URL-safe base64 (v4+)
)

// Version describes the features of a room version. All code that depends on the room version uses a field of this
// struct.
// Spec: rooms/v1 to rooms/v12.
type Version struct {
	ID            id.RoomVersion
	StateRes      StateRes
	EventIDFormat EventIDFormat

	EnforceKeyValidity   bool // v5+: a key must be valid at origin_server_ts
	StrictCanonicalJSON  bool // v6+: no floats, no integers beyond ±(2^53-1), no duplicate keys
	SpecialAliasesAuth   bool // v1–v5: auth rule and redaction for m.room.aliases
	NotificationsAuth    bool // v6+: power level rule looks at "notifications"
	Knock                bool // v7+: join rule and membership "knock"
	Restricted           bool // v8+: join rule "restricted"
	KeepAuthorisedVia    bool // v9+: redaction keeps join_authorised_via_users_server
	KnockRestricted      bool // v10+: join rule "knock_restricted"
	IntegerPowerLevels   bool // v10+: power levels are integers, never strings
	RedactionV11         bool // v11+: keeps all of create, invite in power_levels, redacts in m.room.redaction, third_party_invite.signed, drops top-level extras
	RedactsInContent     bool // v11+: m.room.redaction has content.redacts
	ByteLimits           bool // v11+: the size limits of single values count bytes, before that characters
	ImplicitRoomCreator  bool // v11+: the creator is the sender of m.room.create
	RedactionByAuthRules bool // v1, v2: auth rule 11 judges redactions by domain
	PrivilegedCreators   bool // v12+: creators have infinite power, additional_creators
	RoomIDIsCreateHash   bool // v12+: room id is the create event's hash; create has no room_id; auth_events omit create
}

// Default is the version of new rooms whose creator does not specify one.
const Default = id.RoomV12

var versions = buildVersions()

func buildVersions() []Version {
	all := []id.RoomVersion{id.RoomV1, id.RoomV2, id.RoomV3, id.RoomV4, id.RoomV5, id.RoomV6, id.RoomV7, id.RoomV8, id.RoomV9, id.RoomV10, id.RoomV11, id.RoomV12}
	table := make([]Version, 0, len(all))
	for i, v := range all {
		table = append(table, describe(v, i+1))
	}
	return table
}

// describe returns the features of room version n.
func describe(v id.RoomVersion, n int) Version {
	res, format := StateResV2, EventIDURLHash
	switch {
	case n == 1:
		res = StateResV1
	case n >= 12:
		res = StateResV2_1
	}
	switch {
	case n <= 2:
		format = EventIDFromServer
	case n == 3:
		format = EventIDHash
	}
	return Version{
		ID: v, StateRes: res, EventIDFormat: format,
		EnforceKeyValidity:   n >= 5,
		StrictCanonicalJSON:  n >= 6,
		SpecialAliasesAuth:   n <= 5,
		NotificationsAuth:    n >= 6,
		Knock:                n >= 7,
		Restricted:           n >= 8,
		KeepAuthorisedVia:    n >= 9,
		KnockRestricted:      n >= 10,
		IntegerPowerLevels:   n >= 10,
		RedactionV11:         n >= 11,
		RedactsInContent:     n >= 11,
		ByteLimits:           n >= 11,
		ImplicitRoomCreator:  n >= 11,
		RedactionByAuthRules: n <= 2,
		PrivilegedCreators:   n >= 12,
		RoomIDIsCreateHash:   n >= 12,
	}
}

// VersionOf returns a room version. It returns false if Ebb does not know the version.
func VersionOf(v id.RoomVersion) (*Version, bool) {
	i := slices.IndexFunc(versions, func(e Version) bool { return e.ID == v })
	if i < 0 {
		return nil, false
	}
	return &versions[i], true
}

// Versions returns all room versions that Ebb knows, oldest first.
func Versions() []id.RoomVersion {
	out := make([]id.RoomVersion, len(versions))
	for i := range versions {
		out[i] = versions[i].ID
	}
	return out
}
