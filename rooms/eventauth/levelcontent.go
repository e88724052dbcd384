package eventauth

import (
	"encoding/json"

	"ebb/canonjson"
	"ebb/rooms/pdu"

	"maunium.net/go/mautrix/id"
)

// LevelContent is the content of a power levels event in a form that can be modified and written for another room
// version.
type LevelContent struct {
	Named         map[string]int64 // the properties that are a single level, such as state_default and ban
	Users         map[id.UserID]int64
	Events        map[string]int64
	Notifications map[string]int64

	other map[string]json.RawMessage
}

// ReadLevelContent reads the content of a power levels event of a room of version v. Values that are not levels under
// the authorisation rules of that version count as missing.
func ReadLevelContent(v *pdu.Version, content json.RawMessage) *LevelContent {
	given := readLevels(v, content)
	c := &LevelContent{Named: map[string]int64{}, Users: given.users, Events: given.events, Notifications: given.notifications, other: map[string]json.RawMessage{}}
	if c.Users == nil {
		c.Users = map[id.UserID]int64{}
	}
	if c.Events == nil {
		c.Events = map[string]int64{}
	}
	for i, name := range levelNames {
		if given.has[i] {
			c.Named[name] = given.named[i]
		}
	}
	_ = canonjson.Each(content, func(key string, raw []byte) error {
		if _, isLevel := c.Named[key]; !isLevel {
			c.other[key] = raw
		}
		return nil
	})
	for _, key := range append([]string{"users", "events", "notifications"}, levelNames[:]...) {
		delete(c.other, key)
	}
	return c
}

// Required returns the highest level that any action in the room requires.
func (c *LevelContent) Required() int64 {
	level := int64(defaultState)
	for _, n := range c.Named {
		level = max(level, n)
	}
	for _, n := range c.Events {
		level = max(level, n)
	}
	return level
}

// Highest returns the highest level that any user has.
func (c *LevelContent) Highest() int64 {
	level := c.Named[levelNames[usersDefault]]
	for _, n := range c.Users {
		level = max(level, n)
	}
	return level
}

// LevelOf returns the level of a user.
func (c *LevelContent) LevelOf(user id.UserID) int64 {
	if level, ok := c.Users[user]; ok {
		return level
	}
	return c.Named[levelNames[usersDefault]]
}

// JSON encodes the content. Levels are integers within the range of canonical JSON, which every room version accepts.
func (c *LevelContent) JSON() (json.RawMessage, error) {
	out := map[string]any{}
	for key, raw := range c.other {
		out[key] = raw
	}
	for key, n := range c.Named {
		out[key] = writable(n)
	}
	out["users"], out["events"] = allWritable(c.Users), allWritable(c.Events)
	if c.Notifications != nil {
		out["notifications"] = allWritable(c.Notifications)
	}
	return json.Marshal(out)
}

func allWritable[K comparable](levels map[K]int64) map[K]int64 {
	out := make(map[K]int64, len(levels))
	for key, n := range levels {
		out[key] = writable(n)
	}
	return out
}

// writable returns level, limited to the range of integers in canonical JSON.
func writable(level int64) int64 { return max(-canonjson.MaxInt, min(level, canonjson.MaxInt)) }
