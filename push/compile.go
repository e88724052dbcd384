package push

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
)

// compiled is a rule set ready for matching, in the order in which its rules are checked; disabled rules are left out.
type compiled struct {
	general []compiledRule // every rule, those of kind room left out
	// byRoom holds the room rules, and before counts the general rules that are checked before them.
	byRoom map[id.RoomID]compiledRule
	before int
	// plain says that general is what every user has, so that the set differs only in rooms with a rule of their own.
	plain bool
}

type compiledRule struct {
	conditions []condition
	class      Class
}

// condition is one test of a rule; false too for what is not understood.
type condition func(e *evaluation) bool

// evaluation is an event under the eyes of one reader.
type evaluation struct {
	event *Event
	room  RoomInfo
	user  id.UserID // the reader; "" for one whom the event does not name
}

// compile prepares a full rule set; plain is whether the user changed nothing that matters in every room.
func compile(set *Ruleset, plain bool) *compiled {
	c := &compiled{byRoom: map[id.RoomID]compiledRule{}, plain: plain}
	for _, k := range kinds {
		if k == Room {
			c.before = len(c.general)
		}
		for _, r := range *set.List(k) {
			if !r.Enabled {
				continue
			}
			if k == Room {
				c.byRoom[id.RoomID(r.ID)] = compiledRule{class: classOf(r.Actions)}
				continue
			}
			c.general = append(c.general, compiledRule{conditions: conditionsOf(k, r), class: classOf(r.Actions)})
		}
	}
	return c
}

// classOf reads a rule's actions. dont_notify and coalesce of older specifications mean nothing.
func classOf(actions []json.RawMessage) (c Class) {
	for _, a := range actions {
		if string(a) == notify {
			c |= Notify
			continue
		}
		var tweak struct {
			Name  string          `json:"set_tweak"`
			Value json.RawMessage `json:"value"`
		}
		if json.Unmarshal(a, &tweak) == nil && tweak.Name == "highlight" && string(tweak.Value) != "false" {
			c |= Highlight
		}
	}
	if c&Notify == 0 {
		return 0 // a tweak without notification has nothing to tweak
	}
	return c
}

// match finds the first rule that matches and gives its class.
func (c *compiled) match(e *evaluation) Class {
	for i, r := range c.general {
		if i == c.before {
			if own, ok := c.byRoom[e.event.RoomID()]; ok {
				return own.class
			}
		}
		if r.matches(e) {
			return r.class
		}
	}
	if own, ok := c.byRoom[e.event.RoomID()]; ok && c.before >= len(c.general) {
		return own.class
	}
	return 0
}

func (r compiledRule) matches(e *evaluation) bool {
	for _, holds := range r.conditions {
		if !holds(e) {
			return false
		}
	}
	return true
}

func conditionsOf(k Kind, r Rule) []condition {
	switch k {
	case Content:
		if r.ID == userNameRule {
			return []condition{unmentioned, namesReader}
		}
		return []condition{eventMatch("content.body", r.Pattern)}
	case Sender:
		sender := id.UserID(r.ID)
		return []condition{func(e *evaluation) bool { return e.event.Sender() == sender }}
	}
	out := make([]condition, 0, len(r.Conditions))
	for _, raw := range r.Conditions {
		out = append(out, compileCondition(raw))
	}
	return out
}

// unmentioned holds for events that do not say themselves whom they mention.
func unmentioned(e *evaluation) bool {
	_, said := canonjson.Get(e.event.Content(), "m.mentions")
	return !said
}

// namesReader holds where the reader's localpart is a word of the text.
func namesReader(e *evaluation) bool {
	if e.user == "" {
		return false
	}
	body, ok := stringProperty(e.event, []string{"content", "body"})
	return ok && containsWord(strings.ToLower(body), strings.ToLower(e.user.Localpart()))
}

func never(*evaluation) bool { return false }

func compileCondition(raw json.RawMessage) condition {
	var c struct {
		Kind    string          `json:"kind"`
		Key     string          `json:"key"`
		Pattern *string         `json:"pattern"`
		Is      string          `json:"is"`
		Value   json.RawMessage `json:"value"`
	}
	if json.Unmarshal(raw, &c) != nil {
		return never
	}
	switch c.Kind {
	case "event_match":
		if c.Pattern == nil || c.Key == "" {
			return never
		}
		return eventMatch(c.Key, *c.Pattern)
	case "event_property_is":
		return propertyIs(c.Key, c.Value)
	case "event_property_contains":
		return propertyContains(c.Key, c.Value)
	case "contains_display_name":
		return containsDisplayName
	case "room_member_count":
		return memberCount(c.Is)
	case "sender_notification_permission":
		return func(e *evaluation) bool { return e.room.MayNotify(e.event.Sender(), c.Key) }
	}
	return never
}

