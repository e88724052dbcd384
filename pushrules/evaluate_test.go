package pushrules

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/pdu"
	"ebb/storage"
	"ebb/storage/storagetest"
	"ebb/wake"
)

const (
	aliceID, bobID, carolID = id.UserID("@alice:here"), id.UserID("@bob:here"), id.UserID("@carol:here")

	thisRoom = id.RoomID("!room:here")
)

// hall is a room in which rules are evaluated.
type hall struct {
	joined  int
	members map[id.UserID]ident.UserNID
	names   map[id.UserID]string
	mayRoom bool

	thread     bool // whether the event is in a thread
	subscribed map[ident.UserNID]bool
}

func (h *hall) InThread() bool                       { return h.thread }
func (h *hall) IsSubscribed(user ident.UserNID) bool { return h.subscribed[user] }

func (h *hall) JoinedCount() int { return h.joined }
func (h *hall) LocalMember(user id.UserID) (ident.UserNID, bool) {
	nid, ok := h.members[user]
	return nid, ok
}
func (h *hall) LocalCount() int { return len(h.members) }
func (h *hall) EachNamedIn(text string, f func(nid ident.UserNID, user id.UserID)) {
	names := NewNames()
	for user, name := range h.names {
		names.Set(h.members[user], user, name)
	}
	names.In(text, f)
}
func (h *hall) DisplayName(user id.UserID) string      { return h.names[user] }
func (h *hall) MayNotify(_ id.UserID, key string) bool { return key == "room" && h.mayRoom }
func (h *hall) EachLocal(f func(nid ident.UserNID, user id.UserID)) {
	for user, nid := range h.members {
		f(nid, user)
	}
}

// desk holds Rules with users in a real database.
type desk struct {
	*testing.T
	db    *storage.DB
	rules *Rules
	room  *hall

	legacy bool
}

func newDesk(t *testing.T) *desk {
	d := &desk{T: t, db: storagetest.Open(t, storage.Config{}), legacy: true}
	d.room = &hall{joined: 3, members: map[id.UserID]ident.UserNID{}, names: map[id.UserID]string{}}
	d.reopen()
	for _, user := range []id.UserID{aliceID, bobID, carolID} {
		d.ok(d.db.Write(t.Context(), func(tx *storage.Tx) (err error) {
			d.room.members[user], err = tx.UserNID(string(user))
			return err
		}))
	}
	return d
}

// reopen loads all rules from the database again.
func (d *desk) reopen() {
	d.Helper()
	rules, err := New(d.Context(), d.db, wake.New(), "here", Defaults{Legacy: d.legacy})
	d.ok(err)
	d.rules = rules
}

