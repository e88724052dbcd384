package pushrules

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
)

// errNothingToCopy leaves a user's rules as they are.
var errNothingToCopy = errors.New("no rule names the old room")

// Follow copies a user's rules for one room to the room that replaces it: those of the kind room, and the override rules
// by which clients mute a room, whose id is the room's. A rule that the user has for the new room stands, and so does
// everything for the old one.
func (r *Rules) Follow(ctx context.Context, nid int64, user id.UserID, from, to id.RoomID) error {
	err := r.change(ctx, nid, user, func(own *stored) error {
		copied := false
		for _, k := range []Kind{Override, Room} {
			rule, found := own.Own.Find(k, string(from))
			if _, already := own.Own.Find(k, string(to)); !found || already || own.count() >= maxRules {
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

// movedTo is the rule with the new room in place of the old one.
func (r *Rule) movedTo(from, to id.RoomID) Rule {
	moved := *r
	moved.ID = string(to)
	moved.Conditions = slices.Clone(r.Conditions)
	for i, c := range moved.Conditions {
		key, _ := canonjson.Get(c, "key")
		pattern, _ := canonjson.Get(c, "pattern")
		var of string
		if string(key) == `"room_id"` && json.Unmarshal(pattern, &of) == nil && of == string(from) {
			moved.Conditions[i] = bytes.Replace(c, pattern, canonjson.AppendString(nil, string(to)), 1)
		}
	}
	return moved
}
