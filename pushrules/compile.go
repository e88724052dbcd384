package pushrules

import (
	"bytes"
	"encoding/json"
	"slices"
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
	// personal says that the outcome may differ between readers whom the event does not name.
	personal bool
}

type compiledRule struct {
	conditions []condition
	class      Class
	// shared numbers the default rules from 1: what one is to a reader whom the event does not name is found out once.
	shared int
}

// condition is one test of a rule; false too for what is not understood.
type condition func(e *evaluation) bool

// maxWork bounds what one rule set may look at in one event, about in bytes: ordinary sets stay far below; one that was
// made to keep the server busy takes some 10 ms, and what it does not get to see does not match.
const maxWork = 4 << 20

// evaluation is an event under the eyes of one reader after another. What it has read of the event serves all of them.
type evaluation struct {
	event *Event
	room  RoomInfo
	named map[id.UserID]int64 // the local members whom the event mentions
	// called holds the users whose display names occur in the text of an event without m.mentions.
	called map[id.UserID]struct{}

	user id.UserID // the reader; "" for any whom the event does not name
	work int       // what the reader's rules may still look at

	defaults [maxDefaults]verdict // of default rules for user ""

	texts map[string]text                // string properties by key
	lists map[string]map[string]struct{} // the scalars of array properties by key, canonical
}

// maxDefaults is more than there are default rules.
const maxDefaults = 64

type verdict int8

const (
	matched verdict = iota + 1
	unmatched
)

type text struct {
	lower string
	ok    bool
}

// read gives the event to another reader.
func (e *evaluation) read(rules *compiled, user id.UserID) Class {
	e.user, e.work = user, maxWork
	return rules.match(e)
}

// spend reports whether the reader's rules may look at n bytes more.
func (e *evaluation) spend(n int) bool {
	e.work -= n + 16 // 16: a condition costs something even where it reads nothing
	return e.work > 0
}

// text is a string property in lower case.
func (e *evaluation) text(key string, path []string) (string, bool) {
	t, known := e.texts[key]
	if !known {
		if !e.spend(len(e.event.JSON())) {
			return "", false
		}
		t.lower, t.ok = stringProperty(e.event, path)
		t.lower = strings.ToLower(t.lower)
		if e.texts == nil {
			e.texts = map[string]text{}
		}
		e.texts[key] = t
	}
	return t.lower, t.ok
}

// list is the scalars of an array property; nil where there is none.
func (e *evaluation) list(key string, path []string) map[string]struct{} {
	set, known := e.lists[key]
	if known {
		return set
	}
	if !e.spend(2 * len(e.event.JSON())) {
		return nil
	}
	raw, found := property(e.event, path)
	var items []json.RawMessage
	if found && json.Unmarshal(raw, &items) == nil {
		set = make(map[string]struct{}, len(items))
	}
	for _, item := range items {
		if v, ok := scalar(item); ok {
			set[string(v)] = struct{}{}
		}
	}
	if e.lists == nil {
		e.lists = map[string]map[string]struct{}{}
	}
	e.lists[key] = set
	return set
}

// compileDefaults compiles what all rule sets have in common, by rule id.
func compileDefaults(legacy bool) map[string]compiledRule {
	out := map[string]compiledRule{}
	set := defaultRules(reader, legacy)
	for _, k := range kinds {
		for _, r := range *set.List(k) {
			out[r.ID] = compiledRule{conditions: defaultConditions(k, r), shared: len(out) + 1}
		}
	}
	return out
}

