package pushrules

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
	"ebb/wake"
)

// Rules holds the push rules of all local users and evaluates events against them. It is safe for concurrent use.
type Rules struct {
	db       *storage.DB
	hub      *wake.Hub
	server   string                  // this server's name
	which    Defaults                // selects the default rules of this server
	shared   map[string]compiledRule // the compiled default rules by ID
	defaults *compiled

	// mu guards the fields below. Evaluate holds it for reading, under the read lock of the room.
	mu sync.RWMutex
	// custom maps the users whose rules differ from the defaults, by nid, to their group.
	custom map[ident.UserNID]*group
	// groups holds the distinct rule sets of these users by their JSON, so that each set is evaluated once for all
	// users who have it.
	groups map[string]*group
	// everywhere holds the groups whose rules differ from the defaults in every room. byRoom holds the groups whose
	// rules differ only in certain rooms.
	everywhere map[*group]struct{}
	byRoom     map[id.RoomID]map[*group]struct{}
}

// group is a set of users who have the same rules.
type group struct {
	key     string
	rules   *compiled
	users   map[ident.UserNID]id.UserID
	threads bool // stored.Threads
}

// New returns the Rules with all users' rule sets loaded from the database. d selects default rules.
func New(ctx context.Context, db *storage.DB, hub *wake.Hub, server string, d Defaults) (*Rules, error) {
	shared := compileDefaults(d)
	r := &Rules{
		db: db, hub: hub, server: server, which: d, shared: shared, defaults: compile(defaultRules(ownUserID, d), true, false, shared),
		custom: map[ident.UserNID]*group{}, groups: map[string]*group{}, everywhere: map[*group]struct{}{}, byRoom: map[id.RoomID]map[*group]struct{}{},
	}
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
			r.activate(row.User, id.UserID(row.UserID), &own, row.JSON)
		}
		return nil
	})
	return r, err
}

// activate replaces a user's rules in memory. key is the stored JSON of the rules.
func (r *Rules) activate(nid ident.UserNID, user id.UserID, own *stored, key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if former, ok := r.custom[nid]; ok {
		r.leave(former, nid)
	}
	if own.isDefault() {
		return
	}
	g := r.groups[key]
	if g == nil {
		g = &group{key: key, rules: compile(own.full(ownUserID, r.which), own.onlyRooms(), own.asksThreads(), r.shared), users: map[ident.UserNID]id.UserID{}, threads: own.Threads}
		r.addGroup(g)
	}
	g.users[nid], r.custom[nid] = user, g
}

