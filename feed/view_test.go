package feed_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/feed"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// state maps each entry of a room's state to its event.
type state map[pdu.StateKey]id.EventID

// stateOf returns the current state of a room.
func (w *world) stateOf(room id.RoomID) state {
	w.t.Helper()
	r, err := w.Room(w.t.Context(), room)
	if err != nil {
		w.t.Fatal(err)
	}
	keys := map[storage.Pos]pdu.StateKey{}
	r.EachState(func(key pdu.StateKey, pos, _ storage.Pos, _ *rooms.Event) bool {
		keys[pos] = key
		return true
	})
	s := state{}
	err = w.db.Read(w.t.Context(), func(tx *storage.Tx) error {
		rows, err := tx.EventsAt(slices.Collect(maps.Keys(keys)))
		for _, row := range rows {
			s[keys[row.Position]] = id.EventID(row.EventID)
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// applied returns the state that a client has after an entry of /sync: state and timeline, or state_after alone.
func (j joined) applied(before state) state {
	s := maps.Clone(before)
	if s == nil {
		s = state{}
	}
	lists := []*list{j.State, j.StateAfter, j.UnstableAfter}
	if j.State != nil {
		lists = append(lists, &j.Timeline.list)
	}
	for _, l := range lists {
		if l == nil {
			continue
		}
		for _, e := range l.Events {
			if e.StateKey != nil {
				s[pdu.StateKey{Type: e.Type, Key: *e.StateKey}] = e.EventID
			}
		}
	}
	return s
}

// reader is a client with its request parameters and the state of the room as the client knows it.
type reader struct {
	*user
	name     string
	filter   string // without the limit
	after    bool
	lazy     bool
	limits   []int
	has      state
	expected state // of a room that was left
}

// check syncs and compares the client's state with the room's.
func (c *reader) check(rng *rand.Rand, room id.RoomID) {
	t := c.w.t
	t.Helper()
	limit := c.limits[rng.IntN(len(c.limits))]
	full := rng.IntN(12) == 0
	since := c.since
	a := c.sync(filter(fmt.Sprintf(c.filter, limit)), func(q *feed.SyncRequest) { q.StateAfter, q.FullState = c.after, full })
	j, isJoined := a.Rooms.Join[room]
	l, isLeft := a.Rooms.Leave[room]
	var want state
	switch {
	case isJoined:
		c.has, want = j.applied(c.has), c.w.stateOf(room)
	case isLeft:
		c.has, want = l.applied(c.has), c.expected
	default:
		if since == "" || len(a.Rooms.Invite)+len(a.Rooms.Knock) > 0 { // what was before is not told any more
			c.forget()
		}
		return
	}
	for key, event := range want {
		got, known := c.has[key]
		if got != event && (known || !c.lazy || key.Type != "m.room.member") {
			t.Errorf("%s since %q, limit %d, full %v: %v is %q, want %q\n%s", c.name, since, limit, full, key, got, event, a.raw)
		}
	}
	if c.lazy {
		for _, e := range j.Timeline.Events {
			if key := (pdu.StateKey{Type: "m.room.member", Key: string(e.Sender)}); want[key] != c.has[key] {
				t.Errorf("%s since %q: the sender %s is %q, want %q\n%s", c.name, since, e.Sender, c.has[key], want[key], a.raw)
			}
		}
	}
	if isLeft && c.lazy { // as clients do
		c.forget()
	}
}

// forget makes the client forget the room's state. If its user is not in the room, it gets only the user's own
// membership.
func (c *reader) forget() {
	own := pdu.StateKey{Type: "m.room.member", Key: string(c.UserID)}
	if c.has = nil; c.expected != nil {
		c.expected = state{own: c.expected[own]}
	}
}

// readers returns clients of one user each, one for each combination of request parameters.
func (w *world) readers(name string) (out []*reader) {
	for _, f := range []struct {
		name, filter string
		limits       []int
	}{
		{"plain", `{"room":{"timeline":{"limit":%d}}}`, []int{0, 1, 2, 3, 10, 100}},
		{"without members in the timeline", `{"room":{"timeline":{"limit":%d,"not_types":["m.room.member"]}}}`, []int{1, 10}},
		{"messages in the timeline", `{"room":{"timeline":{"limit":%d,"types":["m.room.message"]}}}`, []int{1, 10}},
		{"lazy", `{"room":{"timeline":{"limit":%d},"state":{"lazy_load_members":true}}}`, []int{1, 3, 10}},
		{"lazy and redundant", `{"room":{"timeline":{"limit":%d},"state":{"lazy_load_members":true,"include_redundant_members":true}}}`, []int{3}},
	} {
		for _, after := range []bool{false, true} {
			if after {
				f.name += ", state_after"
			}
			u := *w.user(name)
			out = append(out, &reader{user: &u, name: name + " " + f.name, filter: f.filter, limits: f.limits, after: after, lazy: strings.HasPrefix(f.name, "lazy")})
		}
	}
	return out
}

// house is a room whose users act at random.
type house struct {
	w       *world
	rng     *rand.Rand
	room    id.RoomID
	people  []*user
	readers []*reader
	count   int
}

// act does one random thing, which the auth rules may reject.
func (h *house) act() {
	ctx := h.w.t.Context()
	actor, target := h.people[h.rng.IntN(len(h.people))], h.people[h.rng.IntN(len(h.people))]
	h.count++
	send := func(typ, key, content string) {
		_, _ = h.w.Send(ctx, rooms.NewEvent{Room: h.room, Sender: actor.Requester, Type: typ, StateKey: &key, Content: []byte(content)})
	}
	what := h.rng.IntN(15)
	switch what {
	case 0, 1, 2:
		for range 1 + h.rng.IntN(3)*h.rng.IntN(40) {
			_, _ = h.w.Send(ctx, rooms.NewEvent{Room: h.room, Sender: actor.Requester, Type: "m.room.message", Content: []byte(`{"body":"x","msgtype":"m.text"}`)})
		}
	case 3:
		send("m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, h.count))
	case 4:
		send("m.room.encryption", "", fmt.Sprintf(`{"algorithm":"m.megolm.v1.aes-sha2","n":%d}`, h.count))
	case 5:
		send("m.room.history_visibility", "", fmt.Sprintf(`{"history_visibility":%q}`, []string{"joined", "invited", "shared", "world_readable"}[h.rng.IntN(4)]))
	case 6:
		send("m.room.join_rules", "", fmt.Sprintf(`{"join_rule":%q}`, []string{"public", "knock"}[h.rng.IntN(2)]))
	case 7:
		send("m.room.member", string(actor.UserID), fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, h.count))
	case 8:
		_ = h.w.Invite(ctx, actor.Requester, h.room, target.UserID, "")
	case 9, 10:
		_ = h.w.Join(ctx, target.Requester, h.room, "")
	case 11:
		_ = h.w.Leave(ctx, actor.Requester, h.room, "")
	case 12:
		_ = h.w.Knock(ctx, target.Requester, h.room, nil, "")
	case 13:
		_ = h.w.Ban(ctx, actor.Requester, h.room, target.UserID, "")
	case 14:
		if h.rng.IntN(2) == 0 {
			_ = h.w.Kick(ctx, actor.Requester, h.room, target.UserID, "")
			return
		}
		_ = h.w.Unban(ctx, actor.Requester, h.room, target.UserID, "")
	}
}

// step lets one thing happen. For users who left it notes the state of the room at that moment.
func (h *house) step() {
	was := map[id.UserID]rooms.Membership{}
	room, err := h.w.Room(h.w.t.Context(), h.room)
	if err != nil {
		h.w.t.Fatal(err)
	}
	for _, c := range h.readers {
		was[c.UserID] = room.Membership(c.UserID)
	}
	h.act()
	now := h.w.stateOf(h.room)
	for _, c := range h.readers {
		own := pdu.StateKey{Type: "m.room.member", Key: string(c.UserID)}
		switch is := room.Membership(c.UserID); {
		case was[c.UserID] == rooms.Join && is != rooms.Join:
			c.expected = now
		case is != rooms.Join && c.expected != nil && now[own] != c.expected[own]:
			c.expected = maps.Clone(c.expected)
			c.expected[own] = now[own]
		}
	}
	for _, c := range h.readers {
		if h.rng.IntN(6) == 0 {
			c.check(h.rng, h.room)
		}
	}
}

// TestClientHasTheCurrentStateAfterEverySync lets a room go through what rooms go through, and compares the state that
// clients make of the answers with the room's, whatever the history visibility, the filter and the gaps.
func TestClientHasTheCurrentStateAfterEverySync(t *testing.T) {
	worlds := 8
	if testing.Short() {
		worlds = 2
	}
	for seed := range uint64(worlds) {
		w := newWorld(t)
		h := &house{w: w, rng: rand.New(rand.NewPCG(seed, 8))}
		h.people = []*user{w.user("alice"), w.user("bob"), w.user("carol"), w.user("dora")}
		h.room = h.people[0].create("public_chat")
		for _, name := range []string{"bob", "carol"} {
			h.readers = append(h.readers, w.readers(name)...)
		}
		h.people[0].send(h.room, "m.room.power_levels", `{"users":{"@bob:`+server+`":100},"state_default":0,"users_default":0,"events":{"m.room.power_levels":100}}`, "")
		for range 150 {
			h.step()
			if h.rng.IntN(40) == 0 {
				w.restart()
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	}
}

func TestJoinShowsTheStateThatHistoryVisibilityHides(t *testing.T) {
	for _, history := range []string{"joined", "invited"} {
		w := newWorld(t)
		alice, bob := w.user("alice"), w.user("bob")
		room := alice.create("public_chat")
		alice.send(room, "m.room.history_visibility", `{"history_visibility":"world_readable"}`, "")
		alice.send(room, "m.room.topic", `{"topic":"for everybody"}`, "")
		alice.send(room, "m.room.history_visibility", fmt.Sprintf(`{"history_visibility":%q}`, history), "")
		alice.send(room, "m.room.topic", `{"topic":"hidden"}`, "")
		alice.send(room, "m.room.encryption", `{"algorithm":"m.megolm.v1.aes-sha2"}`, "")
		alice.say(room, "secret")
		old := bob.sync().NextBatch
		bob.join(room)
		for _, since := range []string{"", old} {
			a := bob.syncFrom(since)
			j := a.Rooms.Join[room]
			same(t, history+", types of state", intersect(j.State.types(), "m.room.encryption", "m.room.topic"), []string{"m.room.encryption", "m.room.topic"})
			same(t, history+", topic", j.State.of("m.room.topic"), []string{"hidden"})
			same(t, history+", timeline", j.Timeline.of("m.room.member"), []string{"@bob join"})
			if strings.Contains(a.raw, "secret") || !j.Timeline.Limited {
				t.Errorf("%s: want a limited timeline without what is hidden: %s", history, a.raw)
			}
		}
	}
}

// intersect returns the wanted strings that are in the list.
func intersect(list []string, wanted ...string) []string {
	return slices.DeleteFunc(wanted, func(s string) bool { return !slices.Contains(list, s) })
}

func TestRoomJoinedAndLeftBetweenTwoSyncsHasItsState(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	alice.send(room, "m.room.name", `{"name":"Ebb"}`, "")
	for i := range 12 {
		alice.say(room, fmt.Sprint(i))
	}
	bob.sync()
	bob.join(room)
	bob.leave(room)
	alice.send(room, "m.room.name", `{"name":"later"}`, "")
	l := bob.sync().Rooms.Leave[room]
	same(t, "name", l.State.of("m.room.name"), []string{"Ebb"})
	if !slices.Contains(l.State.types(), "m.room.create") || !l.Timeline.Limited {
		t.Errorf("want the whole state and a gap before the timeline: %+v", l)
	}
}

func TestBanAfterAKickDoesNotHideWhatCameBeforeTheKick(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	bob.join(room)
	bob.sync()
	since := bob.since
	alice.say(room, "before")
	alice.send(room, "m.room.topic", `{"topic":"before"}`, "")
	alice.must(w.Kick(t.Context(), alice.Requester, room, bob.UserID, ""))
	alice.say(room, "after")
	alice.ban(room, bob)
	l := bob.sync().Rooms.Leave[room]
	same(t, "messages", l.Timeline.of("m.room.message"), []string{"before"})
	same(t, "topic", l.Timeline.of("m.room.topic"), []string{"before"})
	same(t, "the user's own", l.Timeline.of("m.room.member"), []string{"@bob leave", "@bob ban"})
	after := bob.syncFrom(since, stateAfter).Rooms.Leave[room].StateAfter
	same(t, "state after", append(after.of("m.room.topic"), after.of("m.room.member")...), []string{"before", "@bob ban"})
}

func TestRejectedInviteIsInStateAfter(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("private_chat")
	bob.sync()
	alice.invite(room, bob)
	bob.leave(room)
	l := bob.sync(stateAfter).Rooms.Leave[room]
	same(t, "state after", l.StateAfter.of("m.room.member"), []string{"@bob leave"})
	if len(l.StateAfter.Events) != 1 {
		t.Errorf("the room's state is shown: %v", l.StateAfter.types())
	}
}
