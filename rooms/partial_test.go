package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// early is a room of server a with members on server b and on the stranger evil. dora of server d joins it before
// server d knows the members.
type early struct {
	*network
	a, b, d          *peer
	evil             *stranger
	alice, bob, dora ident.Requester
	mallory, trudy   id.UserID // users of evil; trudy has a high power level and has left the room
	trudysJoin       *pdu.Event
	room             id.RoomID
}

func newEarly(t *testing.T) *early {
	n := newNetwork(t)
	n.omit = true
	e := &early{network: n, a: n.add("a"), b: n.add("b"), d: n.add("d")}
	e.evil = n.stranger("evil", e.a)
	e.alice, e.bob, e.dora = e.a.user("alice"), e.b.user("bob"), e.d.user("dora")
	e.mallory, e.trudy = e.evil.user("mallory"), e.evil.user("trudy")
	levels := json.RawMessage(`{"users":{"@trudy:evil":100,"@mallory:evil":50,"@alice:a":100},"state_default":50}`)
	e.room = e.a.create(e.alice, CreateRoom{Name: "early", Preset: "public_chat", RoomVersion: id.RoomV11, PowerLevelOverride: levels})
	e.b.joinVia(e.bob, e.room, "a")
	e.b.complete(e.room)
	e.evil.join(e.room, e.mallory)
	e.trudysJoin = e.evil.join(e.room, e.trudy)
	e.evil.sendGood(e.room, e.membership(e.trudy, e.trudy, Leave))
	n.deliver()
	return e
}

// membership creates a member event of evil. Its auth events are those of the room, unless auth lists others.
func (e *early) membership(sender, user id.UserID, m Membership, auth ...id.EventID) *pdu.Event {
	key := string(user)
	return e.evil.make(e.room, pdu.Proto{
		Type: typeMember, StateKey: &key, Sender: sender, Content: json.RawMessage(`{"membership":"` + m + `","reason":"because"}`), AuthEvents: auth,
	})
}

// join joins dora to the room through a.
func (e *early) join() {
	e.Helper()
	e.d.joinVia(e.dora, e.room, "a")
	if !e.d.room(e.room).Partial() {
		e.Fatal("the room is whole at once")
	}
	e.deliver()
}

// same checks that d has the same state as a.
func (e *early) same() {
	e.Helper()
	mine, theirs := stateIDs(e.d.house, e.room), stateIDs(e.a.house, e.room)
	for key, want := range theirs {
		if mine[key] != want {
			e.Errorf("%v is %q, want %q", key, mine[key], want)
		}
	}
	if len(mine) != len(theirs) {
		e.Errorf("d has %d entries of state, a has %d", len(mine), len(theirs))
	}
	e.d.matchesDisk(e.room)
}

// soon returns a context with a deadline. Operations that must not wait succeed before it, and those that must wait do
// not.
func (e *early) soon() context.Context {
	ctx, cancel := context.WithTimeout(e.Context(), 50*time.Millisecond)
	e.Cleanup(cancel)
	return ctx
}

func TestRoomIsJoinedBeforeItsMembersAreKnown(t *testing.T) {
	e := newEarly(t)
	e.join()
	r := e.d.room(e.room)
	if r.MemberOf(e.bob.UserID) != nil || !r.HasServer("b") || !r.HasServer("evil") || !r.HasServer("a") || r.Count(Join) != 1 {
		t.Fatalf("before the room is complete, d has bob's member event %v, %d joined members and the servers %q; want none, 1 and a, b and evil", r.MemberOf(e.bob.UserID), r.Count(Join), r.OtherServers())
	}
	said := e.d.say(e.dora, e.room, "hello, whoever you are")
	e.deliver()
	for _, p := range []*peer{e.a, e.b} {
		if got := p.stored(e.room, said); got == nil || got.Hidden() {
			t.Errorf("%s did not accept the message: %v", p.name, got)
		}
	}
	answered := e.b.say(e.bob, e.room, "hello, I am bob")
	e.deliver()
	if got := e.d.stored(e.room, answered); got == nil || got.Hidden() {
		t.Errorf("d did not accept bob's message: %v", got)
	}
	if r.Membership(e.bob.UserID) != Join {
		t.Errorf("after bob's message bob's membership is %q, want join", r.Membership(e.bob.UserID))
	}
	e.d.complete(e.room)
	if r := e.d.room(e.room); r.Completed() == 0 || r.Membership(e.mallory) != Join || r.Membership(e.trudy) != Leave || r.Count(Join) != 4 || r.HasServer("x") {
		t.Errorf("in the complete room mallory is %q, trudy %q, and %d users are joined; want join, leave and 4", r.Membership(e.mallory), r.Membership(e.trudy), r.Count(Join))
	}
	e.same()
}

