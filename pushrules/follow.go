package pushrules

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
)

// errNothingToCopy ends a change without writing anything.
var errNothingToCopy = errors.New("no rule names the old room")

// Follow copies a user's rules for a room to the room that replaces it. It copies the room rule and the override rule
// that has the room's ID, with which clients mute a room. It keeps the rules for the old room and does not overwrite
// rules for the new one.
func (r *Rules) Follow(ctx context.Context, nid ident.UserNID, user id.UserID, from, to id.RoomID) error {
	err := r.change(ctx, nid, user, func(own *stored) error {
		copied := false
		for _, k := range []Kind{Override, Room} {
			rule, found := own.Own.Find(k, string(from))
			if _, exists := own.Own.Find(k, string(to)); !found || exists || own.count() >= maxRules {
				continue
			}
			if err := own.put(k, rule.movedTo(from, to), "", ""); err != nil {
				return err
			}
			copied = true
		}
		if !copied {
			return errNothingToCopy
		}
		return nil
	})
	if errors.Is(err, errNothingToCopy) {
		return nil
	}
	return err
}

// movedTo returns a copy of the rule in which the new room replaces the old one.
func (r *Rule) movedTo(from, to id.RoomID) Rule {
	moved := *r
	moved.ID = string(to)
	moved.Conditions = slices.Clone(r.Conditions)
	for i, c := range moved.Conditions {
		key, _ := canonjson.Get(c, "key")
		pattern, _ := canonjson.Get(c, "pattern")
		var room string
		if string(key) == `"room_id"` && json.Unmarshal(pattern, &room) == nil && room == string(from) {
			moved.Conditions[i] = bytes.Replace(c, pattern, canonjson.AppendString(nil, string(to)), 1)
		}
	}
	return moved
}
