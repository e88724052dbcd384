package pushrules

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"sync"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/mxerr"
	"ebb/storage"
	"ebb/wake"
)

// Rules keeps every local user's push rules and says what they make of an event. It is safe for concurrent use.
type Rules struct {
	db       *storage.DB
	hub      *wake.Hub
	server   string // this server's name
	legacy   bool   // the legacy mention rules are among the defaults
	shared   map[string]compiledRule
	defaults *compiled

	// mu guards the rest. It is held for reading while a room is looked at, under the room's own lock for readers.
	mu sync.RWMutex
	// custom has the rules of the users whom the defaults do not serve, by nid.
	custom map[int64]*group
	// groups has the distinct rule sets among them by their JSON: one evaluation serves all users of a set.
	groups map[string]*group
	// everywhere has the groups that differ from the defaults in every room, byRoom those that do in one.
	everywhere map[*group]struct{}
	byRoom     map[id.RoomID]map[*group]struct{}
}

// group is the users who have the same rules.
type group struct {
	key   string
	rules *compiled
	users map[int64]id.UserID
}

// New loads the rule sets that differ from the defaults; legacy says whether the legacy mention rules are among those.
func New(ctx context.Context, db *storage.DB, hub *wake.Hub, server string, legacy bool) (*Rules, error) {
	shared := compileDefaults(legacy)
	r := &Rules{db: db, hub: hub, server: server, legacy: legacy, shared: shared, defaults: compile(defaultRules(reader, legacy), true, shared), custom: map[int64]*group{},
		groups: map[string]*group{}, everywhere: map[*group]struct{}{}, byRoom: map[id.RoomID]map[*group]struct{}{}}
	err := db.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.AllPushRules()
		if err != nil {
			return err
		}
		for _, row := range rows {
			var own stored
			if err := json.Unmarshal([]byte(row.JSON), &own); err != nil {
				return fmt.Errorf("push rules of %s: %w", row.UserID, err)
			}
			r.remember(row.User, id.UserID(row.UserID), &own, row.JSON)
		}
		return nil
	})
	return r, err
}

// remember puts a user's rules in force; key is their JSON.
func (r *Rules) remember(nid int64, user id.UserID, own *stored, key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if before, ok := r.custom[nid]; ok {
		r.leave(before, nid)
	}
	if own.isDefault() {
		return
	}
	g := r.groups[key]
	if g == nil {
		g = &group{key: key, rules: compile(own.full(reader, r.legacy), own.onlyRooms(), r.shared), users: map[int64]id.UserID{}}
		r.enter(g)
	}
	g.users[nid], r.custom[nid] = user, g
}

// enter makes a new group known.
func (r *Rules) enter(g *group) {
	r.groups[g.key] = g
	if !g.rules.plain {
		r.everywhere[g] = struct{}{}
		return
	}
	for room := range g.rules.byRoom {
		if r.byRoom[room] == nil {
			r.byRoom[room] = map[*group]struct{}{}
		}
		r.byRoom[room][g] = struct{}{}
	}
}

// leave takes a user out of a group, and the group away with the last user.
func (r *Rules) leave(g *group, nid int64) {
	delete(r.custom, nid)
	if delete(g.users, nid); len(g.users) > 0 {
		return
	}
	delete(r.groups, g.key)
	delete(r.everywhere, g)
	for room := range g.rules.byRoom {
		if delete(r.byRoom[room], g); len(r.byRoom[room]) == 0 {
			delete(r.byRoom, room)
		}
	}
}

// onlyRooms says that the user changed nothing but rules for single rooms.
func (s *stored) onlyRooms() bool {
	return len(s.Changed) == 0 && s.count() == len(s.Own.Room)
}

