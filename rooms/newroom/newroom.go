// Package newroom makes the initial events of a room from a request to create it: presets, default power levels and the
// content of the create event. It needs nothing but the request; package rooms decides whether the creator may make it.
package newroom

import (
	"encoding/json"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/mxerr"
	"ebb/rooms/pdu"
)

// Values of preset in createRoom.
const (
	Private = "private_chat"
	Trusted = "trusted_private_chat"
	Public  = "public_chat"
)

const (
	typePowerLevels       = "m.room.power_levels"
	typeCanonicalAlias    = "m.room.canonical_alias"
	typeJoinRules         = "m.room.join_rules"
	typeHistoryVisibility = "m.room.history_visibility"
	typeGuestAccess       = "m.room.guest_access"
	typeName              = "m.room.name"
	typeTopic             = "m.room.topic"
	typeAvatar            = "m.room.avatar"
	typeEncryption        = "m.room.encryption"
	typeServerACL         = "m.room.server_acl"
	typeTombstone         = "m.room.tombstone"
)

// Request is the body of createRoom.
// Spec: client-server-api#post_matrixclientv3createroom
type Request struct {
	Visibility         string            `json:"visibility"`
	AliasName          string            `json:"room_alias_name"`
	Name               string            `json:"name"`
	Topic              string            `json:"topic"`
	Invite             []id.UserID       `json:"invite"`
	InviteThirdParty   []json.RawMessage `json:"invite_3pid"` // the caller takes these out and sends them itself
	RoomVersion        id.RoomVersion    `json:"room_version"`
	CreationContent    json.RawMessage   `json:"creation_content"`
	InitialState       []StateEvent      `json:"initial_state"`
	Preset             string            `json:"preset"`
	IsDirect           bool              `json:"is_direct"`
	PowerLevelOverride json.RawMessage   `json:"power_level_content_override"`
}

