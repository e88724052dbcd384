package pushrules

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
)

// compiled is a rule set prepared for matching. It holds the enabled rules in the order in which they are checked.
type compiled struct {
	general []compiledRule // the rules of every kind but room
	// byRoom holds the room rules. They are checked after general[:before] and before the rest of general.
	byRoom map[id.RoomID]*compiledRule
	before int
	// plain reports whether general is the same as in the defaults, so that the set differs from them only in the rooms
	// of byRoom.
	plain bool
	// personal reports whether users whom the event does not mention may get different outcomes. byThread reports
	// whether they may in threads.
	personal, byThread bool
}

type compiledRule struct {
	conditions []condition
	class      Class
	actions    []json.RawMessage
	// shared is the number of a default rule, counted from 1, and 0 for other rules. The verdict of a default rule for
	// the users whom the event does not mention is computed once for all of them.
	shared int
}

// condition is one condition of a rule. An unknown condition is always false.
type condition func(e *evaluation) bool

// maxWork bounds, roughly in bytes, how much of one event one rule set may examine. Ordinary sets stay far below it. A
// set that is designed to keep the server busy is stopped after about 10 ms: its remaining conditions are false.
const maxWork = 4 << 20

// evaluation evaluates one event for one user after another. It keeps the properties that it has read from the event.
type evaluation struct {
	event *Event
	room  State
	named map[id.UserID]ident.UserNID // the local members in m.mentions
	// called holds the users whose display names occur in the text of an event without m.mentions.
	called map[id.UserID]struct{}

	user id.UserID // the user whose rules are evaluated; "" stands for every user whom the event does not mention
	nid  ident.UserNID
	work int // how much more the user's rules may examine

	defaults [maxDefaults]verdict // verdicts of the default rules for a user whom the event does not mention

	texts map[string]text                // string properties by key
	lists map[string]map[string]struct{} // scalars in array properties by key, in canonical form
}

// maxDefaults is an upper bound on the number of default rules.
const maxDefaults = 64

// verdict caches whether a default rule matches; 0 means that it is not known yet.
type verdict int8

const (
	matched verdict = iota + 1
	unmatched
)

type text struct {
	lower string
	ok    bool
}

// classFor returns the class of the event under a user's rules.
func (e *evaluation) classFor(rules *compiled, nid ident.UserNID, user id.UserID) Class {
	e.nid, e.user, e.work = nid, user, maxWork
	return rules.match(e).class
}

// spend subtracts n bytes from the work that remains for the user's rules, and reports whether enough was left.
func (e *evaluation) spend(n int) bool {
	e.work -= n + conditionCost
	return e.work > 0
}

// conditionCost is the work of a condition that reads nothing from the event.
const conditionCost = 16

// text returns a string property in lower case.
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

// list returns the scalars in an array property. It returns nil if the event has no such array.
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

// compileDefaults compiles the conditions of the default rules, which all rule sets share, by rule ID.
func compileDefaults(d Defaults) map[string]compiledRule {
	out := map[string]compiledRule{}
	set := defaultRules(ownUserID, d)
	for _, k := range kinds {
		for _, r := range *set.List(k) {
			out[r.ID] = compiledRule{conditions: defaultConditions(k, r), shared: len(out) + 1}
		}
	}
	return out
}

// compile prepares a full rule set for matching. plain reports whether the user has changed only room rules. threads
// reports whether the rules about threads can match.
func compile(set *Ruleset, plain, threads bool, defaults map[string]compiledRule) *compiled {
	c := &compiled{byRoom: map[id.RoomID]*compiledRule{}, plain: plain, byThread: threads}
	for _, k := range kinds {
		switch k {
		case Room:
			c.before = len(c.general)
		case PostContent:
			if !threads {
				continue
			}
		}
		for _, r := range *set.List(k) {
			if !r.Enabled {
				continue
			}
			c.personal = c.personal || !r.Default && slices.ContainsFunc(r.Conditions, asksDisplayName)
			if k == Room {
				c.byRoom[id.RoomID(r.ID)] = &compiledRule{class: classOf(r.Actions), actions: r.Actions}
				continue
			}
			rule := defaults[r.ID]
			if !r.Default {
				rule.conditions = conditionsOf(k, r)
			}
			rule.class, rule.actions = classOf(r.Actions), r.Actions
			c.general = append(c.general, rule)
		}
	}
	return c
}

// classOf returns the class that a rule's actions give an event. It ignores dont_notify and coalesce, which only older
// versions of the specification have.
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
		return 0 // tweaks have no effect without a notification
	}
	return c
}

// noRuleMatches stands for the case that no rule matches an event.
var noRuleMatches = &compiledRule{}

// match returns the first rule that matches the event.
func (c *compiled) match(e *evaluation) *compiledRule {
	if r := firstMatch(c.general[:c.before], e); r != nil {
		return r
	}
	if rule, ok := c.byRoom[e.event.RoomID()]; ok {
		return rule
	}
	if r := firstMatch(c.general[c.before:], e); r != nil {
		return r
	}
	return noRuleMatches
}

