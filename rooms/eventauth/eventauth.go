// Package eventauth decides whether an event is allowed by the authorisation rules of its room version.
//
// It is pure: an event and the state to judge it against go in, a verdict comes out. It checks no signatures or hashes
// (package pdu does), fetches nothing and knows no clock. On receipt of an event a caller goes through it as follows:
// CheckAuthEvents looks at the list of auth events itself, Check judges the event against those auth events, then
// Check judges it against the state before it, then against the current state (soft failure).
//
// The rules are written once for all room versions. The numbers in the comments are those of room version 12; a
// Rejection carries the number that the rule has in the version of the event's room (numbers.go).
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

// State is the room state that an event is judged against.
//
// For room version 12 it holds the create event too, although auth_events do not name it. A State that also has a
// method `Levels() *PowerLevels` (see Compile) spares Check from reading the power levels event each time; the levels
// must be those of the state's own create and power levels events.
type State interface {
	// Get returns the state event with this type and state key, or nil.
	Get(typ, key string) *pdu.Event
}

// StateMap is a State held in a map.
type StateMap map[pdu.StateKey]*pdu.Event

// Get returns the state event with this type and state key, or nil.
func (m StateMap) Get(typ, key string) *pdu.Event { return m[pdu.StateKey{Type: typ, Key: key}] }

// Compiled is a State whose power levels have been read once. It is safe to share: nothing in it changes.
type Compiled struct {
	State
	levels *PowerLevels
}

// Compile reads the power levels of a state, so that Check need not.
func Compile(v *pdu.Version, auth State) *Compiled {
	return &Compiled{State: auth, levels: Levels(v, auth.Get(typeCreate, ""), auth.Get(typePowerLevels, ""))}
}

// Levels returns the power levels that Compile has read.
func (c *Compiled) Levels() *PowerLevels { return c.levels }

// Rejection says which authorisation rule refused an event.
type Rejection struct {
	Rule string // number of the rule in the room version's specification, like "5.3.7"
	Msg  string // what is wrong, to be read by people
}

func (r *Rejection) Error() string { return "auth rule " + r.Rule + ": " + r.Msg }

// Check judges an event against a state by all rules but those on the list of auth events (see CheckAuthEvents) and on
// signatures: rule 5.2.1 takes it that the caller has verified the signature of the authorising user's server, which
// pdu.RequiredSigners names. It returns nil or a *Rejection.
//
// Spec: rooms/v1#authorisation-rules to rooms/v12#authorisation-rules
func Check(v *pdu.Version, e *pdu.Event, auth State) error {
	c := check{v: v, n: numbersOf(v), e: e, auth: auth}
	if d := c.judge(); d.msg != "" {
		return &Rejection{Rule: d.rule, Msg: d.msg}
	}
	return nil
}

// verdict is the rule that decided about an event; msg is empty if it allowed the event.
type verdict struct{ rule, msg string }

func allow(rule string) verdict       { return verdict{rule: rule} }
func reject(rule, msg string) verdict { return verdict{rule, msg} }

// check is one event under judgement.
type check struct {
	v      *pdu.Version
	n      *numbers
	e      *pdu.Event
	auth   State
	create *pdu.Event   // set from rule 2 on
	levels *PowerLevels // read when a rule first asks
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
	// 6. Only joined users send anything else.
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
	// 8. The level that the event's type asks for.
	if level < power.EventLevel(c.e.Type(), c.e.IsState()) {
		return reject(c.n.level, "sender's power level is too low for this type of event")
	}
	// 9. State keys that name a user are that user's own.
	if key, ok := c.e.StateKey(); ok && len(key) > 0 && key[0] == '@' && key != string(c.e.Sender()) {
		return reject(c.n.stateKey, "state_key is another user's id")
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

// judgeCreate is rule 1.
func (c *check) judgeCreate() verdict {
	// 1.1 It is the first event.
	if len(c.e.PrevEvents()) > 0 {
		return reject("1.1", "create event has prev_events")
	}
	// 1.2 The room id belongs to the sender's server; in version 12 it comes from the event itself.
	if c.v.RoomIDIsCreateHash {
		if c.e.NamesRoom() {
			return reject("1.2", "create event has a room_id")
		}
	} else if domain(string(c.e.RoomID())) != domain(string(c.e.Sender())) {
		return reject("1.2", "room_id and sender are of different servers")
	}
	// 1.3 The room version is one that we know; without the property it is version 1.
	if raw, ok := canonjson.Get(c.e.Content(), "room_version"); ok {
		version, isString := canonjson.Unquote(raw)
		if _, known := pdu.VersionOf(id.RoomVersion(version)); !isString || !known {
			return reject("1.3", "room_version is not known")
		}
	}
	switch {
	case c.v.PrivilegedCreators:
		// 1.4 additional_creators is a list of user ids.
		if raw, ok := canonjson.Get(c.e.Content(), "additional_creators"); ok && !isUserList(raw) {
			return reject("1.4", "additional_creators is not a list of user ids")
		}
	case c.v.ImplicitRoomCreator:
		return allow("1.4") // version 11 has no rule about the creator
	default:
		// 1.4 in versions 1 to 10: the creator is named.
		if _, ok := canonjson.Get(c.e.Content(), "creator"); !ok {
			return reject("1.4", "create event names no creator")
		}
	}
	return allow("1.5")
}

// judgeRoom is rules 2 and 4: the event belongs to the room of the create event, and its sender may be there. In
// versions before 12 it also refuses what would already have been refused for its auth events: a state without a
// create event (2.4) or that of another room (2.5).
func (c *check) judgeRoom() verdict {
	c.create = c.auth.Get(typeCreate, "")
	if c.create == nil {
		return reject(c.n.noCreate, "the room has no create event")
	}
	if c.create.RoomID() != c.e.RoomID() {
		return reject(c.n.otherRoom, "create event is of another room")
	}
	// 4. Only the creator's server takes part when m.federate is false.
	if raw, ok := canonjson.Get(c.create.Content(), "m.federate"); ok && bytes.Equal(raw, []byte("false")) &&
		domain(string(c.e.Sender())) != domain(string(c.create.Sender())) {
		return reject(c.n.federate, "the room does not federate")
	}
	return verdict{}
}

// judgeAliases is rule 4 of versions 1 to 5.
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

// judgeRedaction is rule 11 of versions 1 and 2.
func (c *check) judgeRedaction(level int64) verdict {
	if level >= c.power().Redact { // 11.1
		return allow(c.n.redaction + ".1")
	}
	if domain(string(c.e.Redacts())) == domain(string(c.e.ID())) { // 11.2
		return allow(c.n.redaction + ".2")
	}
	return reject(c.n.redaction+".3", "sender may not redact another server's event")
}

// power returns the power levels of the state, read at most once.
func (c *check) power() *PowerLevels {
	if c.levels != nil {
		return c.levels
	}
	if compiled, ok := c.auth.(interface{ Levels() *PowerLevels }); ok {
		c.levels = compiled.Levels()
	}
	if c.levels == nil {
		c.levels = Levels(c.v, c.create, c.auth.Get(typePowerLevels, ""))
	}
	return c.levels
}