// compile prepares a full rule set; plain is whether the user changed nothing that matters in every room.
func compile(set *Ruleset, plain bool, defaults map[string]compiledRule) *compiled {
	c := &compiled{byRoom: map[id.RoomID]compiledRule{}, plain: plain}
	for _, k := range kinds {
		if k == Room {
			c.before = len(c.general)
		}
		for _, r := range *set.List(k) {
			if !r.Enabled {
				continue
			}
			c.personal = c.personal || !r.Default && slices.ContainsFunc(r.Conditions, asksDisplayName)
			if k == Room {
				c.byRoom[id.RoomID(r.ID)] = compiledRule{class: classOf(r.Actions)}
				continue
			}
			rule := defaults[r.ID]
			if !r.Default {
				rule.conditions = conditionsOf(k, r)
			}
			rule.class = classOf(r.Actions)
			c.general = append(c.general, rule)
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
	for i := range c.general {
		if i == c.before {
			if own, ok := c.byRoom[e.event.RoomID()]; ok {
				return own.class
			}
		}
		if r := &c.general[i]; r.matches(e) {
			return r.class
		}
	}
	if own, ok := c.byRoom[e.event.RoomID()]; ok && c.before >= len(c.general) {
		return own.class
	}
	return 0
}

func (r *compiledRule) matches(e *evaluation) bool {
	if r.shared == 0 || e.user != "" {
		return r.holds(e)
	}
	v := &e.defaults[r.shared]
	if *v == 0 {
		*v = unmatched
		if r.holds(e) {
			*v = matched
		}
	}
	return *v == matched
}

func (r *compiledRule) holds(e *evaluation) bool {
	for _, holds := range r.conditions {
		if !holds(e) {
			return false
		}
	}
	return true
}

// defaultConditions are those of a server-default rule.
func defaultConditions(k Kind, r Rule) []condition {
	switch r.ID {
	case displayNameRule:
		return []condition{unmentioned, isCalled}
	case userNameRule:
		return []condition{unmentioned, namesReader}
	case roomRule:
		return append([]condition{unmentioned}, conditionsOf(k, r)...)
	}
	return conditionsOf(k, r)
}

func conditionsOf(k Kind, r Rule) []condition {
	switch k {
	case Content:
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

// isCalled holds where the reader's display name stands in the text.
func isCalled(e *evaluation) bool {
	_, ok := e.called[e.user]
	return ok
}

// namesReader holds where the reader's localpart is a word of the text.
func namesReader(e *evaluation) bool {
	if e.user == "" {
		return false
	}
	body, ok := e.text("content.body", []string{"content", "body"})
	return ok && e.spend(len(body)) && containsWord(body, strings.ToLower(e.user.Localpart()))
}

func never(*evaluation) bool { return false }

type conditionJSON struct {
	Kind    string          `json:"kind"`
	Key     string          `json:"key"`
	Pattern *string         `json:"pattern"`
	Is      string          `json:"is"`
	Value   json.RawMessage `json:"value"`
}

const displayNameKind = "contains_display_name"

func asksDisplayName(raw json.RawMessage) bool {
	var c conditionJSON
	return json.Unmarshal(raw, &c) == nil && c.Kind == displayNameKind
}

func compileCondition(raw json.RawMessage) condition {
	var c conditionJSON
	if json.Unmarshal(raw, &c) != nil {
		return never
	}
	counted := compileKind(c)
	return func(e *evaluation) bool { return e.spend(0) && counted(e) }
}

func compileKind(c conditionJSON) condition {
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
	case displayNameKind:
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
	path := splitPath(key)
	if pattern == reader {
		return func(e *evaluation) bool {
			text, ok := stringProperty(e.event, path)
			return ok && e.user != "" && text == string(e.user)
		}
	}
	g := compileGlob(pattern)
	matches, cost := g.whole, 1+len(g.any)
	if key == "content.body" {
		matches = g.word
	}
	return func(e *evaluation) bool {
		text, ok := e.text(key, path)
		return ok && e.spend(cost*len(text)) && matches(text)
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
	var who string
	if json.Unmarshal(value, &who) == nil && who == reader {
		return isNamed
	}
	want, ok := scalar(value)
	if !ok || key == "" {
		return never
	}
	path, item := splitPath(key), string(want)
	return func(e *evaluation) bool {
		_, ok := e.list(key, path)[item]
		return ok
	}
}

// isNamed is the condition of .m.rule.is_user_mention.
func isNamed(e *evaluation) bool {
	_, ok := e.named[e.user]
	return ok
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
	name := strings.ToLower(e.room.DisplayName(e.user))
	if name == "" || len(name) > maxPattern {
		return false
	}
	body, ok := e.text("content.body", []string{"content", "body"})
	return ok && e.spend(len(body)) && containsWord(body, name)
}

// memberCount is the condition room_member_count.
func memberCount(is string) condition {
	digits := strings.TrimLeft(is, "=<>")
	n, err := strconv.Atoi(digits)
	if err != nil || digits[0] < '0' || digits[0] > '9' {
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
	var raw json.RawMessage
	switch path[0] {
	case "content":
		raw = e.Content()
	case "type", "sender", "state_key", "room_id", "event_id", "origin_server_ts", "redacts":
		raw = e.ClientJSON(true)
		path = append([]string{""}, path...)
	default:
		return nil, false // of the event between servers, or unsigned, which is not there yet
	}
	for _, name := range path[1:] {
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
