package feed_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/mxerr"
	"ebb/storage"
)

// subscribed is a request for one room.
func subscribed(room id.RoomID, limit int, required string) string {
	return fmt.Sprintf(`{"room_subscriptions":{%q:{"timeline_limit":%d,"required_state":%s}}}`, room, limit, required)
}

// typesOf lists the types of events, sorted, each once.
func typesOf(events []ev) []string {
	types := list{events}.types()
	slices.Sort(types)
	return slices.Compact(types)
}

func TestSlidingRequiredStateSelects(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	bob.join(room)
	alice.send(room, "m.room.topic", `{"topic":"T"}`, "")
	alice.send(room, "x.a", `{}`, "k")
	alice.send(room, "x.b", `{}`, "k")
	alice.say(room, "hi")
	all := []string{"m.room.create", "m.room.history_visibility", "m.room.join_rules", "m.room.member", "m.room.power_levels", "m.room.topic", "x.a", "x.b"}
	without := func(drop ...string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(drop, s) })
	}
	for _, c := range []struct {
		merged  bool
		state   string
		want    []string
		members []string
	}{
		{false, `[]`, nil, nil},
		{false, `[["m.room.topic",""],["m.room.name",""]]`, []string{"m.room.topic"}, nil},
		{false, `[["*","*"]]`, all, []string{"@alice join", "@bob join"}},
		{false, `[["*","k"]]`, []string{"x.a", "x.b"}, nil},
		{false, `[["x.a","*"]]`, []string{"x.a"}, nil},
		{false, `[["m.room.member","$ME"]]`, []string{"m.room.member"}, []string{"@bob join"}},
		{false, `[["m.room.member","$LAZY"]]`, []string{"m.room.member"}, []string{"@alice join"}},
		{false, `[["m.room.member","$LAZY"],["m.room.member","$ME"]]`, []string{"m.room.member"}, []string{"@alice join", "@bob join"}},
		{true, `{}`, nil, nil},
		{true, `{"include":[{}]}`, all, []string{"@alice join", "@bob join"}},
		{true, `{"include":[{}],"lazy_members":true}`, all, []string{"@alice join"}},
		{true, `{"include":[{},{"type":"m.room.member","state_key":"@bob:test.example"}],"lazy_members":true}`, all, []string{"@alice join", "@bob join"}},
		{true, `{"include":[{}],"exclude":[{"type":"m.room.create"},{"state_key":"k"}]}`, without("m.room.create", "x.a", "x.b"), []string{"@alice join", "@bob join"}},
		{true, `{"include":[{"type":"m.room.member"}],"exclude":[{"type":"m.room.member","state_key":"@alice:test.example"}]}`, []string{"m.room.member"}, []string{"@bob join"}},
		{true, `{"include":[{"state_key":"k"}]}`, []string{"x.a", "x.b"}, nil},
	} {
		s := bob.sliding(subscribed(room, 1, c.state))
		s.merged = c.merged
		r := s.next().Rooms[room]
		same(t, c.state, typesOf(r.State), c.want)
		members := list{r.State}.of("m.room.member")
		slices.Sort(members)
		same(t, c.state+" members", members, c.members)
	}
}

func TestSlidingRequiredStateThatGrowsIsSentAtOnce(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	room := alice.create("public_chat")
	alice.send(room, "m.room.topic", `{"topic":"T"}`, "")
	c := alice.sliding(subscribed(room, 1, `[["m.room.create",""]]`))
	same(t, "first", typesOf(c.next().Rooms[room].State), []string{"m.room.create"})
	narrow, wide := c.body, subscribed(room, 1, `[["m.room.create",""],["m.room.topic",""]]`)
	c.body = wide
	a := c.next()
	if same(t, "grown", typesOf(a.Rooms[room].State), []string{"m.room.topic"}); a.Rooms[room].Initial {
		t.Error("not new")
	}
	c.body = narrow
	if a := c.next(); len(a.Rooms) != 0 {
		t.Errorf("narrower: %s", a.raw)
	}
	c.body = wide
	if a := c.next(); len(a.Rooms) != 0 {
		t.Errorf("the client has the topic: %s", a.raw)
	}
	c.body = narrow
	alice.send(room, "m.room.topic", `{"topic":"U"}`, "")
	if r := c.next().Rooms[room]; len(r.State) != 0 {
		t.Errorf("not asked for: %+v", r)
	}
	c.body = wide
	same(t, "changed meanwhile", list{c.next().Rooms[room].State}.of("m.room.topic"), []string{"U"})
	alice.send(room, "m.room.topic", `{"topic":"V"}`, "")
	same(t, "changed", list{c.next().Rooms[room].State}.of("m.room.topic"), []string{"V"})
}

