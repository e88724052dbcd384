// Package eventauth decides whether an event is allowed by the authorisation rules of its room version.
//
// It is pure: it checks an event against a given state. It does not check signatures or hashes (package pdu does),
// fetches nothing and knows no clock. For a received event callers use it as follows: CheckAuthEvents checks the list
// of auth events, Check then checks the event against these auth events, against the state before the event, and
// against the current state (soft failure).
//
// The rules are written once for all room versions. The numbers in the comments are those of room version 12. A
// Rejection contains the number of the rule in the version of the event's room (numbers.go).
package eventauth

import (
	"bytes"

	"ebb/canonjson"
	"ebb/rooms/pdu"

	"maunium.net/go/mautrix/id"
)

const (
	typeCreate           = "m.room.create"
	typeAliases          = "m.room.aliases"
	typeMember           = "m.room.member"
	typeJoinRules        = "m.room.join_rules"
	typePowerLevels      = "m.room.power_levels"
	typeThirdPartyInvite = "m.room.third_party_invite"
	typeRedaction        = "m.room.redaction"
)

// State is the room state that an event is checked against.
//
// It must include the create event, even in room version 12, where auth_events omit it. If a State also has a method
// `Levels() *PowerLevels`, Check calls it instead of reading the power levels event. It must return the levels that
// result from the state's own create and power levels events.
type State interface {
	// Get returns the state event with this type and state key, or nil.
	Get(typ, key string) *pdu.Event
}

// StateMap is a State in a map.
type StateMap map[pdu.StateKey]*pdu.Event

// Get returns the state event with this type and state key, or nil.
func (m StateMap) Get(typ, key string) *pdu.Event { return m[pdu.StateKey{Type: typ, Key: key}] }

// Rejection is the error for an event that an authorisation rule rejects.
type Rejection struct {
	Rule string // the number of the rule in the specification of the room version, such as "5.3.7"
	Msg  string // what is wrong, for people to read
}

func (r *Rejection) Error() string { return "auth rule " + r.Rule + ": " + r.Msg }

// Check checks an event against a state by all rules except those about the list of auth events (see CheckAuthEvents)
// and about signatures. For rule 5.2.1 the caller must have verified the signature of the authorising user's server,
// which is among pdu.RequiredSigners. It returns nil or a *Rejection.
//
// Spec: rooms/v1#authorisation-rules to rooms/v12#authorisation-rules
func Check(v *pdu.Version, e *pdu.Event, auth State) error {
	c := check{v: v, n: numbersOf(v), e: e, auth: auth}
	if d := c.judge(); d.msg != "" {
		return &Rejection{Rule: d.rule, Msg: d.msg}
	}
	return nil
}

// verdict is the result of the authorisation rules: the number of the rule that decided, and msg, the reason for a
// rejection. msg is empty if the event is allowed.
type verdict struct{ rule, msg string }

func allow(rule string) verdict       { return verdict{rule: rule} }
func reject(rule, msg string) verdict { return verdict{rule, msg} }

// check holds what is needed to check one event.
type check struct {
	v      *pdu.Version
	n      *numbers
	e      *pdu.Event
	auth   State
	create *pdu.Event   // set by rule 2
	levels *PowerLevels // set by the first call of power
}

func (c *check) judge() verdict {
	// 1. m.room.create
	if c.e.Type() == typeCreate {
		return c.judgeCreate()
	}
	if d := c.judgeRoom(); d.msg != "" {
		return d
	}
	// 4 in versions 1 to 5. m.room.aliases
	if c.v.SpecialAliasesAuth && c.e.Type() == typeAliases {
		return c.judgeAliases()
	}
	// 5. m.room.member
	if c.e.Type() == typeMember {
		return c.judgeMember()
	}
	// 6. Only joined users may send anything else.
	if c.membership(c.e.Sender()) != join {
		return reject(c.n.joined, "sender is not joined")
	}
	power := c.power()
	level := power.UserLevel(c.e.Sender())
	// 7. m.room.third_party_invite
	if c.e.Type() == typeThirdPartyInvite {
		if level < power.Invite { // 7.1
			return reject(c.n.thirdParty+".1", "sender may not invite")
		}
		return allow(c.n.thirdParty + ".1")
	}
	// 8. The sender has the level that the event's type requires.
	if level < power.EventLevel(c.e.Type(), c.e.IsState()) {
		return reject(c.n.level, "sender's power level is too low for this type of event")
	}
	// 9. A state key that is a user ID must be the sender's.
	if key, ok := c.e.StateKey(); ok && len(key) > 0 && key[0] == '@' && key != string(c.e.Sender()) {
		return reject(c.n.stateKey, "state_key is the ID of another user")
	}
	// 10. m.room.power_levels
	if c.e.Type() == typePowerLevels {
		return c.judgePowerLevels()
	}
	// 11 in versions 1 and 2. m.room.redaction
	if c.v.RedactionByAuthRules && c.e.Type() == typeRedaction {
		return c.judgeRedaction(level)
	}
	// 11. Everything else is allowed.
	return allow(c.n.otherwise)
}