func TestOperationsThatNeedAllMembersWaitForThem(t *testing.T) {
	e := newEarly(t)
	e.join()
	s, r := e.d.svc, e.d.reads()
	other := e.d.user("other")
	key := "@mallory:evil"
	for what, ask := range map[string]func(ctx context.Context, who ident.Requester) error{
		"members": func(ctx context.Context, who ident.Requester) error {
			_, err := r.GetMembers(ctx, e.room, who)
			return err
		},
		"joined members": func(ctx context.Context, who ident.Requester) error {
			_, err := r.JoinedMembers(ctx, e.room, who)
			return err
		},
		"state": func(ctx context.Context, who ident.Requester) error {
			_, err := r.RoomState(ctx, e.room, who)
			return err
		},
		"an unknown member": func(ctx context.Context, who ident.Requester) error {
			_, err := r.StateEvent(ctx, e.room, typeMember, key, who)
			return err
		},
		"kick": func(ctx context.Context, who ident.Requester) error { return s.Kick(ctx, who, e.room, e.mallory, "") },
		"invite": func(ctx context.Context, who ident.Requester) error {
			return s.Invite(ctx, who, e.room, "@bob:b", "")
		},
		"ban as state": func(ctx context.Context, who ident.Requester) error {
			_, err := s.Send(ctx, NewEvent{Room: e.room, Sender: who, Type: typeMember, StateKey: &key, Content: json.RawMessage(`{"membership":"ban"}`)})
			return err
		},
		"upgrade": func(ctx context.Context, who ident.Requester) error {
			_, err := s.Upgrade(ctx, who, e.room, id.RoomV12, nil)
			return err
		},
	} {
		if err := ask(e.soon(), e.dora); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %v; want it to wait until the members are known", what, err)
		}
		if err := ask(e.Context(), other); mxerr.Code(err) != mxerr.CodeForbidden {
			t.Errorf("%s, by a user outside the room: got %v, want M_FORBIDDEN", what, err)
		}
	}
	for what, ask := range map[string]func() error{
		"a known member": func() error {
			_, err := r.StateEvent(e.soon(), e.room, typeMember, string(e.dora.UserID), e.dora)
			return err
		},
		"the rules": func() error {
			_, err := r.StateEvent(e.soon(), e.room, typeJoinRules, "", e.dora)
			return err
		},
	} {
		if err := ask(); err != nil {
			t.Errorf("%s: got %v; want it not to wait for the members", what, err)
		}
	}
	waiting := make(chan error)
	var members []json.RawMessage
	go func() {
		got, err := r.GetMembers(e.Context(), e.room, e.dora)
		members = got
		waiting <- err
	}()
	e.d.complete(e.room)
	if err := <-waiting; err != nil || len(members) != 5 {
		t.Errorf("got %d members (%v), want 5", len(members), err)
	}
}

func TestPartialRoomServesNoJoinsOrState(t *testing.T) {
	e := newEarly(t)
	e.join()
	newcomer := e.evil.user("newcomer")
	for _, m := range []Membership{Join, Knock, Leave} {
		_, err := e.d.svc.Template(t.Context(), "evil", e.room, newcomer, m, pdu.Versions())
		e.d.refused(err, mxerr.CodeNotFound)
	}
	join := e.membership(newcomer, newcomer, Join)
	_, err := e.d.svc.AcceptJoin(t.Context(), Handshake{Origin: "evil", Room: e.room, Event: join.ID(), PDU: join.JSON()})
	e.d.refused(err, mxerr.CodeNotFound)
	_, _, err = e.d.reads().StateForServer(t.Context(), "a", e.room, e.d.room(e.room).extremityIDs()[0])
	e.d.refused(err, mxerr.CodeForbidden)
	e.d.complete(e.room)
	if _, _, err = e.d.reads().StateForServer(t.Context(), "a", e.room, e.d.room(e.room).extremityIDs()[0]); err != nil {
		t.Error(err)
	}
}