func TestSlidingListsAndSubscriptionsAreCombined(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	room := alice.create("public_chat")
	alice.say(room, "1")
	alice.say(room, "2")
	c := alice.sliding(`{"lists":{"a":{"ranges":[[0,0]],"timeline_limit":1,"required_state":[["m.room.create",""]]}},
		"room_subscriptions":{"` + string(room) + `":{"timeline_limit":2,"required_state":[["m.room.join_rules",""]]}}}`)
	r := c.next().Rooms[room]
	same(t, "state", typesOf(r.State), []string{"m.room.create", "m.room.join_rules"})
	same(t, "timeline", bodies(r.Timeline), []string{"1", "2"})
}

func TestSlidingLazyMembersComeOnceAndChangesWithoutAGap(t *testing.T) {
	w := newWorld(t)
	alice, bob, carol := w.user("alice"), w.user("bob"), w.user("carol")
	room := alice.create("public_chat")
	bob.join(room)
	carol.join(room)
	c := alice.sliding(subscribed(room, 1, `[["m.room.member","$LAZY"]]`))
	c.next()
	bob.say(room, "hi")
	same(t, "sender", list{c.next().Rooms[room].State}.of("m.room.member"), []string{"@bob join"})
	bob.say(room, "hi")
	same(t, "known sender", list{c.next().Rooms[room].State}.of("m.room.member"), nil)
	w.restart()
	bob.say(room, "hi")
	carol.send(room, "m.room.member", `{"membership":"join","displayname":"C"}`, string(carol.UserID))
	c.body = subscribed(room, 5, `[["m.room.member","$LAZY"]]`)
	got := list{c.next().Rooms[room].State}.of("m.room.member")
	if !slices.Contains(got, "@carol join") {
		t.Errorf("a change of a member: %v", got)
	}
}

func TestSlidingFiltersSelectRooms(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	plain := alice.create("public_chat")
	secret := alice.create("public_chat")
	alice.send(secret, "m.room.encryption", `{"algorithm":"m.megolm.v1.aes-sha2"}`, "")
	direct := alice.create("public_chat")
	alice.accountData("", "m.direct", `{"@bob:test.example":["`+string(direct)+`"],"x":3}`)
	space := alice.createTyped("m.space")
	alice.send(space, "m.space.child", `{"via":["test.example"]}`, string(plain))
	alice.send(space, "m.space.child", `{}`, string(direct))
	alice.accountData(plain, "m.tag", `{"tags":{"u.a":{}}}`)
	alice.accountData(secret, "m.tag", `{"tags":{"u.a":{},"u.b":{}}}`)
	invite := bob.create("private_chat")
	bob.invite(invite, alice)
	names := map[id.RoomID]string{plain: "plain", secret: "secret", direct: "direct", space: "space", invite: "invite"}
	for _, c := range []struct {
		filter string
		want   []string
	}{
		{`{}`, []string{"direct", "invite", "plain", "secret", "space"}},
		{`{"is_dm":true}`, []string{"direct"}},
		{`{"is_dm":false}`, []string{"invite", "plain", "secret", "space"}},
		{`{"is_encrypted":true}`, []string{"secret"}},
		{`{"is_encrypted":false}`, []string{"direct", "invite", "plain", "space"}},
		{`{"is_invite":true,"is_invited":true}`, []string{"invite"}},
		{`{"is_invite":false,"is_invited":false}`, []string{"direct", "plain", "secret", "space"}},
		{`{"room_types":["m.space"]}`, []string{"space"}},
		{`{"room_types":[null]}`, []string{"direct", "invite", "plain", "secret"}},
		{`{"not_room_types":["m.space"]}`, []string{"direct", "invite", "plain", "secret"}},
		{`{"room_types":["m.space",null],"not_room_types":[null]}`, []string{"space"}},
		{`{"tags":["u.a"]}`, []string{"plain", "secret"}},
		{`{"tags":["u.a"],"not_tags":["u.b"]}`, []string{"plain"}},
		{`{"not_tags":["u.a"]}`, []string{"direct", "invite", "space"}},
		{`{"spaces":["` + string(space) + `","!none"]}`, []string{"plain"}},
		{`{"tags":[]}`, nil},
	} {
		for _, merged := range []bool{false, true} {
			s := alice.sliding(`{"lists":{"l":{"ranges":[[0,99]],"timeline_limit":0,"required_state":` + map[bool]string{false: "[]", true: "{}"}[merged] + `,"filters":` + c.filter + `}}}`)
			s.merged = merged
			a := s.next()
			var got []string
			for room := range a.Rooms {
				got = append(got, names[room])
			}
			slices.Sort(got)
			if same(t, c.filter, got, c.want); a.Lists["l"].Count != len(c.want) {
				t.Errorf("%s: count %d", c.filter, a.Lists["l"].Count)
			}
		}
	}
}