// judgeCreate applies authorisation rule 1, about m.room.create.
func (c *check) judgeCreate() verdict {
	// 1.1 The create event is the first event.
	if len(c.e.PrevEvents()) > 0 {
		return reject("1.1", "create event has prev_events")
	}
	// 1.2 The room ID belongs to the sender's server. In version 12 it is the hash of the event.
	if c.v.RoomIDIsCreateHash {
		if c.e.HasRoomID() {
			return reject("1.2", "create event has a room_id")
		}
	} else if domain(string(c.e.RoomID())) != domain(string(c.e.Sender())) {
		return reject("1.2", "room_id and sender belong to different servers")
	}
	// 1.3 The room version is known. Without the property it is version 1.
	if raw, ok := canonjson.Get(c.e.Content(), "room_version"); ok {
		version, isString := canonjson.Unquote(raw)
		if _, known := pdu.VersionOf(id.RoomVersion(version)); !isString || !known {
			return reject("1.3", "room_version is unknown")
		}
	}
	switch {
	case c.v.PrivilegedCreators:
		// 1.4 additional_creators is a list of user IDs.
		if raw, ok := canonjson.Get(c.e.Content(), "additional_creators"); ok && !isUserList(raw) {
			return reject("1.4", "additional_creators is not a list of user IDs")
		}
	case c.v.ImplicitRoomCreator:
		return allow("1.4") // version 11 has no rule about the creator
	default:
		// 1.4 in versions 1 to 10: there is a creator.
		if _, ok := canonjson.Get(c.e.Content(), "creator"); !ok {
			return reject("1.4", "create event has no creator")
		}
	}
	return allow("1.5")
}

// judgeRoom applies rules 2 and 4: the event must belong to the room of the create event, and the sender's server must
// be allowed to take part. In versions before 12, judgeRoom also applies two points of the rule about auth_events, 2.4
// and 2.5, to the state: it must have a create event and belong to the room.
func (c *check) judgeRoom() verdict {
	c.create = c.auth.Get(typeCreate, "")
	if c.create == nil {
		return reject(c.n.noCreate, "the room has no create event")
	}
	if c.create.RoomID() != c.e.RoomID() {
		return reject(c.n.otherRoom, "create event belongs to another room")
	}
	// 4. If m.federate is false, only the creator's server may take part.
	if raw, ok := canonjson.Get(c.create.Content(), "m.federate"); ok && bytes.Equal(raw, []byte("false")) &&
		domain(string(c.e.Sender())) != domain(string(c.create.Sender())) {
		return reject(c.n.federate, "the room does not federate")
	}
	return verdict{}
}

// judgeAliases applies authorisation rule 4 of versions 1 to 5, about m.room.aliases.
func (c *check) judgeAliases() verdict {
	key, ok := c.e.StateKey()
	if !ok { // 4.1
		return reject(c.n.aliases+".1", "aliases event has no state_key")
	}
	if domain(string(c.e.Sender())) != key { // 4.2
		return reject(c.n.aliases+".2", "state_key is not the sender's server")
	}
	return allow(c.n.aliases + ".3")
}

// judgeRedaction applies authorisation rule 11 of versions 1 and 2, about m.room.redaction.
func (c *check) judgeRedaction(level int64) verdict {
	if level >= c.power().Redact { // 11.1
		return allow(c.n.redaction + ".1")
	}
	if domain(string(c.e.Redacts())) == domain(string(c.e.ID())) { // 11.2
		return allow(c.n.redaction + ".2")
	}
	return reject(c.n.redaction+".3", "sender may not redact another server's event")
}

// power returns the power levels of the state. It reads them at most once.
func (c *check) power() *PowerLevels {
	if c.levels != nil {
		return c.levels
	}
	if auth, ok := c.auth.(interface{ Levels() *PowerLevels }); ok {
		c.levels = auth.Levels()
	}
	if c.levels == nil {
		c.levels = Levels(c.v, c.create, c.auth.Get(typePowerLevels, ""))
	}
	return c.levels
}