// Events that were accepted without knowing the members, and events that depend on them, are judged again when the
// members are known.
func TestEventsAreJudgedAgainWhenTheMembersAreKnown(t *testing.T) {
	e := newEarly(t)
	e.join()
	d := e.d.room(e.room)
	e.evil.victim = e.d // the recipient of the lies
	cited := func(types ...string) []id.EventID { return append(authOf(d, types...), e.trudysJoin.ID()) }
	say := func(user id.UserID, text string, auth ...id.EventID) *pdu.Event {
		return e.evil.make(e.room, pdu.Proto{Type: "m.room.message", Sender: user, Content: json.RawMessage(`{"body":"` + text + `"}`), AuthEvents: auth})
	}
	malloryJoin := e.a.room(e.room).State(typeMember, string(e.mallory))

	// trudy, who has left, kicks mallory as if she were still in the room. Server d cannot see that.
	kick := e.membership(e.trudy, e.mallory, Leave, append(cited(typeCreate, typePowerLevels), malloryJoin.ID())...)
	e.evil.sendGood(e.room, kick)
	if d.Membership(e.mallory) != Leave {
		t.Fatalf("mallory's membership is %q, want leave: the test proves nothing", d.Membership(e.mallory))
	}
	gossip := say(e.trudy, "I am still here", cited(typeCreate, typePowerLevels)...)
	e.evil.sendGood(e.room, gossip)
	// Therefore mallory's messages seem forbidden to d, although they are allowed.
	protest := say(e.mallory, "so am I", append(authOf(d, typeCreate, typePowerLevels), malloryJoin.ID())...)
	for _, err := range e.evil.send(e.room, protest) {
		if !IsVerdict(err) {
			t.Fatalf("mallory's event got %v, want a rejection: the test proves nothing", err)
		}
	}
	title := "x"
	topic := e.evil.make(e.room, pdu.Proto{Type: "m.room.topic", StateKey: &title, Sender: e.mallory, AuthEvents: protest.AuthEvents(), PrevEvents: []id.EventID{gossip.ID()}})
	e.evil.send(e.room, topic)
	before := e.d.room(e.room).Last()
	e.d.complete(e.room)

	flags := func(ev *pdu.Event) storage.EventFlags { return e.d.stored(e.room, ev.ID()).Flags & storage.HiddenEvent }
	if flags(kick) != storage.RejectedEvent || flags(gossip) != storage.RejectedEvent || flags(protest) != 0 || flags(topic) != 0 {
		t.Errorf("the flags are %d (kick), %d (gossip), %d (protest) and %d (topic); want the first two rejected and the others accepted", flags(kick), flags(gossip), flags(protest), flags(topic))
	}
	d = e.d.room(e.room)
	if d.Membership(e.mallory) != Join || d.State("m.room.topic", "x") == nil {
		t.Errorf("mallory's membership is %q and the topic %v; want join and a topic", d.Membership(e.mallory), d.State("m.room.topic", "x"))
	}
	var shown []id.EventID
	for _, ev := range e.d.timeline(e.room) {
		shown = append(shown, ev.ID())
	}
	if slices.Contains(shown, kick.ID()) || slices.Contains(shown, gossip.ID()) || !slices.Contains(shown, protest.ID()) || !slices.Contains(shown, topic.ID()) {
		t.Errorf("the timeline is %q; want the protest and the topic, but not the kick and the gossip", shown)
	}
	if strings.Contains(string(e.d.stored(e.room, gossip.ID()).JSON()), "still here") || strings.Contains(string(e.d.stored(e.room, kick.ID()).JSON()), "because") {
		t.Error("the content of trudy's rejected events is kept")
	}
	if !strings.Contains(string(e.d.stored(e.room, protest.ID()).JSON()), "so am I") {
		t.Error("the content of mallory's accepted event is lost")
	}
	news, whole := d.Recent(before)
	if !whole || len(news) != 2 {
		t.Errorf("a client that waits gets %d events (complete: %v), want 2", len(news), whole)
	}
	for _, h := range d.extremityIDs() {
		if h == kick.ID() || h == gossip.ID() {
			t.Error("a rejected event is a forward extremity")
		}
	}
	e.d.matchesDisk(e.room)
	e.d.svc = e.d.open()
	e.d.matchesDisk(e.room)
}