func TestSlidingRoomsAreSummarized(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("private_chat")
	alice.invite(room, bob)
	c := alice.sliding(subscribed(room, 5, `[]`))
	r := c.next().Rooms[room]
	if r.Name != nil || len(r.Heroes) != 1 || r.Heroes[0].User != bob.UserID || *r.Joined != 1 || *r.Invited != 1 || r.IsDM != nil || *r.Notify != 0 {
		t.Errorf("first: %+v", r)
	}
	bob.join(room)
	bob.send(room, "m.room.member", `{"membership":"join","displayname":"Bob","avatar_url":"mxc://a/b"}`, string(bob.UserID))
	bob.say(room, "hi")
	r = c.next().Rooms[room]
	if len(r.Heroes) != 1 || r.Heroes[0].Name != "Bob" || r.Heroes[0].Avatar != "mxc://a/b" || *r.Joined != 2 || *r.Invited != 0 {
		t.Errorf("joined: %+v", r)
	}
	stamp := r.BumpStamp
	alice.send(room, "m.room.name", `{"name":"N"}`, "")
	alice.send(room, "m.room.avatar", `{"url":"mxc://a/c"}`, "")
	if r = c.next().Rooms[room]; *r.Name != "N" || *r.Avatar != "mxc://a/c" || r.BumpStamp != stamp || r.Joined != nil {
		t.Errorf("named: %+v", r)
	}
	last := bob.say(room, "again")
	if r = c.next().Rooms[room]; r.BumpStamp <= stamp || r.Name != nil {
		t.Errorf("bumped: %+v", r)
	}
	alice.receipt(room, "m.read.private", last)
	if r = c.next().Rooms[room]; r.Notify == nil || *r.Notify != 0 {
		t.Errorf("read: %+v", r)
	}
	alice.send(room, "m.room.name", `{}`, "")
	a := c.next()
	if !strings.Contains(a.raw, `"name":null`) || len(a.Rooms[room].Heroes) != 1 {
		t.Errorf("without a name: %s", a.raw)
	}
	alice.accountData("", "m.direct", `{"@bob:test.example":["`+string(room)+`"]}`)
	if r = c.next().Rooms[room]; r.IsDM == nil || !*r.IsDM {
		t.Errorf("direct: %+v", r)
	}
	alice.accountData("", "m.direct", `{}`)
	if r = c.next().Rooms[room]; r.IsDM == nil || *r.IsDM {
		t.Errorf("not direct any more: %+v", r)
	}
	if a := c.next(); len(a.Rooms) != 0 {
		t.Errorf("nothing: %s", a.raw)
	}
}

func TestSlidingRequestsThatMakeNoSenseAreRefused(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	many := func(n int, entry string) string {
		var parts []string
		for i := range n {
			parts = append(parts, fmt.Sprintf(entry, i))
		}
		return strings.Join(parts, ",")
	}
	lists, subs := `"l%d":{"timeline_limit":1}`, `"!%d:x":{"timeline_limit":1}`
	mergedSubs := `"!%d:x":{"timeline_limit":1,"required_state":{}}`
	for _, c := range []struct {
		merged bool
		body   string
		code   string
	}{
		{false, `{"lists":[]}`, "M_BAD_JSON"},
		{false, `{"lists":{"a":{"ranges":[[0]]}}}`, "M_INVALID_PARAM"},
		{false, `{"lists":{"a":{"ranges":[[5,1]]}}}`, "M_INVALID_PARAM"},
		{false, `{"lists":{"a":{"ranges":[[-1,1]]}}}`, "M_INVALID_PARAM"},
		{false, `{"lists":{"a":{"ranges":[[0,1e99]]}}}`, "M_BAD_JSON"},
		{false, `{"lists":{"a":{"ranges":[[0,9007199254740991]],"timeline_limit":9007199254740991}}}`, ""},
		{false, `{"lists":{"a":{"timeline_limit":-1}}}`, "M_INVALID_PARAM"},
		{false, `{"lists":{"a":{"required_state":[["a"]]}}}`, "M_INVALID_PARAM"},
		{false, `{"lists":{"a":{"required_state":[` + many(301, `["a","%d"]`) + `]}}}`, "M_INVALID_PARAM"},
		{false, `{"lists":{` + many(100, lists) + `}}`, ""},
		{false, `{"lists":{` + many(101, lists) + `}}`, "M_INVALID_PARAM"},
		{false, `{"room_subscriptions":{` + many(500, subs) + `}}`, ""},
		{true, `{"room_subscriptions":{` + many(100, mergedSubs) + `}}`, ""},
		{true, `{"room_subscriptions":{` + many(101, mergedSubs) + `}}`, "M_INVALID_PARAM"},
		{true, `{"lists":{` + many(101, lists) + `}}`, "M_INVALID_PARAM"},
		{true, `{"lists":{"a b":{"timeline_limit":1}}}`, "M_INVALID_PARAM"},
		{true, `{"lists":{"a":{"range":[1,0],"timeline_limit":1,"required_state":{}}}}`, "M_INVALID_PARAM"},
		{true, `{"lists":{"a":{"timeline_limit":1}}}`, "M_MISSING_PARAM"},
		{true, `{"lists":{"a":{"timeline_limit":1,"required_state":null}}}`, "M_MISSING_PARAM"},
		{true, `{"lists":{"a":{"timeline_limit":1,"required_state":[]}}}`, "M_BAD_JSON"},
		{true, `{"lists":{"a":{"required_state":{}}}}`, "M_MISSING_PARAM"},
		{true, `{"lists":{"a":{"timeline_limit":null,"required_state":{}}}}`, "M_MISSING_PARAM"},
		{true, `{"lists":{"a":{"timeline_limit":1.5,"required_state":{}}}}`, "M_BAD_JSON"},
		{true, `{"room_subscriptions":{"!a:x":{"timeline_limit":1}}}`, "M_MISSING_PARAM"},
		{true, `{"room_subscriptions":{"!a:x":{"required_state":{}}}}`, "M_MISSING_PARAM"},
		{false, `{"lists":{"a":{}},"room_subscriptions":{"!a:x":{}}}`, ""},
		{true, `{"set_presence":"x"}`, "M_INVALID_PARAM"},
		{false, `{"conn_id":"` + strings.Repeat("x", 256) + `"}`, "M_INVALID_PARAM"},
		{false, `{"extensions":{"to_device":{"enabled":true,"since":"x"}}}`, "M_INVALID_PARAM"},
		{false, `{"extensions":{"to_device":{"enabled":"x"}}}`, "M_BAD_JSON"},
		{false, `{"unknown":1,"lists":{"a":{"sort":["by_recency"],"include_old_rooms":{"x":1}}},"extensions":{"x.y":{"enabled":true}}}`, ""},
		{false, `{}`, ""},
	} {
		s := alice.sliding(c.body)
		s.merged = c.merged
		if _, err := s.try("", 0); mxerr.Code(err) != c.code {
			t.Errorf("%.80s: %v, want %q", c.body, err, c.code)
		}
	}
}

