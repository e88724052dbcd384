package feed_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/history"
	"ebb/rooms"
	"ebb/rooms/pdu"
)

// slidingModel is a client that applies every answer. Its requests change at random.
type slidingModel struct {
	*sliding
	name     string
	rooms    map[id.RoomID]*modelRoom
	all      bool // the request has all rooms in range
	subs     []id.RoomID
	limit    int
	required int // index in modelStates
	messages map[id.EventID]bool
}

// modelRoom is a room as the client knows it.
type modelRoom struct {
	state    state
	timeline []id.EventID // without a gap, oldest first
}

// modelStates are the selections of state that clients ask for, in both forms, with what they select.
var modelStates = []struct {
	deployed, merged string
	selects          func(key pdu.StateKey, self id.UserID) bool
}{
	{`[]`, `{}`, func(pdu.StateKey, id.UserID) bool { return false }},
	{`[["m.room.name",""],["m.room.topic",""]]`, `{"include":[{"type":"m.room.name","state_key":""},{"type":"m.room.topic","state_key":""}]}`,
		func(k pdu.StateKey, _ id.UserID) bool { return k.Type == "m.room.name" || k.Type == "m.room.topic" }},
	{`[["m.room.topic",""],["m.room.member","$LAZY"],["m.room.member","$ME"]]`,
		`{"include":[{"type":"m.room.topic","state_key":""},{"type":"m.room.member","state_key":"ME"}],"lazy_members":true}`,
		func(k pdu.StateKey, self id.UserID) bool {
			return k.Type == "m.room.topic" || k.Type == "m.room.member" && k.Key == string(self)
		}},
	{`[["*","*"]]`, `{"include":[{}]}`, func(pdu.StateKey, id.UserID) bool { return true }},
	{`[["m.room.member","*"],["x.k","*"]]`, `{"include":[{"type":"m.room.member"},{"type":"x.k"}]}`,
		func(k pdu.StateKey, _ id.UserID) bool { return k.Type == "m.room.member" || k.Type == "x.k" }},
}

// ask changes what the client asks for.
func (c *slidingModel) ask(rng *rand.Rand, among []id.RoomID) {
	c.limit, c.required = []int{0, 1, 3, 10}[rng.IntN(4)], rng.IntN(len(modelStates))
	c.all, c.subs = rng.IntN(2) == 0, nil
	to := rng.IntN(3)
	if c.all {
		to = 99
	}
	required := modelStates[c.required].deployed
	ranges := fmt.Sprintf(`"ranges":[[0,%d]]`, to)
	if c.merged {
		required = strings.Replace(modelStates[c.required].merged, `"ME"`, fmt.Sprintf("%q", c.UserID), 1)
		ranges = fmt.Sprintf(`"range":[0,%d]`, to)
	}
	config := fmt.Sprintf(`"timeline_limit":%d,"required_state":%s`, c.limit, required)
	var subs []string
	for _, room := range among {
		if rng.IntN(3) == 0 {
			c.subs = append(c.subs, room)
			subs = append(subs, fmt.Sprintf(`%q:{%s}`, room, config))
		}
	}
	c.body = fmt.Sprintf(`{"conn_id":%q,"lists":{"l":{%s,%s}},"room_subscriptions":{%s}}`, c.name, ranges, config, strings.Join(subs, ","))
}

// apply applies an answer.
func (c *slidingModel) apply(a slid) {
	t := c.w.t
	t.Helper()
	for roomID, r := range a.Rooms {
		m := c.rooms[roomID]
		if m == nil && !r.Initial {
			t.Errorf("%s: room %s is not initial, and the client does not have it: %s", c.name, roomID, a.raw)
		}
		if m == nil || r.Initial {
			m = &modelRoom{state: state{}}
			c.rooms[roomID] = m
		}
		for _, e := range r.State {
			m.state[pdu.StateKey{Type: e.Type, Key: *e.StateKey}] = e.EventID
		}
		expanded := r.Expanded || r.ExpandedV4
		if !expanded && !r.Initial {
			for _, e := range r.Timeline {
				if slices.Contains(m.timeline, e.EventID) {
					t.Errorf("%s: event %s comes twice: %s", c.name, e.EventID, a.raw)
				}
			}
		}
		if expanded || r.Initial || r.Limited {
			m.timeline = nil
		}
		for _, e := range r.Timeline {
			m.timeline = append(m.timeline, e.EventID)
			if !c.messages[e.EventID] && e.Type == "m.room.message" {
				t.Errorf("%s: an unknown message: %s", c.name, a.raw)
			}
		}
		if c.limit == 0 && len(r.Timeline) > 0 {
			t.Errorf("%s: a timeline that was not asked for: %s", c.name, a.raw)
		}
	}
}