func (d *desk) ok(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

func (d *desk) put(user id.UserID, k Kind, ruleID string, n NewRule) {
	d.Helper()
	if n.Actions == nil {
		n.Actions = raws(notify, highlight)
	}
	d.ok(d.rules.Put(d.Context(), d.room.members[user], user, k, ruleID, n))
}

func event(t testing.TB, raw string) *Event {
	t.Helper()
	v, _ := pdu.VersionOf("11")
	var members map[string]json.RawMessage
	if err := json.Unmarshal([]byte(raw), &members); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	for key, value := range map[string]string{
		"room_id": `"` + string(thisRoom) + `"`, "sender": `"@alice:here"`, "origin_server_ts": "1", "depth": "3", "type": `"m.room.message"`, "content": "{}",
	} {
		if members[key] == nil {
			members[key] = json.RawMessage(value)
		}
	}
	full, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	e, err := pdu.ParseStored(v, "$event", full)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// class returns the class of an event by alice for bob.
func (d *desk) class(raw string) Class {
	d.Helper()
	return d.rules.Evaluate(event(d, raw), d.room).For(d.room.members[bobID])
}

func TestDefaultRules(t *testing.T) {
	d := newDesk(t)
	d.room.mayRoom = true
	const loud = Notify | Highlight
	for name, tc := range map[string]struct {
		event      string
		bob, carol Class
	}{
		"message":                          {`{"content":{"body":"x","msgtype":"m.text"}}`, Notify, Notify},
		"encrypted":                        {`{"type":"m.room.encrypted","content":{"algorithm":"x"}}`, Notify, Notify},
		"notice":                           {`{"content":{"body":"bob","msgtype":"m.notice"}}`, 0, 0},
		"call":                             {`{"type":"m.call.invite"}`, Notify, Notify},
		"reaction":                         {`{"type":"m.reaction"}`, 0, 0},
		"poll":                             {`{"type":"org.matrix.msc3381.poll.start"}`, Notify, Notify},
		"vote":                             {`{"type":"org.matrix.msc3381.poll.response"}`, 0, 0},
		"vote that mentions":               {`{"type":"org.matrix.msc3381.poll.response","content":{"m.mentions":{"user_ids":["@bob:here"]}}}`, loud, 0},
		"end of a poll":                    {`{"type":"org.matrix.msc3381.poll.end"}`, Notify, Notify},
		"something else":                   {`{"type":"org.example.x"}`, 0, 0},
		"topic":                            {`{"type":"m.room.topic","state_key":""}`, 0, 0},
		"edit":                             {`{"content":{"body":"* x","m.relates_to":{"rel_type":"m.replace","event_id":"$a"}}}`, 0, 0},
		"thread":                           {`{"content":{"body":"x","m.relates_to":{"rel_type":"m.thread","event_id":"$a"}}}`, Notify, Notify},
		"tombstone":                        {`{"type":"m.room.tombstone","state_key":""}`, loud, loud},
		"no state tombstone":               {`{"type":"m.room.tombstone"}`, 0, 0},
		"server acl":                       {`{"type":"m.room.server_acl","state_key":""}`, 0, 0},
		"mention":                          {`{"content":{"body":"x","m.mentions":{"user_ids":["@bob:here","@dave:there"]}}}`, loud, Notify},
		"mention in a notice":              {`{"content":{"body":"x","msgtype":"m.notice","m.mentions":{"user_ids":["@bob:here"]}}}`, 0, 0},
		"mention in an edit":               {`{"content":{"body":"x","m.mentions":{"user_ids":["@bob:here"]},"m.relates_to":{"rel_type":"m.replace","event_id":"$a"}}}`, loud, 0},
		"mention in a state event":         {`{"type":"x","state_key":"","content":{"m.mentions":{"user_ids":["@bob:here"]}}}`, loud, 0},
		"mention of nobody":                {`{"content":{"body":"bob","m.mentions":{"user_ids":["",null,5,{}]}}}`, Notify, Notify},
		"malformed mention":                {`{"content":{"body":"bob","m.mentions":{"user_ids":"@bob:here"}}}`, Notify, Notify},
		"more malformed":                   {`{"content":{"body":"bob","m.mentions":["@bob:here"]}}`, Notify, Notify},
		"mention of the room":              {`{"content":{"body":"x","m.mentions":{"room":true}}}`, loud, loud},
		"room as text":                     {`{"content":{"body":"@room","m.mentions":{"room":"true"}}}`, Notify, Notify},
		"named in the text":                {`{"content":{"body":"hello Bob: x"}}`, loud, Notify},
		"named in the text, not mentioned": {`{"content":{"body":"hello bob","m.mentions":{}}}`, Notify, Notify},
		"invite":                           {`{"type":"m.room.member","state_key":"@bob:here","content":{"membership":"invite"}}`, Notify, 0},
		"invite that mentions another":     {`{"type":"m.room.member","state_key":"@carol:here","content":{"membership":"invite","m.mentions":{"user_ids":["@bob:here"]}}}`, 0, Notify},
		"join":                             {`{"type":"m.room.member","state_key":"@bob:here","content":{"membership":"join"}}`, 0, 0},
	} {
		e := event(t, tc.event)
		out := d.rules.Evaluate(e, d.room)
		if bob, carol := out.For(d.room.members[bobID]), out.For(d.room.members[carolID]); bob != tc.bob || carol != tc.carol {
			t.Errorf("%s: bob %d, carol %d", name, bob, carol)
		}
		if _, singled := out.Users[d.room.members[aliceID]]; singled {
			t.Errorf("%s: the sender is told", name)
		}
	}
	d.room.mayRoom = false
	if got := d.class(`{"content":{"body":"x","m.mentions":{"room":true}}}`); got != Notify {
		t.Errorf("a mention of the room without the power to: %d", got)
	}
	bob := d.room.members[bobID]
	d.ok(d.rules.SetEnabled(t.Context(), bob, bobID, Override, masterRule, true))
	if got := d.class(`{"content":{"body":"x","m.mentions":{"user_ids":["@bob:here"]}}}`); got != 0 {
		t.Errorf("with all notifications off: %d", got)
	}
	d.ok(d.rules.SetEnabled(t.Context(), bob, bobID, Override, masterRule, false))
	if len(d.rules.custom) != 1 || len(d.rules.groups) != 1 {
		t.Errorf("%d users in %d groups", len(d.rules.custom), len(d.rules.groups))
	}
}

// TestRulesForRoomsOfTwo changes the actions of the other underride rules, since by default all of them give the same
// class.
func TestRulesForRoomsOfTwo(t *testing.T) {
	d := newDesk(t)
	bob := d.room.members[bobID]
	for _, rule := range []string{".m.rule.message", ".m.rule.encrypted"} {
		d.ok(d.rules.SetActions(t.Context(), bob, bobID, Underride, rule, raws()))
	}
	for _, typ := range []string{"m.room.message", "m.room.encrypted"} {
		for joined, want := range map[int]Class{1: 0, 2: Notify, 3: 0} {
			d.room.joined = joined
			if got := d.class(`{"type":"` + typ + `","content":{"body":"x"}}`); got != want {
				t.Errorf("%s among %d: %d", typ, joined, got)
			}
		}
	}
}

func TestConditions(t *testing.T) {
	d := newDesk(t)
	d.room.names[bobID], d.room.joined = "Bob (Ü)", 10
	const text = `{"content":{"body":"Tea is ready, Bob (ü)!","n":3,"yes":true,"no":null,"list":["a",1,true,null,{"x":1},[2]],"a.b":{"c\\d":"deep"},"m.mentions":{}}}`
	for _, tc := range []struct {
		condition string
		holds     bool
	}{
		{`{"kind":"event_match","key":"content.body","pattern":"READY"}`, true},
		{`{"kind":"event_match","key":"content.body","pattern":"tea*rea?y"}`, true},
		{`{"kind":"event_match","key":"content.body","pattern":"read"}`, false},
		{`{"kind":"event_match","key":"content.body","pattern":""}`, false},
		{`{"kind":"event_match","key":"content.body"}`, false},
		{`{"kind":"event_match","key":"content.n","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"content.none","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"type","pattern":"m.ROOM.*"}`, true},
		{`{"kind":"event_match","key":"type","pattern":"m.room"}`, false},
		{`{"kind":"event_match","key":"sender","pattern":"@alice:*"}`, true},
		{`{"kind":"event_match","key":"room_id","pattern":"!room:here"}`, true},
		{`{"kind":"event_match","key":"event_id","pattern":"$event"}`, true},
		{`{"kind":"event_match","key":"state_key","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"content.a\\.b.c\\\\d","pattern":"deep"}`, true},
		{`{"kind":"event_match","key":"content.a.b.c","pattern":"deep"}`, false},
		{`{"kind":"event_match","key":"content.body","pattern":"` + strings.Repeat("*", maxPattern+1) + `"}`, false},
		{`{"kind":"event_match","key":"content.body","pattern":"` + strings.Repeat("*", maxPattern) + `"}`, true},
		{`{"kind":"event_property_is","key":"content.n","value":3}`, true},
		{`{"kind":"event_property_is","key":"content.n","value":"3"}`, false},
		{`{"kind":"event_property_is","key":"content.yes","value":true}`, true},
		{`{"kind":"event_property_is","key":"content.yes","value":1}`, false},
		{`{"kind":"event_property_is","key":"content.no","value":null}`, true},
		{`{"kind":"event_property_is","key":"content.none","value":null}`, false},
		{`{"kind":"event_property_is","key":"content.body","value":"tea is ready, bob (ü)!"}`, false},
		{`{"kind":"event_property_is","key":"content.list","value":["a"]}`, false},
		{`{"kind":"event_property_is","key":"origin_server_ts","value":1}`, true},
		{`{"kind":"event_property_is","key":"depth","value":3}`, false},
		{`{"kind":"event_property_contains","key":"content.list","value":"a"}`, true},
		{`{"kind":"event_property_contains","key":"content.list","value":"A"}`, false},
		{`{"kind":"event_property_contains","key":"content.list","value":1}`, true},
		{`{"kind":"event_property_contains","key":"content.list","value":null}`, true},
		{`{"kind":"event_property_contains","key":"content.list","value":{"x":1}}`, false},
		{`{"kind":"event_property_contains","key":"content.list","value":2}`, false},
		{`{"kind":"event_property_contains","key":"content.body","value":"Tea"}`, false},
		{`{"kind":"contains_display_name"}`, true},
		{`{"kind":"room_member_count","is":">0"}`, true},
		{`{"kind":"room_member_count","is":">10"}`, false},
		{`{"kind":"room_member_count","is":"10"}`, true},
		{`{"kind":"room_member_count","is":"==10"}`, true},
		{`{"kind":"room_member_count","is":"<10"}`, false},
		{`{"kind":"room_member_count","is":"<=10"}`, true},
		{`{"kind":"room_member_count","is":">9"}`, true},
		{`{"kind":"room_member_count","is":">=10"}`, true},
		{`{"kind":"room_member_count","is":">=11"}`, false},
		{`{"kind":"room_member_count","is":"<>9"}`, false},
		{`{"kind":"room_member_count","is":"+10"}`, false},
		{`{"kind":"room_member_count","is":">"}`, false},
		{`{"kind":"sender_notification_permission","key":"room"}`, false},
		{`{"kind":"org.example.unknown"}`, false},
		{`{"kind":5}`, false},
		{`{}`, false},
	} {
		d.put(bobID, Override, "r", NewRule{}) // it matches, so that a rule set that fails to compile would be noticed
		d.put(bobID, Override, "r", NewRule{Conditions: raws(tc.condition)})
		want := Notify
		if tc.holds {
			want |= Highlight
		}
		if got := d.class(text); got != want {
			t.Errorf("%.100s: class %d", tc.condition, got)
		}
	}
	d.put(bobID, Override, "r", NewRule{Conditions: raws(`{"kind":"contains_display_name"}`)})
	for name, want := range map[string]Class{"": Notify, "Ready": Notify | Highlight, "Read": Notify} {
		d.room.names[bobID] = name
		if got := d.class(text); got != want {
			t.Errorf("with the display name %q: %d", name, got)
		}
	}
	d.put(bobID, Override, "r", NewRule{Conditions: raws(`{"kind":"room_member_count","is":"10"}`, `{"kind":"room_member_count","is":"11"}`)})
	if got := d.class(text); got != Notify {
		t.Error("a rule matches though one condition does not hold")
	}
	d.put(bobID, Override, "r", NewRule{})
	if got := d.class(text); got != Notify|Highlight {
		t.Error("a rule without conditions does not match")
	}
}

func TestLongDisplayNamesAreNotLookedFor(t *testing.T) {
	d := newDesk(t)
	d.legacy = false
	d.reopen()
	d.put(bobID, Override, "r", NewRule{Conditions: raws(`{"kind":"contains_display_name"}`)})
	for length, want := range map[int]Class{maxPattern: Notify | Highlight, maxPattern + 1: Notify} {
		d.room.names[bobID] = strings.Repeat("x", length)
		if got := d.class(`{"content":{"body":"` + d.room.names[bobID] + `"}}`); got != want {
			t.Errorf("a display name of %d bytes: %d", length, got)
		}
	}
}

func TestHighlightNotifiesInEitherOrderOfActions(t *testing.T) {
	for _, actions := range [][]json.RawMessage{raws(notify, highlight), raws(highlight, notify)} {
		if got := classOf(actions); got != Notify|Highlight {
			t.Errorf("%s: %d", actions, got)
		}
	}
}

func TestConditionsThatReadNothingCountAgainstTheBound(t *testing.T) {
	d := newDesk(t)
	always := compileCondition(json.RawMessage(`{"kind":"room_member_count","is":">0"}`))
	for conditions, want := range map[int]Class{maxWork/conditionCost - 1: Highlight, maxWork / conditionCost: 0} {
		rule := compiledRule{conditions: slices.Repeat([]condition{always}, conditions), class: Highlight}
		e := &evaluation{event: event(t, `{}`), room: d.room}
		if got := e.classFor(&compiled{general: []compiledRule{rule}}, 0, bobID); got != want {
			t.Errorf("%d conditions: %d", conditions, got)
		}
	}
}

// Spec: appendices#dot-separated-property-paths
func TestPropertyPathsAreSplitAtDots(t *testing.T) {
	for key, want := range map[string][]string{
		``: {""}, `a`: {"a"}, `a.b`: {"a", "b"}, `a\.b`: {"a.b"}, `a\\.b`: {`a\`, "b"}, `a\b`: {`a\b`}, `a\`: {`a\`}, `.`: {"", ""}, `\.`: {"."}, `\..`: {".", ""},
	} {
		if got := splitPath(key); !slices.Equal(got, want) {
			t.Errorf("%s: %q", key, got)
		}
	}
}

// The members with custom rules are found by iterating over the members or over the users with custom rules.
func TestFewMembersAmongManyCustomRulesAreFound(t *testing.T) {
	d := newDesk(t)
	d.put(bobID, Room, string(thisRoom), NewRule{Actions: raws()})
	d.put(carolID, Underride, "u", NewRule{})
	for i := range ident.UserNID(10) {
		user := id.UserID(fmt.Sprintf("@u%d:here", i))
		own := stored{Own: Ruleset{Underride: []Rule{{ID: "u", Enabled: true, Actions: raws()}}}}
		d.rules.activate(1_000+i, user, &own, fmt.Sprint(i))
	}
	d.room.members["@dave:here"] = 2_000
	d.room.members["@erin:here"] = 2_001
	d.rules.activate(2_001, "@erin:here", &stored{Own: Ruleset{Room: []Rule{{ID: "!other:here", Enabled: true, Actions: raws()}}}}, "erin")
	want := map[ident.UserNID]Class{d.room.members[bobID]: 0, d.room.members[carolID]: Notify | Highlight}
	if d.room.LocalCount() > len(d.rules.custom) {
		t.Fatalf("%d members, %d custom rule sets", d.room.LocalCount(), len(d.rules.custom))
	}
	if present := d.rules.present(thisRoom, d.room); len(present) != 2 {
		t.Errorf("%d groups differ from the defaults in this room, want 2", len(present))
	}
	if out := d.rules.Evaluate(event(t, `{}`), d.room); out.Default != Notify || !maps.Equal(out.Users, want) {
		t.Errorf("few members: %+v", out)
	}
	for i := range ident.UserNID(20) {
		d.room.members[id.UserID(fmt.Sprintf("@other%d:here", i))] = 3_000 + i
	}
	if out := d.rules.Evaluate(event(t, `{}`), d.room); out.Default != Notify || !maps.Equal(out.Users, want) {
		t.Errorf("many members: %+v", out)
	}
}

func TestKindsAreCheckedInOrder(t *testing.T) {
	d := newDesk(t)
	silent := NewRule{Actions: raws(`"dont_notify"`)}
	loud := NewRule{Actions: raws(notify, `{"set_tweak":"highlight","value":true}`)}
	const text = `{"content":{"body":"cake","m.mentions":{}}}`
	want := func(class Class) {
		t.Helper()
		if got := d.class(text); got != class {
			t.Errorf("class %d, want %d", got, class)
		}
		carol := d.rules.Evaluate(event(t, text), d.room).For(d.room.members[carolID])
		if carol != Notify {
			t.Errorf("carol: %d", carol)
		}
	}
	d.put(bobID, Underride, "u", silent)
	want(0)
	d.put(bobID, Sender, string(aliceID), loud)
	want(Notify | Highlight)
	d.put(bobID, Sender, string(carolID), silent)
	want(Notify | Highlight)
	d.put(bobID, Room, string(thisRoom), silent)
	want(0)
	cake := "cake"
	d.put(bobID, Content, "c", NewRule{Pattern: &cake, Actions: loud.Actions})
	want(Notify | Highlight)
	d.put(bobID, Override, "o", NewRule{Actions: raws(notify, `{"set_tweak":"highlight","value":false}`)})
	want(Notify)
	d.put(bobID, Override, "o", NewRule{Actions: raws(highlight)}) // a rule cannot highlight without notifying
	want(0)
	bob := d.room.members[bobID]
	for _, step := range []struct {
		kind Kind
		id   string
		now  Class
	}{{Override, "o", Notify | Highlight}, {Content, "c", 0}, {Room, string(thisRoom), Notify | Highlight}, {Sender, string(aliceID), 0}, {Underride, "u", Notify}} {
		d.ok(d.rules.SetEnabled(t.Context(), bob, bobID, step.kind, step.id, false))
		want(step.now)
		d.reopen()
		want(step.now)
	}
}

func TestRoomRuleAppliesWithoutLaterRules(t *testing.T) {
	d := newDesk(t)
	d.put(bobID, Room, string(thisRoom), NewRule{Actions: raws(notify)})
	bob := d.room.members[bobID]
	set, err := d.rules.Rules(t.Context(), bob, bobID)
	d.ok(err)
	for _, kind := range []Kind{Override, Content, Sender, Underride} {
		for _, r := range *set.List(kind) {
			d.ok(d.rules.SetEnabled(t.Context(), bob, bobID, kind, r.ID, false))
		}
	}
	if got := d.class(`{"content":{"body":"x"}}`); got != Notify {
		t.Errorf("the room's rule says %d", got)
	}
}

func TestMutingARoomDoesNotAffectOthers(t *testing.T) {
	d := newDesk(t)
	d.put(bobID, Room, "!other:here", NewRule{Actions: raws()})
	if out := d.rules.Evaluate(event(t, `{}`), d.room); out.Default != Notify || len(out.Users) != 0 {
		t.Errorf("%+v", out)
	}
	d.put(bobID, Room, string(thisRoom), NewRule{Actions: raws()})
	out := d.rules.Evaluate(event(t, `{}`), d.room)
	if want := map[ident.UserNID]Class{d.room.members[bobID]: 0}; !maps.Equal(out.Users, want) {
		t.Errorf("%+v", out)
	}
	// A mention matches an override rule, which is checked first.
	if got := d.class(`{"content":{"m.mentions":{"user_ids":["@bob:here"]}}}`); got != Notify|Highlight {
		t.Errorf("mention in a muted room: %d", got)
	}
	delete(d.room.members, bobID)
	if out := d.rules.Evaluate(event(t, `{}`), d.room); len(out.Users) != 0 {
		t.Errorf("bob left: %+v", out)
	}
	if len(d.rules.byRoom) != 2 {
		t.Fatal(d.rules.byRoom)
	}
}

// No rules of a former user stay in memory, and users with equal rules are in one group.
func TestEqualRulesAreOneGroup(t *testing.T) {
	d := newDesk(t)
	for _, user := range []id.UserID{bobID, carolID} {
		d.put(user, Room, string(thisRoom), NewRule{Actions: raws()})
	}
	if len(d.rules.groups) != 1 || len(d.rules.custom) != 2 {
		t.Fatalf("%d groups of %d users", len(d.rules.groups), len(d.rules.custom))
	}
	out := d.rules.Evaluate(event(t, `{}`), d.room)
	if out.For(d.room.members[bobID]) != 0 || out.For(d.room.members[carolID]) != 0 || out.Default != Notify {
		t.Errorf("%+v", out)
	}
	for _, user := range []id.UserID{bobID, carolID} {
		d.ok(d.rules.Delete(t.Context(), d.room.members[user], user, Room, string(thisRoom)))
	}
	if len(d.rules.groups)+len(d.rules.custom)+len(d.rules.byRoom)+len(d.rules.everywhere) != 0 {
		t.Errorf("%+v", d.rules)
	}
}

// The largest rule set that a user can store is evaluated for the largest event.
func TestHostileRulesAreBounded(t *testing.T) {
	d := newDesk(t)
	own := stored{}
	for i := range maxRules {
		pattern := fmt.Sprintf("*%s%dx", strings.Repeat("?*a", 160), i)
		own.Own.Content = append(own.Own.Content, Rule{ID: fmt.Sprint(i), Enabled: true, Actions: raws(notify), Pattern: pattern})
		own.Own.Override = append(own.Own.Override, Rule{ID: fmt.Sprint("o", i), Enabled: true, Actions: raws(notify), Conditions: raws(
			fmt.Sprintf(`{"kind":"event_property_contains","key":"content.list%d","value":1}`, i))})
	}
	own.Own.Underride = []Rule{{ID: "late", Enabled: true, Actions: raws(notify, highlight), Conditions: raws(match("sender", `"*"`))}}
	d.rules.activate(d.room.members[bobID], bobID, &own, "x")
	big := event(t, `{"content":{"body":"`+strings.Repeat("a ", 15<<10)+`","list1":[`+strings.Repeat("2,", 10<<10)+`3]}}`)
	start := time.Now()
	out := d.rules.Evaluate(big, d.room)
	if took := time.Since(start); took > 2*time.Second { // measured: 15 ms
		t.Errorf("took %v", took)
	}
	if got := out.For(d.room.members[bobID]); got != Notify {
		t.Errorf("class %d: the rule behind all that work was looked at", got)
	}
	crowd := make([]string, 3000)
	for i := range crowd {
		crowd[i] = fmt.Sprintf(`"@u%d:here"`, i)
		d.room.members[id.UserID(fmt.Sprintf("@u%d:here", i))] = ident.UserNID(1_000_000 + i)
	}
	start = time.Now()
	out = d.rules.Evaluate(event(t, `{"content":{"m.mentions":{"user_ids":[`+strings.Join(crowd, ",")+`]}}}`), d.room)
	if took := time.Since(start); took > 2*time.Second || len(out.Users) != maxNamed { // measured: 6 ms
		t.Errorf("%d mentions, took %v", len(out.Users), took)
	}
}

func BenchmarkEvaluate(b *testing.B) {
	for _, custom := range []int{0, 100, 5000} {
		for _, body := range []string{"nobody in particular", "u17"} {
			b.Run(fmt.Sprintf("10000 members, %d with rules, %s", custom, body), func(b *testing.B) {
				room := &hall{joined: 10_000, members: map[id.UserID]ident.UserNID{}}
				rules, err := New(b.Context(), storagetest.Open(b, storage.Config{}), wake.New(), "here", Defaults{Legacy: true})
				if err != nil {
					b.Fatal(err)
				}
				for i := range 10_000 {
					user := id.UserID(fmt.Sprintf("@u%d:here", i))
					room.members[user] = ident.UserNID(i)
					if i < custom {
						own := stored{Own: Ruleset{Content: []Rule{{ID: "k", Enabled: true, Actions: raws(notify, highlight), Pattern: fmt.Sprint("keyword", i)}}}}
						rules.activate(ident.UserNID(i), user, &own, fmt.Sprint(i))
					}
				}
				e := event(b, `{"content":{"msgtype":"m.text","body":"hello `+body+`"}}`)
				b.ReportAllocs()
				for b.Loop() {
					rules.Evaluate(e, room)
				}
			})
		}
	}
}