// Evaluate says what the rules make of an event in a room. It costs as much as the users whom the event names plus the
// distinct rule sets in the room, and a look at each local member where there are fewer of them than users with rules of
// their own.
func (r *Rules) Evaluate(ev *Event, room RoomInfo) Outcome {
	e := &evaluation{event: ev, room: room}
	named := r.named(e)
	out := Outcome{Default: e.read(r.defaults, "")}
	r.mu.RLock()
	defer r.mu.RUnlock()
	for g, users := range r.present(ev.RoomID(), room) {
		class := e.read(g.rules, "")
		for _, u := range users {
			if g.rules.personal {
				class = e.read(g.rules, u.id)
			}
			out.set(u.nid, class)
		}
	}
	for nid, user := range named {
		rules := r.defaults
		if c, ok := r.custom[nid]; ok {
			rules = c.rules
		}
		out.set(nid, e.read(rules, user))
	}
	if nid, ok := room.LocalMember(ev.Sender()); ok {
		delete(out.Users, nid)
	}
	return out
}

type member struct {
	nid int64
	id  id.UserID
}

// present finds the local members of a room with rules that differ from the defaults there.
func (r *Rules) present(roomID id.RoomID, room RoomInfo) map[*group][]member {
	if len(r.everywhere) == 0 && len(r.byRoom[roomID]) == 0 {
		return nil
	}
	out := map[*group][]member{}
	add := func(g *group, nid int64, user id.UserID) { out[g] = append(out[g], member{nid, user}) }
	if room.LocalCount() <= len(r.custom) {
		room.EachLocal(func(nid int64, user id.UserID) {
			g, ok := r.custom[nid]
			if ok && (!g.rules.plain || g.rules.hasRoom(roomID)) {
				add(g, nid, user)
			}
		})
		return out
	}
	for _, groups := range []map[*group]struct{}{r.everywhere, r.byRoom[roomID]} {
		for g := range groups {
			for nid, user := range g.users {
				if _, ok := room.LocalMember(user); ok {
					add(g, nid, user)
				}
			}
		}
	}
	return out
}

func (c *compiled) hasRoom(room id.RoomID) bool {
	_, ok := c.byRoom[room]
	return ok
}

func (o *Outcome) set(nid int64, class Class) {
	if class == o.Default {
		delete(o.Users, nid)
		return
	}
	if o.Users == nil {
		o.Users = map[int64]Class{}
	}
	o.Users[nid] = class
}

// maxNamed bounds the mentions that count: an event of 65,536 bytes could name thousands.
const maxNamed = 1000

// named finds the local members whom an event names: those it mentions, or where it does not say whom, those in its text,
// and the user whose membership it is.
func (r *Rules) named(e *evaluation) (all map[int64]id.UserID) {
	all = map[int64]id.UserID{}
	if key, ok := e.event.StateKey(); ok && e.event.Type() == "m.room.member" {
		if nid, ok := e.room.LocalMember(id.UserID(key)); ok {
			all[nid] = id.UserID(key)
		}
	}
	mentions, said := canonjson.Get(e.event.Content(), "m.mentions")
	if !said {
		if r.legacy {
			r.namedInText(e, all)
		}
		return all
	}
	e.named = map[id.UserID]int64{}
	for _, user := range mentionedUsers(mentions) {
		if nid, ok := e.room.LocalMember(user); ok && len(e.named) < maxNamed {
			all[nid], e.named[user] = user, nid
		}
	}
	return all
}

// namedInText finds the local members whose localparts or display names stand in the text.
func (r *Rules) namedInText(e *evaluation, all map[int64]id.UserID) {
	body, ok := stringProperty(e.event, []string{"content", "body"})
	if !ok {
		return
	}
	body = strings.ToLower(body)
	for name := range localparts(body) {
		user := id.UserID("@" + name + ":" + r.server) // not NewUserID, which formats: half the time of a send's rules
		if nid, ok := e.room.LocalMember(user); ok {
			all[nid] = user
		}
	}
	e.room.EachNamedIn(body, func(nid int64, user id.UserID) {
		if len(e.called) >= maxNamed {
			return
		}
		if e.called == nil {
			e.called = map[id.UserID]struct{}{}
		}
		all[nid], e.called[user] = user, struct{}{}
	})
}