// visible returns the newest events of a room that the client's user may see, oldest first.
func (c *slidingModel) visible(room id.RoomID) (ids []id.EventID) {
	c.w.t.Helper()
	page, err := c.w.history.Messages(c.w.t.Context(), room, c.Requester, history.PageRequest{Backwards: true, Limit: 60})
	if err != nil {
		return nil
	}
	for _, raw := range slices.Backward(page.Chunk) {
		var e ev
		c.must(json.Unmarshal(raw, &e))
		ids = append(ids, e.EventID)
	}
	return ids
}

// check compares what the client has with what it should have, of the rooms in its ranges.
func (c *slidingModel) check(among []id.RoomID, a slid) {
	t := c.w.t
	t.Helper()
	for _, roomID := range among {
		if !c.all && !slices.Contains(c.subs, roomID) {
			continue
		}
		room, err := c.w.Room(t.Context(), roomID)
		c.must(err)
		m := c.rooms[roomID]
		if room.Membership(c.UserID) != rooms.Join {
			own := pdu.StateKey{Type: "m.room.member", Key: string(c.UserID)}
			now := c.w.stateOf(roomID)[own]
			if m != nil && m.state[own] != "" && now != "" && room.Membership(c.UserID) != rooms.Invite && room.Membership(c.UserID) != rooms.Knock && m.state[own] != now {
				t.Errorf("%s: room %s: the user's membership is %s, want %s\n%s", c.name, roomID, m.state[own], now, a.raw)
			}
			continue
		}
		if m == nil {
			t.Errorf("%s lacks room %s\n%s\n%s", c.name, roomID, c.body, a.raw)
			continue
		}
		for key, event := range c.w.stateOf(roomID) {
			if modelStates[c.required].selects(key, c.UserID) && m.state[key] != event {
				t.Errorf("%s: room %s: %v is %q, want %q\n%s\n%s", c.name, roomID, key, m.state[key], event, c.body, a.raw)
			}
		}
		c.checkTimeline(roomID, m, a)
	}
}

// checkTimeline compares the end of a timeline with the room's.
func (c *slidingModel) checkTimeline(roomID id.RoomID, m *modelRoom, a slid) {
	if c.limit == 0 {
		return
	}
	t, want := c.w.t, c.visible(roomID)
	t.Helper()
	has := slices.DeleteFunc(slices.Clone(m.timeline), func(e id.EventID) bool { return !slices.Contains(want, e) })
	if len(has) > len(want) || !slices.Equal(has, want[len(want)-len(has):]) {
		t.Errorf("%s: room %s: timeline %v, want the end of %v\n%s\n%s", c.name, roomID, has, want, c.body, a.raw)
	}
	if len(has) < min(c.limit, len(want)) {
		t.Errorf("%s: room %s: %d events, want %d of %d\n%s\n%s", c.name, roomID, len(has), c.limit, len(want), c.body, a.raw)
	}
}

// slidingTown is a number of rooms whose users act at random, and clients that follow them.
type slidingTown struct {
	w       *world
	rng     *rand.Rand
	rooms   []id.RoomID
	people  []*user
	clients []*slidingModel
	count   int
	said    map[id.EventID]bool
}

// act does one random thing, which the auth rules may reject.
func (h *slidingTown) act() {
	ctx := h.w.t.Context()
	actor, target := h.people[h.rng.IntN(len(h.people))], h.people[h.rng.IntN(len(h.people))]
	room := h.rooms[h.rng.IntN(len(h.rooms))]
	h.count++
	send := func(typ, key, content string) {
		_, _ = h.w.Send(ctx, rooms.NewEvent{Room: room, Sender: actor.Requester, Type: typ, StateKey: &key, Content: []byte(content)})
	}
	switch h.rng.IntN(14) {
	case 0, 1, 2, 3:
		for range 1 + h.rng.IntN(3)*h.rng.IntN(8) {
			e, err := h.w.Send(ctx, rooms.NewEvent{Room: room, Sender: actor.Requester, Type: "m.room.message", Content: []byte(`{"body":"x","msgtype":"m.text"}`)})
			if err == nil {
				h.said[e] = true
			}
		}
	case 4:
		send("m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, h.count))
	case 5:
		send("m.room.name", "", fmt.Sprintf(`{"name":"%d"}`, h.count))
	case 6:
		send("x.k", fmt.Sprint(h.rng.IntN(3)), fmt.Sprintf(`{"n":%d}`, h.count))
	case 7:
		send("m.room.member", string(actor.UserID), fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, h.count))
	case 8:
		_ = h.w.Invite(ctx, actor.Requester, room, target.UserID, "")
	case 9, 10:
		_ = h.w.Join(ctx, target.Requester, room, "")
	case 11:
		_ = h.w.Leave(ctx, actor.Requester, room, "")
	case 12:
		_ = h.w.Ban(ctx, actor.Requester, room, target.UserID, "")
		if h.rng.IntN(2) == 0 {
			_ = h.w.Unban(ctx, actor.Requester, room, target.UserID, "")
		}
	case 13:
		_ = h.w.Kick(ctx, actor.Requester, room, target.UserID, "")
	}
}