// A redaction can arrive while its target is rejected only because the members are not known. When the target is
// accepted after all, its content must not be shown.
func TestRedactionOfAnEventThatIsAcceptedLaterTakesEffectThen(t *testing.T) {
	e := newEarly(t)
	e.join()
	d := e.d.room(e.room)
	malloryJoin := e.a.room(e.room).State(typeMember, string(e.mallory))
	e.evil.victim = e.d // the recipient of the lies
	kick := e.membership(e.trudy, e.mallory, Leave, append(authOf(d, typeCreate, typePowerLevels), e.trudysJoin.ID(), malloryJoin.ID())...)
	e.evil.sendGood(e.room, kick)
	protest := e.evil.make(e.room, pdu.Proto{
		Type: "m.room.message", Sender: e.mallory, Content: json.RawMessage(`{"body":"never mind"}`), AuthEvents: append(authOf(d, typeCreate, typePowerLevels), malloryJoin.ID()),
	})
	for _, err := range e.evil.send(e.room, protest) {
		if !IsVerdict(err) {
			t.Fatalf("mallory's event got %v, want a rejection: the test proves nothing", err)
		}
	}
	e.evil.victim = e.a // which knows that trudy has left
	e.evil.send(e.room, kick)
	e.evil.sendGood(e.room, protest)
	redaction, err := e.a.svc.Send(t.Context(), NewEvent{Room: e.room, Sender: e.alice, Type: typeRedaction, Redacts: protest.ID(), Content: json.RawMessage(`{}`)})
	e.a.ok(err)
	e.deliver()
	if e.d.stored(e.room, redaction) == nil || e.d.sees(e.room, redaction) {
		t.Fatal("the redaction did not arrive, or is shown although its target is rejected")
	}
	e.d.complete(e.room)
	if got := e.d.stored(e.room, protest.ID()); got.Flags&storage.HiddenEvent != 0 || strings.Contains(string(got.JSON()), "never mind") {
		t.Errorf("the redacted event has the flags %d and is %s", got.Flags, got.JSON())
	}
	if !e.d.sees(e.room, redaction) {
		t.Error("clients do not get the redaction")
	}
	e.d.matchesDisk(e.room)
}

func TestPartialRoomIsCompletedAfterARestart(t *testing.T) {
	e := newEarly(t)
	e.join()
	e.d.say(e.dora, e.room, "before")
	e.d.svc = e.d.open()
	if r := e.d.room(e.room); !r.Partial() || !r.HasServer("evil") {
		t.Fatal("after the restart the room does not have partial state, or lacks the servers of the join response")
	}
	e.d.say(e.dora, e.room, "after")
	e.deliver()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- e.d.svc.CompleteRooms(ctx) }()
	if err := e.d.svc.AwaitFullState(t.Context(), e.room); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	e.same()
}

func TestOtherServersAreAskedForTheMembers(t *testing.T) {
	e := newEarly(t)
	e.join()
	e.split([]string{"a"}, []string{"b", "d", "evil"})
	e.d.complete(e.room)
	e.split()
	e.same()
}