func TestClientsThatShareARequestGetTheirOwnMember(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	bob.join(room)
	const body = `{"lists":{"all":{"ranges":[[0,9]],"timeline_limit":0,"required_state":[["m.room.member","$ME"]]}}}`
	for _, u := range []*user{alice, bob} {
		c := u.sliding(body)
		a := c.next()
		if state := a.Rooms[room].State; len(state) != 1 || *state[0].StateKey != string(u.UserID) {
			t.Errorf("%s got %s", u.UserID, a.raw)
		}
		u.send(room, "m.room.member", `{"membership":"join","displayname":"New name"}`, string(u.UserID))
		a = c.next()
		if r := a.Rooms[room]; len(r.State) != 1 || *r.State[0].StateKey != string(u.UserID) {
			t.Errorf("%s got of its change: %s", u.UserID, a.raw)
		}
	}
}

// The database is changed as state resolution changes it; package rooms has the test that it does so.
func TestEntryDeletedByStateResolutionIsADeletionStub(t *testing.T) {
	for _, gap := range []bool{false, true} {
		w := newWorld(t)
		alice := w.user("alice")
		room := alice.create("public_chat")
		alice.send(room, "x.note", `{"body":"here"}`, "key")
		c := alice.sliding(`{"lists":{"all":{"range":[0,9],"timeline_limit":5,"required_state":{"include":[{"type":"x.note"}]}}}}`)
		c.merged = true
		if a := c.next(); len(a.Rooms[room].State) != 1 {
			t.Fatalf("first: %s", a.raw)
		}
		r, err := w.Room(t.Context(), room)
		c.must(err)
		c.must(w.db.Write(t.Context(), func(tx *storage.Tx) error {
			return tx.DeleteCurrentState(r.NID(), "x.note", "key", tx.NextPos())
		}))
		w.restart()
		says := 1
		if gap {
			says = 200 // more than there are in memory
		}
		for i := range says {
			alice.say(room, fmt.Sprint("message ", i))
		}
		a := c.next()
		if state := a.Rooms[room].State; len(state) != 1 || state[0].Type != "x.note" || *state[0].StateKey != "key" || state[0].Content != nil {
			t.Errorf("gap %t: %s", gap, a.raw)
		}
		if a := c.next(); len(a.Rooms) != 0 {
			t.Errorf("gap %t: it comes again: %s", gap, a.raw)
		}
		alice.send(room, "x.note", `{"body":"again"}`, "key")
		if a := c.next(); len(a.Rooms[room].State) != 0 && a.Rooms[room].State[0].Content == nil {
			t.Errorf("gap %t: once it is set again: %s", gap, a.raw)
		}
	}
}