// step lets one thing happen, and some clients look.
func (h *slidingTown) step() {
	if h.act(); h.rng.IntN(3) > 0 {
		return
	}
	c := h.clients[h.rng.IntN(len(h.clients))]
	if h.rng.IntN(3) == 0 {
		c.ask(h.rng, h.rooms)
	}
	if h.rng.IntN(60) == 0 { // the client starts again
		c.pos, c.rooms = "", map[id.RoomID]*modelRoom{}
	}
	for h.rng.IntN(4) == 0 { // an answer that is lost
		c.again()
		if h.rng.IntN(2) == 0 {
			c.ask(h.rng, h.rooms)
		}
		if h.rng.IntN(2) == 0 {
			h.act()
		}
	}
	a := c.next()
	c.apply(a)
	c.check(h.rooms, a)
}

// TestSlidingClientHasTheCurrentStateAndEveryEventOnce lets rooms go through what rooms go through, and compares what
// clients of both forms make of the answers with the rooms, whatever they ask for, and however many answers are lost.
func TestSlidingClientHasTheCurrentStateAndEveryEventOnce(t *testing.T) {
	worlds := 8
	if testing.Short() {
		worlds = 2
	}
	for seed := range uint64(worlds) {
		w := newWorld(t)
		h := &slidingTown{w: w, rng: rand.New(rand.NewPCG(seed, 33)), said: map[id.EventID]bool{}}
		h.people = []*user{w.user("alice"), w.user("bob"), w.user("carol")}
		for range 5 {
			room := h.people[0].create("public_chat")
			h.people[0].send(room, "m.room.power_levels", `{"users":{"@bob:`+server+`":100},"state_default":0,"users_default":0,"events":{"m.room.power_levels":100}}`, "")
			h.rooms = append(h.rooms, room)
		}
		for i, u := range []*user{h.people[1], h.people[1], h.people[2], h.people[2]} {
			c := &slidingModel{sliding: u.sliding(""), name: fmt.Sprintf("%s%d", u.UserID, i), rooms: map[id.RoomID]*modelRoom{}, messages: h.said}
			c.merged = i%2 == 1
			c.ask(h.rng, h.rooms)
			h.clients = append(h.clients, c)
		}
		for range 300 {
			h.step()
			if h.rng.IntN(60) == 0 {
				w.restart()
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	}
}

// TestSlidingNeverShowsExpiredMessages is the same with messages that expire while clients are away.
func TestSlidingNeverShowsExpiredMessages(t *testing.T) {
	w := newWorld(t)
	rng := rand.New(rand.NewPCG(1, 2))
	alice, bob := w.user("alice"), w.user("bob")
	room, other := alice.create("public_chat"), alice.create("public_chat")
	alice.send(room, "m.room.retention", `{"max_lifetime":86400000}`, "")
	bob.join(room)
	bob.join(other)
	var clients []*slidingModel
	for i := range 3 {
		c := &slidingModel{sliding: bob.sliding(""), name: fmt.Sprint(i)}
		c.merged = i == 1
		clients = append(clients, c)
	}
	born := map[string]time.Time{}
	for n := range 150 {
		text := fmt.Sprintf("body-%d-end", n)
		alice.say(room, text)
		born[text] = w.clock()
		alice.say(other, "x")
		w.pass(time.Duration(rng.IntN(4)) * time.Hour)
		c := clients[rng.IntN(len(clients))]
		c.ask(rng, []id.RoomID{room, other})
		a := c.again()
		for text, at := range born {
			if w.clock().Sub(at) > 24*time.Hour && strings.Contains(a.raw, text) {
				t.Fatalf("%s has expired: %s", text, a.raw)
			}
		}
		if rng.IntN(2) == 0 {
			c.pos = a.Pos
		}
	}
}