// Another server in the room can supply the members, but not the rules of the room.
func TestAnotherServerCannotSupplyTheRulesOfARoom(t *testing.T) {
	e := newEarly(t)
	e.join()
	state := func(id.EventID) (state, chain []*Event, err error) {
		return e.a.reads().StateForServer(t.Context(), "evil", e.room, e.d.joinOf(e.room, e.dora).PrevEvents()[0])
	}
	less := func(events []*Event) []*Event {
		return slices.DeleteFunc(events, func(ev *Event) bool { return ev.Type() == typePowerLevels })
	}
	e.evil.stateIDs = func(at id.EventID) (_, _ []id.EventID, err error) {
		entries, chain, err := state(at)
		return idsOf(less(entries)), idsOf(chain), err
	}
	e.evil.state = func(at id.EventID) (_, _ []json.RawMessage, err error) {
		entries, chain, err := state(at)
		return jsonOf(less(entries)), jsonOf(chain), err
	}
	e.split([]string{"a", "b"}, []string{"d", "evil"})
	if c := (completer{server: "evil", slots: make(chan struct{}, 1)}); !errors.Is(e.d.svc.completeThrough(t.Context(), e.d.room(e.room), c), errNotAll) {
		t.Error("a state of which parts are missing is accepted as the full state")
	}
	err := e.d.svc.completeOnce(t.Context(), e.d.room(e.room).nid, make(chan struct{}, 1))
	if !e.d.room(e.room).Partial() {
		t.Fatalf("the room got full state from evil, which must not determine the rules (%v)", err)
	}
	less = func(events []*Event) []*Event { return events }
	for _, ev := range e.a.timeline(e.room) { // makes the server able to return the events that its response names
		e.evil.made[ev.ID()] = ev.Event
	}
	e.d.complete(e.room)
	e.split()
	e.same()
}

// joinOf returns the user's join event.
func (p *peer) joinOf(room id.RoomID, user ident.Requester) *Event {
	p.Helper()
	return p.room(room).State(typeMember, string(user.UserID))
}

func TestLeavingEndsTheWaitingForMembers(t *testing.T) {
	e := newEarly(t)
	e.join()
	waiting := make(chan error)
	go func() {
		_, err := e.d.reads().JoinedMembers(t.Context(), e.room, e.dora)
		waiting <- err
	}()
	asked := make(chan struct{})
	hang := &hanging{Remote: e.d.svc.opts.Remote, asked: asked}
	e.d.svc.opts.Remote = hang
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error)
	go func() { ended <- e.d.svc.CompleteRooms(ctx) }()
	<-asked
	e.d.ok(e.d.svc.Leave(t.Context(), e.dora, e.room, ""))
	within(t, time.Second, "the end of the question", func(context.Context) { <-hang.over })
	e.deliver()
	if e.a.room(e.room).Membership(e.dora.UserID) != Leave {
		t.Error("a did not receive dora's leave")
	}
	if err := <-waiting; mxerr.Code(err) != mxerr.CodeForbidden {
		t.Errorf("a request that waited for the members of a room got %v after its user left, want M_FORBIDDEN", err)
	}
	// A user who comes back at once continues to use the same room.
	e.d.svc.opts.Remote = hang.Remote
	e.d.joinVia(e.dora, e.room, "a")
	e.deliver()
	if err := e.d.svc.AwaitFullState(t.Context(), e.room); err != nil || e.d.room(e.room).Completed() == 0 {
		t.Fatalf("after the user has joined again: %v", err)
	}
	stop()
	<-ended
	e.same()
}

// hanging is a client for other servers that never respond to requests for state.
type hanging struct {
	Remote
	asked, over chan struct{}
}

func (h *hanging) StateIDs(ctx context.Context, server string, room id.RoomID, event id.EventID) (state, chain []id.EventID, err error) {
	if h.over != nil {
		return nil, nil, errUnreachable
	}
	h.over = make(chan struct{})
	close(h.asked)
	<-ctx.Done()
	close(h.over)
	return nil, nil, ctx.Err()
}

// If the last user leaves a partial-state room and comes back after other servers have sent events, the server joins
// the room again.
func TestPartialRoomIsJoinedAgainAfterLaterEvents(t *testing.T) {
	e := newEarly(t)
	e.join()
	e.d.ok(e.d.svc.Leave(t.Context(), e.dora, e.room, ""))
	e.deliver()
	e.a.set(e.alice, e.room, "m.room.topic", "", `{"topic":"gone on"}`)
	e.deliver()
	e.d.joinVia(e.dora, e.room, "a")
	if e.d.content(e.room, "m.room.topic", "") != `{"topic":"gone on"}` {
		t.Error("the topic that was set in the meantime is missing")
	}
	e.d.complete(e.room)
	e.same()
}

