// Package eventcontent reads and changes the content of state events that package rooms interprets: aliases, the rooms
// that a join rule names, the profile of a member, and what is personal of a user.
package eventcontent

import (
	"bytes"
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/rooms/pdu"
)

// Aliases is the content of m.room.canonical_alias.
type Aliases struct {
	Alias      string   `json:"alias"`
	AltAliases []string `json:"alt_aliases"`
}

// UnmarshalJSON accepts only exactly spelled names: encoding/json would accept ALIAS for alias, which no other
// implementation does.
func (a *Aliases) UnmarshalJSON(raw []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return err
	}
	for key, into := range map[string]any{"alias": &a.Alias, "alt_aliases": &a.AltAliases} {
		if value, ok := fields[key]; ok {
			if err := json.Unmarshal(value, into); err != nil {
				return err
			}
		}
	}
	return nil
}

// WithoutAlias removes an alias from the content of m.room.canonical_alias, and reports whether the alias was there.
func WithoutAlias(content []byte, alias string) ([]byte, bool) {
	fields := map[string]json.RawMessage{}
	var names Aliases
	if json.Unmarshal(content, &fields) != nil || json.Unmarshal(content, &names) != nil {
		return nil, false
	}
	changed := false
	if names.Alias == alias {
		delete(fields, "alias")
		changed = true
	}
	var keep []string
	for _, a := range names.AltAliases {
		if a != alias {
			keep = append(keep, a)
		}
	}
	if len(keep) < len(names.AltAliases) {
		changed = true
		delete(fields, "alt_aliases")
		if len(keep) > 0 {
			fields["alt_aliases"], _ = json.Marshal(keep) // strings always marshal
		}
	}
	out, err := json.Marshal(fields)
	return out, changed && err == nil
}

// maxAllow bounds the allowed rooms of a join rule that are considered.
const maxAllow = 100

// AllowedRooms returns the rooms whose members may join according to the content of m.room.join_rules.
func AllowedRooms(joinRules []byte) (rooms []id.RoomID) {
	raw, _ := canonjson.Get(joinRules, "allow")
	allow, _ := canonjson.Elements(raw)
	for _, a := range allow[:min(len(allow), maxAllow)] {
		if !canonjson.IsObject(a) {
			continue
		}
		typ, _ := canonjson.Get(a, "type")
		of, _ := canonjson.Get(a, "room_id")
		if room := id.RoomID(canonjson.String(of)); canonjson.String(typ) == "m.room_membership" && pdu.LooksLikeRoomID(room) {
			rooms = append(rooms, room)
		}
	}
	return rooms
}

// WithProfile returns the content of a member event with another display name and avatar. It drops the keys that
// describe only one join, such as reason.
func WithProfile(content []byte, displayName, avatarURL string) ([]byte, error) {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(content, &fields); err != nil {
		return nil, err
	}
	delete(fields, "reason")
	delete(fields, "join_authorised_via_users_server")
	for key, value := range map[string]string{"displayname": displayName, "avatar_url": avatarURL} {
		delete(fields, key)
		if value != "" {
			fields[key] = canonjson.AppendString(nil, value)
		}
	}
	return json.Marshal(fields)
}

// WithoutPerson returns a state event without what is personal of a user: the redacted form of an event that the user
// has sent (own), or a member event by somebody else without name and avatar. It returns nil if there is nothing to
// remove.
func WithoutPerson(v *pdu.Version, e *pdu.Event, own bool) (pruned *pdu.Event, err error) {
	switch {
	case own:
		pruned, err = e.Redact()
	case e.Type() == "m.room.member":
		content := canonjson.Without(e.Content(), "displayname", "avatar_url")
		pruned, err = pdu.ParseStored(v, e.ID(), canonjson.AppendWith(nil, e.JSON(), "content", content))
	}
	if err != nil || pruned == nil || bytes.Equal(pruned.Content(), e.Content()) {
		return nil, err
	}
	return pruned, nil
}