// addGroup adds a new group to the indexes.
func (r *Rules) addGroup(g *group) {
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

// leave removes a user from a group, and the group from the indexes if the user was its last.
func (r *Rules) leave(g *group, nid ident.UserNID) {
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

// onlyRooms reports whether the user has changed only room rules.
func (s *stored) onlyRooms() bool {
	return len(s.Changed) == 0 && !s.Threads && s.count() == len(s.Own.Room)
}

// Evaluate evaluates an event under the rules of all local members of a room. Its cost grows with the number of users
// whom the event mentions and the number of distinct rule sets in the room. To find these sets it iterates over the
// local members or over the users with custom rules, whichever are fewer.
func (r *Rules) Evaluate(ev *Event, room RoomInfo) Outcome {
	e := &evaluation{event: ev, room: room}
	affected := r.affectedUsers(e, room)
	out := Outcome{Default: e.classFor(r.defaults, 0, "")}
	r.mu.RLock()
	defer r.mu.RUnlock()
	for g, users := range r.present(ev.RoomID(), room) {
		class := e.classFor(g.rules, 0, "")
		personal := g.rules.personal || g.rules.byThread && room.InThread()
		for _, u := range users {
			if personal {
				class = e.classFor(g.rules, u.nid, u.id)
			}
			out.set(u.nid, class)
		}
	}
	for nid, user := range affected {
		rules := r.defaults
		if c, ok := r.custom[nid]; ok {
			rules = c.rules
		}
		out.set(nid, e.classFor(rules, nid, user))
	}
	if nid, ok := room.LocalMember(ev.Sender()); ok {
		delete(out.Users, nid)
	}
	return out
}

// Actions returns the class and the actions of an event for one user under the current rules and the current state of
// the room. The class was already decided by Evaluate when the event was stored; the tweaks are not stored.
func (r *Rules) Actions(ev *Event, room State, nid ident.UserNID, user id.UserID) (Class, []json.RawMessage) {
	e := &evaluation{event: ev, room: room, nid: nid, user: user, work: maxWork, named: map[id.UserID]ident.UserNID{}}
	mentions, found := canonjson.Get(ev.Content(), "m.mentions")
	switch {
	case found && slices.Contains(mentionedUsers(mentions), user):
		e.named[user] = nid
	case !found && r.which.Legacy && containsDisplayName(e):
		e.called = map[id.UserID]struct{}{user: {}}
	}
	r.mu.RLock()
	rules := r.defaults
	if c, ok := r.custom[nid]; ok {
		rules = c.rules
	}
	r.mu.RUnlock()
	rule := rules.match(e)
	return rule.class, rule.actions
}

type member struct {
	nid ident.UserNID
	id  id.UserID
}

// present returns the local members of a room whose rules for that room differ from the defaults, by group.
func (r *Rules) present(roomID id.RoomID, room RoomInfo) map[*group][]member {
	if len(r.everywhere) == 0 && len(r.byRoom[roomID]) == 0 {
		return nil
	}
	out := map[*group][]member{}
	add := func(g *group, nid ident.UserNID, user id.UserID) { out[g] = append(out[g], member{nid, user}) }
	if room.LocalCount() <= len(r.custom) {
		room.EachLocal(func(nid ident.UserNID, user id.UserID) {
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

func (o *Outcome) set(nid ident.UserNID, class Class) {
	if class == o.Default {
		delete(o.Users, nid)
		return
	}
	if o.Users == nil {
		o.Users = map[ident.UserNID]Class{}
	}
	o.Users[nid] = class
}

// maxNamed bounds how many users one event can mention. An event of 65,536 bytes has room for thousands.
const maxNamed = 1000

// affectedUsers returns the local members whose outcome may depend on who they are: those in m.mentions (or, without
// m.mentions, those named in the text) and the user whose membership the event sets.
func (r *Rules) affectedUsers(e *evaluation, room RoomInfo) (all map[ident.UserNID]id.UserID) {
	all = map[ident.UserNID]id.UserID{}
	if key, _ := e.event.StateKey(); e.event.Type() == "m.room.member" {
		if nid, ok := room.LocalMember(id.UserID(key)); ok {
			all[nid] = id.UserID(key)
		}
	}
	mentions, found := canonjson.Get(e.event.Content(), "m.mentions")
	if !found {
		if r.which.Legacy {
			r.namedInText(e, room, all)
		}
		return all
	}
	e.named = map[id.UserID]ident.UserNID{}
	for _, user := range mentionedUsers(mentions) {
		if nid, ok := room.LocalMember(user); ok && len(e.named) < maxNamed {
			all[nid], e.named[user] = user, nid
		}
	}
	return all
}

// namedInText finds the local members whose localpart or display name occurs in the text of the event, and adds them to
// all.
func (r *Rules) namedInText(e *evaluation, room RoomInfo, all map[ident.UserNID]id.UserID) {
	body, ok := stringProperty(e.event, []string{"content", "body"})
	if !ok {
		return
	}
	body = strings.ToLower(body)
	for name := range localparts(body) {
		user := id.UserID("@" + name + ":" + r.server) // formatting with NewUserID took half the time of Evaluate
		if nid, ok := room.LocalMember(user); ok {
			all[nid] = user
		}
	}
	room.EachNamedIn(body, func(nid ident.UserNID, user id.UserID) {
		if len(e.called) >= maxNamed {
			return
		}
		if e.called == nil {
			e.called = map[id.UserID]struct{}{}
		}
		all[nid], e.called[user] = user, struct{}{}
	})
}

// mentionedUsers returns the user_ids of m.mentions. It skips values that are not strings.
func mentionedUsers(mentions json.RawMessage) (out []id.UserID) {
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

// maxWords bounds how many words of a text are tried as localparts.
const maxWords = 2000

// localparts returns the words of a lower-case text that could be localparts, each with and without surrounding
// punctuation.
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

// Rules returns a user's complete rule set, with the defaults.
func (r *Rules) Rules(ctx context.Context, nid ident.UserNID, user id.UserID) (set *Ruleset, err error) {
	err = r.db.Read(ctx, func(tx *storage.Tx) error {
		own, _, err := load(tx, nid)
		if err == nil {
			set = own.full(string(user), r.which)
		}
		return err
	})
	return set, err
}

func load(tx *storage.Tx, nid ident.UserNID) (*stored, storage.Pos, error) {
	row, found, err := tx.PushRules(nid)
	own := &stored{}
	if err == nil && found {
		err = json.Unmarshal([]byte(row.JSON), own)
	}
	return own, row.Position, err
}

// RulesSince returns the content of m.push_rules for /sync. It returns nil if since is not 0 and the rules did not
// change in (since, upTo].
func (r *Rules) RulesSince(tx *storage.Tx, nid ident.UserNID, since, upTo storage.Pos) (content json.RawMessage, changed bool, err error) {
	own, pos, err := load(tx, nid)
	if err != nil || since > 0 && (pos <= since || pos > upTo) {
		return nil, false, err
	}
	user, err := tx.UserID(nid)
	if err != nil {
		return nil, false, err
	}
	content, err = json.Marshal(map[string]any{"global": own.full(user, r.which)})
	return content, true, err
}

// change edits a user's rules in the database and then in memory.
func (r *Rules) change(ctx context.Context, nid ident.UserNID, user id.UserID, edit func(own *stored) error) error {
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
			r.activate(nid, user, own, string(raw))
			r.hub.Users(nid)
		},
	}
	return r.db.Enqueue(w).Wait(ctx)
}

// FollowThreads makes the rules about threads apply to a user.
func (r *Rules) FollowThreads(ctx context.Context, nid ident.UserNID, user id.UserID) error {
	if r.followsThreads(nid) {
		return nil
	}
	return r.change(ctx, nid, user, func(own *stored) error {
		own.Threads = true
		return nil
	})
}

func (r *Rules) followsThreads(nid ident.UserNID) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	g, ok := r.custom[nid]
	return ok && g.threads
}

func noRule() error { return mxerr.NotFound("There is no such push rule") }

// NewRule is the request body of Put, with the IDs of the rules before or after which the new rule is placed.
type NewRule struct {
	Actions    []json.RawMessage `json:"actions"`
	Conditions []json.RawMessage `json:"conditions"`
	Pattern    *string           `json:"pattern"`
	Before     string            `json:"-"`
	After      string            `json:"-"`
}

// Put adds or replaces one of the user's own rules.
// Spec: client-server-api#put_matrixclientv3pushrulesglobalkindruleid
func (r *Rules) Put(ctx context.Context, nid ident.UserNID, user id.UserID, k Kind, ruleID string, n NewRule) error {
	if k == PostContent {
		return mxerr.InvalidParam("Rules of the kind %s cannot be added", k)
	}
	rule, err := n.rule(k, ruleID)
	if err != nil {
		return err
	}
	return r.change(ctx, nid, user, func(own *stored) error { return own.put(k, rule, n.Before, n.After) })
}

// rule checks the request and returns the rule.
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
			return rule, mxerr.InvalidParam("pattern must not be longer than %d bytes", maxPattern)
		}
		rule.Pattern = *n.Pattern
	case Override, Underride:
		rule.Conditions = n.Conditions
		if rule.Conditions == nil {
			rule.Conditions = raws()
		}
		for _, c := range rule.Conditions {
			if len(c) == 0 || c[0] != '{' {
				return rule, mxerr.BadJSON("Each condition must be an object")
			}
		}
	}
	if raw, err := json.Marshal(rule); err != nil || len(raw) > maxRuleJSON {
		return rule, mxerr.TooLarge("A push rule must not be larger than %d bytes", maxRuleJSON)
	}
	return rule, nil
}

func checkRuleID(ruleID string) error {
	switch {
	case strings.HasPrefix(ruleID, "."):
		return mxerr.InvalidParam("Rule IDs that start with a dot are reserved for server-default rules")
	case ruleID == "" || len(ruleID) > maxRuleID || strings.ContainsAny(ruleID, `/\`):
		return mxerr.InvalidParam("A rule ID must have 1 to %d bytes and must not contain slashes or backslashes", maxRuleID)
	}
	return nil
}

func checkActions(actions []json.RawMessage) error {
	if actions == nil {
		return mxerr.MissingParam("A push rule needs actions")
	}
	for _, a := range actions {
		if len(a) == 0 || a[0] != '"' && a[0] != '{' {
			return mxerr.InvalidParam("Each action must be a string or an object")
		}
	}
	return nil
}

// Delete removes one of the user's own rules.
func (r *Rules) Delete(ctx context.Context, nid ident.UserNID, user id.UserID, k Kind, ruleID string) error {
	return r.change(ctx, nid, user, func(own *stored) error {
		list := own.Own.List(k)
		i := indexRule(*list, ruleID)
		if i < 0 {
			if _, isDefault := defaultRules("", r.which).Find(k, ruleID); isDefault {
				return mxerr.InvalidParam("A server-default rule cannot be deleted")
			}
			return noRule()
		}
		*list = append((*list)[:i], (*list)[i+1:]...)
		return nil
	})
}

// SetEnabled enables or disables a rule, either the user's own or a default one.
func (r *Rules) SetEnabled(ctx context.Context, nid ident.UserNID, user id.UserID, k Kind, ruleID string, enabled bool) error {
	return r.alter(ctx, nid, user, k, ruleID, func(rule *Rule) { rule.Enabled = enabled }, func(c *changed) { c.Enabled = &enabled })
}

// SetActions replaces the actions of a rule, either the user's own or a default one.
func (r *Rules) SetActions(ctx context.Context, nid ident.UserNID, user id.UserID, k Kind, ruleID string, actions []json.RawMessage) error {
	if err := checkActions(actions); err != nil {
		return err
	}
	return r.alter(ctx, nid, user, k, ruleID, func(rule *Rule) { rule.Actions = actions }, func(c *changed) { c.Actions = &actions })
}

// alter changes the rule with the given ID. It calls own if the rule is the user's own, and byDefault if it is a
// default rule.
func (r *Rules) alter(ctx context.Context, nid ident.UserNID, user id.UserID, k Kind, ruleID string, own func(*Rule), byDefault func(*changed)) error {
	return r.change(ctx, nid, user, func(s *stored) error {
		if rule, found := s.Own.Find(k, ruleID); found {
			own(rule)
			return nil
		}
		if _, found := defaultRules("", r.which).Find(k, ruleID); !found {
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