// A second user of the server may be banned, which the server does not know, so the user joins through another server.
func TestSecondUserJoinsAPartialRoomThroughAnotherServer(t *testing.T) {
	e := newEarly(t)
	banned, welcome := e.d.user("banned"), e.d.user("welcome")
	e.a.ok(e.a.svc.Ban(t.Context(), e.alice, e.room, banned.UserID, ""))
	e.join()
	err := e.d.svc.JoinWith(t.Context(), banned, e.room, []string{"a"}, nil)
	e.d.refused(err, mxerr.CodeForbidden)
	e.d.joinVia(welcome, e.room, "a")
	e.deliver()
	if !e.d.room(e.room).Partial() || e.d.room(e.room).Membership(welcome.UserID) != Join {
		t.Errorf("the membership of the second user is %q, want join in a room with partial state", e.d.room(e.room).Membership(welcome.UserID))
	}
	e.d.complete(e.room)
	e.same()
}

// The events that a join cites are known even if the response omits them: here, the invite that allows the join.
func TestInvitedUserJoinsWithoutKnowingTheMembers(t *testing.T) {
	e := newEarly(t)
	e.a.set(e.alice, e.room, typeJoinRules, "", `{"join_rule":"invite"}`)
	e.a.ok(e.a.svc.Invite(t.Context(), e.alice, e.room, e.dora.UserID, ""))
	e.join()
	e.d.complete(e.room)
	e.same()
}

func TestServersMissingFromAJoinResponseAreDiscovered(t *testing.T) {
	e := newEarly(t)
	var discovered []string
	e.d.listen(func(c *Commit) { discovered = append(discovered, c.Discovered...) })
	liar := e.d.lie()
	liar.joined = func(a *fedclient.JoinAnswer) { a.ServersInRoom = []string{"a", "not a server", "d"} }
	e.join()
	if got := e.d.room(e.room).OtherServers(); !slices.Equal(got, []string{"a"}) {
		t.Fatalf("the servers in the room are %q, want only a", got)
	}
	e.d.complete(e.room)
	if !slices.Equal(discovered, []string{"b", "evil"}) {
		t.Errorf("the discovered servers are %q, want b and evil", discovered)
	}
}

// Messages that have expired meanwhile are gone. Events that follow them are in their proper place nevertheless.
func TestMessagesExpireInAPartialRoom(t *testing.T) {
	e := newEarly(t)
	e.join()
	e.d.keep(e.room, time.Minute)
	var old []id.EventID
	for range 5 {
		old = append(old, e.d.say(e.dora, e.room, "soon gone"))
	}
	e.deliver()
	for _, p := range e.peers {
		p.now = p.now.Add(2 * time.Minute)
	}
	fresh := e.d.say(e.dora, e.room, "after it")
	e.deliver()
	if n := e.d.purge(e.room); n == 0 || e.d.position(e.room, old[0]) != 0 {
		t.Fatalf("%d events were purged, or the old message is left: the test proves nothing", n)
	}
	e.d.complete(e.room)
	if got := e.d.room(e.room).extremityIDs(); !slices.Equal(got, e.a.room(e.room).extremityIDs()) || !slices.Contains(got, fresh) {
		t.Errorf("the forward extremities are %q; want those of a, %q", got, e.a.room(e.room).extremityIDs())
	}
	e.same()
	if got := e.d.stored(e.room, old[0]); got != nil {
		t.Errorf("an expired message is stored again: %s", got.JSON())
	}
}

// When a user joins a room of other servers, this is recorded until these servers have received the user's device list.
func TestJoinsAreRecordedUntilDeviceListsAreSent(t *testing.T) {
	e := newEarly(t)
	kicked := 0
	e.d.listen(func(c *Commit) {
		if slices.ContainsFunc(c.Members, func(m CommittedMember) bool { return m.Local && m.Joined() }) && c.Room.Shared() {
			kicked++
		}
	})
	e.d.public(e.dora, e.d.user("daniel")) // no other server is in it
	e.join()
	var got []storage.DeviceAnnouncement
	e.d.ok(e.d.db.Read(t.Context(), func(tx *storage.Tx) (err error) {
		got, err = tx.DeviceAnnouncements(10)
		return err
	}))
	if want := (storage.DeviceAnnouncement{User: e.dora.UserNID, Room: e.d.room(e.room).NID(), Partial: true}); len(got) != 1 || got[0] != want || kicked != 1 {
		t.Errorf("the listener was called %d times, and the stored announcements are %+v; want once and %+v", kicked, got, want)
	}
}