func firstMatch(rules []compiledRule, e *evaluation) *compiledRule {
	for i := range rules {
		if r := &rules[i]; r.matches(e) {
			return r
		}
	}
	return nil
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

// defaultConditions returns the conditions of a server-default rule.
func defaultConditions(k Kind, r Rule) []condition {
	switch r.ID {
	case displayNameRule:
		return []condition{withoutMentions, isCalled}
	case userNameRule:
		return []condition{withoutMentions, containsLocalpart}
	case roomRule:
		return append([]condition{withoutMentions}, conditionsOf(k, r)...)
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

// withoutMentions reports whether the event has no m.mentions.
func withoutMentions(e *evaluation) bool {
	_, found := canonjson.Get(e.event.Content(), "m.mentions")
	return !found
}

// isCalled reports whether the text contains the user's display name.
func isCalled(e *evaluation) bool {
	_, ok := e.called[e.user]
	return ok
}

// containsLocalpart reports whether the text contains the user's localpart as a word.
func containsLocalpart(e *evaluation) bool {
	return e.user != "" && e.bodyContains(strings.ToLower(e.user.Localpart()))
}

// bodyContains reports whether content.body contains the given lower-case words between word boundaries, ignoring case.
func (e *evaluation) bodyContains(words string) bool {
	body, _ := e.text("content.body", []string{"content", "body"})
	return e.spend(len(body)) && containsWord(body, words)
}

func never(*evaluation) bool { return false }

type conditionJSON struct {
	Kind    string          `json:"kind"`
	Key     string          `json:"key"`
	Pattern *string         `json:"pattern"`
	Is      string          `json:"is"`
	Value   json.RawMessage `json:"value"`

	Subscribed *bool `json:"subscribed"`
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
		if c.Pattern == nil {
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
	case threadSubscriptionKind:
		if c.Subscribed == nil {
			return never
		}
		return threadSubscription(*c.Subscribed)
	case "sender_notification_permission":
		return func(e *evaluation) bool { return e.room.MayNotify(e.event.Sender(), c.Key) }
	}
	return never
}

// eventMatch returns an event_match condition. The pattern matches words in content.body, and the whole value
// elsewhere.
func eventMatch(key, pattern string) condition {
	if len(pattern) > maxPattern {
		return never
	}
	path := splitPath(key)
	if pattern == ownUserID {
		return func(e *evaluation) bool {
			text, _ := stringProperty(e.event, path)
			return e.user != "" && text == string(e.user)
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
	if !ok {
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
	var user string
	if json.Unmarshal(value, &user) == nil && user == ownUserID {
		return isMentioned
	}
	want, ok := scalar(value)
	if !ok {
		return never
	}
	path, item := splitPath(key), string(want)
	return func(e *evaluation) bool {
		_, ok := e.list(key, path)[item]
		return ok
	}
}

// isMentioned is the condition of .m.rule.is_user_mention: m.mentions contains the user.
func isMentioned(e *evaluation) bool {
	_, ok := e.named[e.user]
	return ok
}

// scalar returns the canonical form of a string, integer, boolean or null. It returns false for any other value.
func scalar(raw json.RawMessage) ([]byte, bool) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || raw[0] == '{' || raw[0] == '[' {
		return nil, false
	}
	out, err := canonjson.Canonical(raw, true)
	return out, err == nil
}

// ownUserID is a placeholder in the default rules for the ID of the user whose rules are evaluated. It lets one
// compiled set serve all users.
const ownUserID = "\x00user"

// containsDisplayName implements the condition contains_display_name.
func containsDisplayName(e *evaluation) bool {
	if e.user == "" {
		return false
	}
	name := strings.ToLower(e.room.DisplayName(e.user))
	return len(name) <= maxPattern && e.bodyContains(name)
}

// threadSubscription returns a thread_subscription condition. It is false for the user "", who stands for everybody.
func threadSubscription(subscribed bool) condition {
	return func(e *evaluation) bool {
		return e.user != "" && e.room.InThread() && e.room.IsSubscribed(e.nid) == subscribed
	}
}

// memberCount returns a room_member_count condition.
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

// splitPath splits a property path at its dots. In a name `\.` stands for a dot and `\\` for a backslash.
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

// property returns a property of the event in the form that clients see.
func property(e *Event, path []string) (json.RawMessage, bool) {
	var raw json.RawMessage
	switch path[0] {
	case "content":
		raw = e.Content()
	case "type", "sender", "state_key", "room_id", "event_id", "origin_server_ts", "redacts":
		raw = e.ClientJSON(true)
		path = append([]string{""}, path...)
	default:
		return nil, false // exists only in the form for servers, or is unsigned, which is added for each client later
	}
	for _, name := range path[1:] {
		next, ok := canonjson.Get(raw, name)
		if !ok {
			return nil, false
		}
		raw = next
	}
	return raw, true
}

// stringProperty returns a property of the event that is a string.
func stringProperty(e *Event, path []string) (string, bool) {
	if len(path) == 1 {
		switch path[0] { // the event has these decoded
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
	raw, _ := property(e, path)
	return canonjson.Unquote(raw)
}