// mentionedUsers reads user_ids of m.mentions; what is no string is left out.
func mentionedUsers(mentions json.RawMessage) (out []id.UserID) {
	if len(mentions) == 0 || mentions[0] != '{' {
		return nil
	}
	users, _ := canonjson.Get(mentions, "user_ids")
	var list []json.RawMessage
	if json.Unmarshal(users, &list) != nil {
		return nil
	}
	for _, raw := range list {
		var user id.UserID
		if json.Unmarshal(raw, &user) == nil {
			out = append(out, user)
		}
	}
	return out
}

// maxWords bounds the words of a text that may be names.
const maxWords = 2000

// localparts ranges over the words of a text in lower case that could be localparts of users, with and without the marks around them.
func localparts(body string) iter.Seq[string] {
	return func(yield func(string) bool) {
		words := strings.FieldsFunc(body, func(c rune) bool {
			return (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("._=-/+", c)
		})
		for _, w := range words[:min(len(words), maxWords)] {
			if trimmed := strings.Trim(w, ".-=/+"); trimmed != w && trimmed != "" && !yield(trimmed) {
				return
			}
			if !yield(w) {
				return
			}
		}
	}
}

// Rules gives a user's full rule set.
func (r *Rules) Rules(ctx context.Context, nid int64, user id.UserID) (set *Ruleset, err error) {
	err = r.db.Read(ctx, func(tx *storage.Tx) error {
		own, _, err := load(tx, nid)
		if err == nil {
			set = own.full(string(user), r.legacy)
		}
		return err
	})
	return set, err
}

func load(tx *storage.Tx, nid int64) (*stored, storage.Pos, error) {
	row, found, err := tx.PushRules(nid)
	own := &stored{}
	if err == nil && found {
		err = json.Unmarshal([]byte(row.JSON), own)
	}
	return own, row.Position, err
}

// RulesSince is the content of m.push_rules for /sync: given if it changed in (since, upTo]; always for since 0.
func (r *Rules) RulesSince(tx *storage.Tx, nid int64, since, upTo storage.Pos) (content json.RawMessage, isNew bool, err error) {
	own, pos, err := load(tx, nid)
	if err != nil || since > 0 && (pos <= since || pos > upTo) {
		return nil, false, err
	}
	user, err := tx.UserID(nid)
	if err != nil {
		return nil, false, err
	}
	content, err = json.Marshal(map[string]any{"global": own.full(user, r.legacy)})
	return content, true, err
}

// change edits a user's rules, durably, and puts them in force.
func (r *Rules) change(ctx context.Context, nid int64, user id.UserID, edit func(own *stored) error) error {
	var own *stored
	var raw []byte
	w := storage.Write{
		Do: func(tx *storage.Tx) (err error) {
			if own, _, err = load(tx, nid); err != nil {
				return err
			}
			if err = edit(own); err != nil {
				return err
			}
			if raw, err = json.Marshal(own); err != nil {
				return err
			}
			return tx.SetPushRules(nid, string(raw))
		},
		Committed: func() {
			r.remember(nid, user, own, string(raw))
			r.hub.Users(nid)
		},
	}
	return r.db.Enqueue(w).Wait(ctx)
}

func noRule() error { return mxerr.NotFound("There is no such push rule") }

// NewRule is the body of a PUT of a rule, with its place.
type NewRule struct {
	Actions    []json.RawMessage `json:"actions"`
	Conditions []json.RawMessage `json:"conditions"`
	Pattern    *string           `json:"pattern"`
	Before     string            `json:"-"`
	After      string            `json:"-"`
}

// Put adds or replaces one of the user's own rules.
// Spec: client-server-api#put_matrixclientv3pushrulesglobalkindruleid
func (r *Rules) Put(ctx context.Context, nid int64, user id.UserID, k Kind, ruleID string, n NewRule) error {
	rule, err := n.rule(k, ruleID)
	if err != nil {
		return err
	}
	return r.change(ctx, nid, user, func(own *stored) error { return own.put(k, rule, n.Before, n.After) })
}

func (n NewRule) rule(k Kind, ruleID string) (Rule, error) {
	if err := checkRuleID(ruleID); err != nil {
		return Rule{}, err
	}
	if err := checkActions(n.Actions); err != nil {
		return Rule{}, err
	}
	rule := Rule{ID: ruleID, Enabled: true, Actions: n.Actions}
	switch k {
	case Content:
		if n.Pattern == nil {
			return rule, mxerr.MissingParam("A content rule needs a pattern")
		}
		if len(*n.Pattern) > maxPattern {
			return rule, mxerr.InvalidParam("A pattern has at most %d bytes", maxPattern)
		}
		rule.Pattern = *n.Pattern
	case Override, Underride:
		rule.Conditions = n.Conditions
		if rule.Conditions == nil {
			rule.Conditions = raws()
		}
		for _, c := range rule.Conditions {
			if len(c) == 0 || c[0] != '{' {
				return rule, mxerr.BadJSON("A condition is an object")
			}
		}
	}
	if raw, err := json.Marshal(rule); err != nil || len(raw) > maxRuleJSON {
		return rule, mxerr.TooLarge("A push rule has at most %d bytes", maxRuleJSON)
	}
	return rule, nil
}

func checkRuleID(ruleID string) error {
	switch {
	case strings.HasPrefix(ruleID, "."):
		return mxerr.InvalidParam("Rule ids that start with a dot are the server's")
	case ruleID == "" || len(ruleID) > maxRuleID || strings.ContainsAny(ruleID, `/\`):
		return mxerr.InvalidParam("Rule ids have 1 to %d bytes, without slash and backslash", maxRuleID)
	}
	return nil
}

func checkActions(actions []json.RawMessage) error {
	if actions == nil {
		return mxerr.MissingParam("A push rule needs actions")
	}
	for _, a := range actions {
		if len(a) == 0 || a[0] != '"' && a[0] != '{' {
			return mxerr.InvalidParam("An action is a string or an object")
		}
	}
	return nil
}

// Delete removes one of the user's own rules.
func (r *Rules) Delete(ctx context.Context, nid int64, user id.UserID, k Kind, ruleID string) error {
	return r.change(ctx, nid, user, func(own *stored) error {
		list := own.Own.List(k)
		i := indexRule(*list, ruleID)
		if i < 0 {
			if _, isDefault := defaultRules("", r.legacy).Find(k, ruleID); isDefault {
				return mxerr.InvalidParam("A server-default rule cannot be deleted")
			}
			return noRule()
		}
		*list = append((*list)[:i], (*list)[i+1:]...)
		return nil
	})
}

// SetEnabled switches a rule, own or default, on or off.
func (r *Rules) SetEnabled(ctx context.Context, nid int64, user id.UserID, k Kind, ruleID string, enabled bool) error {
	return r.alter(ctx, nid, user, k, ruleID, func(rule *Rule) { rule.Enabled = enabled }, func(c *changed) { c.Enabled = &enabled })
}

// SetActions replaces the actions of a rule, own or default.
func (r *Rules) SetActions(ctx context.Context, nid int64, user id.UserID, k Kind, ruleID string, actions []json.RawMessage) error {
	if err := checkActions(actions); err != nil {
		return err
	}
	return r.alter(ctx, nid, user, k, ruleID, func(rule *Rule) { rule.Actions = actions }, func(c *changed) { c.Actions = &actions })
}

func (r *Rules) alter(ctx context.Context, nid int64, user id.UserID, k Kind, ruleID string, own func(*Rule), byDefault func(*changed)) error {
	return r.change(ctx, nid, user, func(s *stored) error {
		if rule, found := s.Own.Find(k, ruleID); found {
			own(rule)
			return nil
		}
		if _, found := defaultRules("", r.legacy).Find(k, ruleID); !found {
			return noRule()
		}
		if s.Changed == nil {
			s.Changed = map[string]changed{}
		}
		c := s.Changed[ruleID]
		byDefault(&c)
		s.Changed[ruleID] = c
		return nil
	})
}