// StateEvent is one state event of a new room.
type StateEvent struct {
	Type     string          `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}

// Plan is a room to be created.
type Plan struct {
	Request     *Request // with a preset
	Version     *pdu.Version
	Creator     id.UserID
	Alias       id.RoomAlias    // "": none
	Invited     []id.UserID     // without duplicates
	PowerLevels json.RawMessage // from initial_state; nil: the default ones
}

// CreateContent returns the content of the create event.
func (p *Plan) CreateContent() (map[string]json.RawMessage, error) {
	content := map[string]json.RawMessage{}
	if raw := p.Request.CreationContent; len(raw) > 0 && json.Unmarshal(raw, &content) != nil {
		return nil, mxerr.BadJSON("creation_content must be an object")
	}
	if content == nil { // it was null
		content = map[string]json.RawMessage{}
	}
	if f, ok := content["m.federate"]; ok && string(f) != "true" && string(f) != "false" {
		return nil, mxerr.BadJSON("m.federate must be true or false")
	}
	delete(content, "creator")
	if !p.Version.ImplicitRoomCreator {
		content["creator"] = canonjson.AppendString(nil, string(p.Creator))
	}
	content["room_version"] = canonjson.AppendString(nil, string(p.Version.ID))
	if !p.Version.PrivilegedCreators {
		return content, nil
	}
	return content, p.addCreators(content)
}

// addCreators sets additional_creators from the request and, in a trusted private chat, the invited users.
func (p *Plan) addCreators(content map[string]json.RawMessage) error {
	var creators []id.UserID
	if raw, ok := content["additional_creators"]; ok && json.Unmarshal(raw, &creators) != nil {
		return mxerr.InvalidParam("additional_creators must be an array of user IDs")
	}
	for _, u := range creators {
		if !pdu.ValidUserID(u) {
			return mxerr.InvalidParam("Each entry of additional_creators must be a user ID")
		}
	}
	if p.Request.Preset == Trusted {
		creators = append(creators, p.Invited...)
	}
	var unique []id.UserID
	for _, u := range creators {
		if u != p.Creator && !slices.Contains(unique, u) {
			unique = append(unique, u)
		}
	}
	delete(content, "additional_creators")
	if len(unique) == 0 {
		return nil
	}
	raw, err := json.Marshal(unique)
	content["additional_creators"] = raw
	return err
}

// State returns the state events between the creator's join and the invites, in the order of the specification.
func (p *Plan) State() ([]StateEvent, error) {
	levels, err := p.levels()
	if err != nil {
		return nil, err
	}
	out := []StateEvent{{Type: typePowerLevels, Content: levels}}
	given := func(typ string) bool {
		return slices.ContainsFunc(p.Request.InitialState, func(e StateEvent) bool { return e.Type == typ && e.StateKey == "" })
	}
	add := func(typ, key, value string) {
		if !given(typ) {
			out = append(out, StateEvent{Type: typ, Content: object(key, value)})
		}
	}
	if p.Alias != "" {
		add(typeCanonicalAlias, "alias", string(p.Alias))
	}
	joinRule, guests := "invite", "can_join"
	if p.Request.Preset == Public {
		joinRule, guests = "public", "forbidden"
	}
	add(typeJoinRules, "join_rule", joinRule)
	add(typeHistoryVisibility, "history_visibility", "shared")
	if guests != "forbidden" { // "forbidden" is the default
		add(typeGuestAccess, "guest_access", guests)
	}
	for _, e := range p.Request.InitialState {
		replaced := e.StateKey == "" && (e.Type == typePowerLevels || e.Type == typeName && p.Request.Name != "" || e.Type == typeTopic && p.Request.Topic != "")
		if !replaced {
			out = append(out, e)
		}
	}
	if p.Request.Name != "" {
		out = append(out, StateEvent{Type: typeName, Content: object("name", p.Request.Name)})
	}
	if p.Request.Topic != "" {
		out = append(out, StateEvent{Type: typeTopic, Content: topicContent(p.Request.Topic)})
	}
	return out, nil
}

// object returns a JSON object with one key, whose value is a string.
func object(key, value string) json.RawMessage {
	b := append(canonjson.AppendString([]byte{'{'}, key), ':')
	return append(canonjson.AppendString(b, value), '}')
}

// topicContent returns the content of m.room.topic, both in plain form and as m.topic.
// Spec: client-server-api#mroomtopic
func topicContent(topic string) json.RawMessage {
	quoted := canonjson.AppendString(nil, topic)
	b := append([]byte(`{"m.topic":{"m.text":[{"body":`), quoted...)
	b = append(b, `}]},"topic":`...)
	return append(append(b, quoted...), '}')
}

// levels returns the content of m.room.power_levels: from initial_state if the request has it there, otherwise the
// defaults merged with power_level_content_override.
func (p *Plan) levels() (json.RawMessage, error) {
	if p.PowerLevels != nil {
		return p.PowerLevels, nil
	}
	fields := p.defaultLevels()
	if len(p.Request.PowerLevelOverride) > 0 {
		var over map[string]json.RawMessage
		if json.Unmarshal(p.Request.PowerLevelOverride, &over) != nil {
			return nil, mxerr.BadJSON("power_level_content_override must be an object")
		}
		for key, value := range over {
			fields[key] = value
		}
	}
	return json.Marshal(fields)
}

// AboveAdministrators is the level needed to send a tombstone if creators have infinite power. The specification
// demands that it is higher than the level of administrators.
const AboveAdministrators = 150

// defaultLevels returns the default power levels of the specification. Only the creator may take actions that can lock
// others out or expose the room.
func (p *Plan) defaultLevels() map[string]any {
	users := map[id.UserID]int{}
	tombstone := 100
	if p.Version.PrivilegedCreators {
		tombstone = AboveAdministrators
	} else {
		users[p.Creator] = 100
		if p.Request.Preset == Trusted {
			for _, user := range p.Invited {
				users[user] = 100
			}
		}
	}
	invite := 0
	if p.Request.Preset == Public { // anybody can join; most invites to public rooms are unsolicited
		invite = 50
	}
	return map[string]any{
		"users": users, "users_default": 0, "events_default": 0, "state_default": 50,
		"ban": 50, "kick": 50, "redact": 50, "invite": invite,
		"events": map[string]int{
			typeName: 50, typeAvatar: 50, typeTopic: 50, typeCanonicalAlias: 50, typeHistoryVisibility: 100, typePowerLevels: 100,
			typeEncryption: 100, typeServerACL: 100, typeTombstone: tombstone,
		},
	}
}