// eventMatch is the condition event_match; content.body is searched by word.
func eventMatch(key, pattern string) condition {
	if len(pattern) > maxPattern {
		return never
	}
	path, g := splitPath(key), compileGlob(pattern)
	if pattern == reader {
		return func(e *evaluation) bool {
			text, ok := stringProperty(e.event, path)
			return ok && e.user != "" && text == string(e.user)
		}
	}
	matches := g.whole
	if key == "content.body" {
		matches = g.word
	}
	return func(e *evaluation) bool {
		text, ok := stringProperty(e.event, path)
		return ok && matches(text)
	}
}

func propertyIs(key string, value json.RawMessage) condition {
	want, ok := scalar(value)
	if !ok || key == "" {
		return never
	}
	path := splitPath(key)
	return func(e *evaluation) bool {
		raw, found := property(e.event, path)
		if !found {
			return false
		}
		got, ok := scalar(raw)
		return ok && bytes.Equal(got, want)
	}
}

func propertyContains(key string, value json.RawMessage) condition {
	want, ok := scalar(value)
	if !ok || key == "" {
		return never
	}
	path, byReader := splitPath(key), bytes.Equal(want, canonjson.AppendString(nil, reader))
	return func(e *evaluation) bool {
		want := want
		if byReader {
			want = canonjson.AppendString(nil, string(e.user))
		}
		raw, found := property(e.event, path)
		var list []json.RawMessage
		if !found || json.Unmarshal(raw, &list) != nil {
			return false
		}
		for _, item := range list {
			if got, ok := scalar(item); ok && bytes.Equal(got, want) {
				return true
			}
		}
		return false
	}
}

// scalar is the canonical form of a string, integer, boolean or null; not ok for anything else.
func scalar(raw json.RawMessage) ([]byte, bool) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || raw[0] == '{' || raw[0] == '[' {
		return nil, false
	}
	out, err := canonjson.Canonical(raw, true)
	return out, err == nil
}

// reader stands in the default rules for the user id of whoever reads: one compiled set then serves all users.
const reader = "\x00reader"

func containsDisplayName(e *evaluation) bool {
	if e.user == "" {
		return false
	}
	body, ok := stringProperty(e.event, []string{"content", "body"})
	name := e.room.DisplayName(e.user)
	return ok && name != "" && containsWord(strings.ToLower(body), strings.ToLower(name))
}

// memberCount is the condition room_member_count.
func memberCount(is string) condition {
	digits := strings.TrimLeft(is, "=<>")
	n, err := strconv.Atoi(digits)
	if err != nil {
		return never
	}
	var holds func(count int) bool
	switch is[:len(is)-len(digits)] {
	case "", "==":
		holds = func(count int) bool { return count == n }
	case "<":
		holds = func(count int) bool { return count < n }
	case "<=":
		holds = func(count int) bool { return count <= n }
	case ">":
		holds = func(count int) bool { return count > n }
	case ">=":
		holds = func(count int) bool { return count >= n }
	default:
		return never
	}
	return func(e *evaluation) bool { return holds(e.room.JoinedCount()) }
}

// splitPath splits at dots; `\.` is a dot and `\\` a backslash inside a name.
// Spec: appendices#dot-separated-property-paths
func splitPath(key string) []string {
	var parts []string
	var part strings.Builder
	for i := 0; i < len(key); i++ {
		switch {
		case key[i] == '\\' && i+1 < len(key) && (key[i+1] == '.' || key[i+1] == '\\'):
			i++
			part.WriteByte(key[i])
		case key[i] == '.':
			parts = append(parts, part.String())
			part.Reset()
		default:
			part.WriteByte(key[i])
		}
	}
	return append(parts, part.String())
}

// property walks the event as clients see it.
func property(e *Event, path []string) (json.RawMessage, bool) {
	raw := json.RawMessage(e.JSON())
	for i, name := range path {
		if i == 0 && name == "content" {
			raw = e.Content()
			continue
		}
		if len(raw) == 0 || raw[0] != '{' {
			return nil, false
		}
		next, ok := canonjson.Get(raw, name)
		if !ok {
			return nil, false
		}
		raw = next
	}
	return raw, true
}

func stringProperty(e *Event, path []string) (string, bool) {
	if len(path) == 1 {
		switch path[0] { // without decoding
		case "type":
			return e.Type(), true
		case "sender":
			return string(e.Sender()), true
		case "state_key":
			return e.StateKey()
		case "room_id":
			return string(e.RoomID()), true
		}
	}
	raw, ok := property(e, path)
	var s string
	if !ok || len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", false
	}
	return s, true
}
