package rooms

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"slices"
	"sync"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/rooms/pdu"
	"ebb/rooms/signatures"
)

// meter counts the requests that a server sends to others.
type meter struct {
	Remote
	keys signatures.Keys
	mu   sync.Mutex
	seen []string
}

// setRemote replaces the client for other servers and the source of their keys.
func (s *Service) setRemote(r Remote, k signatures.Keys) {
	s.opts.Remote, s.opts.Keys = r, k
	s.verifier = signatures.NewVerifier(s.opts.Server, s.opts.Signer, k)
}

func (p *peer) metered() *meter {
	m := &meter{Remote: p.svc.opts.Remote, keys: p.svc.opts.Keys}
	p.svc.setRemote(m, m)
	return m
}

func (m *meter) note(what, server string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen = append(m.seen, what+" "+server)
}

// asked returns the requests sent since the last call.
func (m *meter) asked() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer func() { m.seen = nil }()
	return m.seen
}

func (m *meter) GetEvent(ctx context.Context, server string, event id.EventID) (json.RawMessage, error) {
	m.note("event", server)
	return m.Remote.GetEvent(ctx, server, event)
}

func (m *meter) GetMissingEvents(ctx context.Context, server string, room id.RoomID, earliest, latest []id.EventID, limit int, minDepth int64) ([]json.RawMessage, error) {
	m.note("missing", server)
	return m.Remote.GetMissingEvents(ctx, server, room, earliest, latest, limit, minDepth)
}

func (m *meter) State(ctx context.Context, server string, room id.RoomID, event id.EventID, wanted func(json.RawMessage) bool) (state, chain []json.RawMessage, err error) {
	m.note("state", server)
	return m.Remote.State(ctx, server, room, event, wanted)
}

func (m *meter) StateIDs(ctx context.Context, server string, room id.RoomID, event id.EventID) (state, chain []id.EventID, err error) {
	m.note("state_ids", server)
	return m.Remote.StateIDs(ctx, server, room, event)
}

func (m *meter) EventAuth(ctx context.Context, server string, room id.RoomID, event id.EventID) ([]json.RawMessage, error) {
	m.note("event_auth", server)
	return m.Remote.EventAuth(ctx, server, room, event)
}

func (m *meter) Keys(ctx context.Context, wants []fedclient.KeyWant) map[fedclient.KeyWant]ed25519.PublicKey {
	for _, want := range wants {
		m.note("keys", want.Server)
	}
	return m.keys.Keys(ctx, wants)
}

// cites returns the auth events of an event by a stranger: those that the room has, and the member events given in
// more.
func cites(r *Room, more ...id.EventID) (auth []id.EventID) {
	for _, typ := range []string{typeCreate, typePowerLevels} {
		if typ != typeCreate || !r.version.RoomIDIsCreateHash {
			auth = append(auth, r.State(typ, "").ID())
		}
	}
	return append(auth, more...)
}

func TestServerOutsideTheRoomCausesNoRequests(t *testing.T) {
	for _, version := range []id.RoomVersion{id.RoomV6, id.RoomV11, id.RoomV12} {
		n := newNetwork(t)
		a, b := n.add("a"), n.add("b")
		evil := n.stranger("evil", a)
		room := a.create(a.user("alice"), CreateRoom{Preset: "public_chat", RoomVersion: version})
		b.joinVia(b.user("bob"), room, "a")
		meter, mallory := a.metered(), evil.user("mallory")
		message := func(sender id.UserID, prev id.EventID, auth ...id.EventID) *pdu.Event {
			return evil.make(room, pdu.Proto{Type: "m.room.message", Sender: sender, PrevEvents: []id.EventID{prev}, AuthEvents: cites(a.room(room), auth...)})
		}
		key := string(mallory)
		for name, e := range map[string]*pdu.Event{
			"unknown past":             message(mallory, unknownID(1)),
			"deep and unknown past":    evil.make(room, pdu.Proto{Type: "m.room.message", Sender: mallory, Depth: 1 << 40, PrevEvents: []id.EventID{unknownID(2)}, AuthEvents: cites(a.room(room))}),
			"of a user of nobody":      message("@mallory:nobody", unknownID(3), unknownID(4)),
			"a join of nobody's user":  evil.make(room, pdu.Proto{Type: typeMember, StateKey: new(string), Sender: "@x:nobody", Content: json.RawMessage(`{"membership":"join"}`)}),
			"its own join, from afar":  evil.make(room, pdu.Proto{Type: typeMember, StateKey: &key, Sender: mallory, Content: json.RawMessage(`{"membership":"join"}`), PrevEvents: []id.EventID{unknownID(5)}}),
			"state with unknown past":  evil.make(room, pdu.Proto{Type: typeName, StateKey: new(string), Sender: mallory, PrevEvents: []id.EventID{unknownID(6)}, AuthEvents: cites(a.room(room))}),
			"what is known, unallowed": message(mallory, a.room(room).extremityIDs()[0]),
		} {
			_, err := a.svc.Receive(t.Context(), "evil", room, []json.RawMessage{e.JSON()})
			a.ok(err)
			for _, asked := range meter.asked() {
				if asked != "keys evil" { // fetched to verify the transaction, so it does not count
					t.Errorf("version %s, %s: this server requested %q, want only the keys of evil", version, name, asked)
				}
			}
			if e := a.stored(room, e.ID()); e != nil && !e.Hidden() {
				t.Errorf("version %s, %s: the event is accepted", version, name)
			}
		}
		// The cited membership does not exist: the event must be requested once from a server in the room and once from
		// its origin.
		_, err := a.svc.Receive(t.Context(), "evil", room, []json.RawMessage{message(mallory, unknownID(7), unknownID(8)).JSON()})
		a.ok(err)
		asked := slices.DeleteFunc(meter.asked(), func(what string) bool { return what == "keys evil" })
		if !slices.Equal(asked, []string{"event b", "event evil"}) {
			t.Errorf("version %s: for a membership that no server has, this server requested %v, want the event from b and then from evil", version, asked)
		}
		a.say(a.user("alice"), room, "still here")
		a.matchesDisk(room)
	}
}

func TestEventsOfAServerAreAcceptedBeforeItsJoinArrives(t *testing.T) {
	for _, version := range []id.RoomVersion{id.RoomV6, id.RoomV11, id.RoomV12} {
		n := newNetwork(t)
		a, b, c := n.add("a"), n.add("b"), n.add("c")
		room := a.create(a.user("alice"), CreateRoom{Preset: "public_chat", RoomVersion: version})
		b.joinVia(b.user("bob"), room, "a")
		carol := c.user("carol")
		n.split([]string{"a"}, []string{"b", "c"})
		c.joinVia(carol, room, "b")
		n.split()
		n.mu.Lock()
		n.sent = nil // b's message about the join gets lost
		n.mu.Unlock()
		said := c.say(carol, room, "hello")
		n.deliver()
		if e := a.stored(room, said); e == nil || e.Hidden() {
			t.Fatalf("version %s: the message is not accepted", version)
		}
		if !a.room(room).HasServer("c") {
			t.Errorf("version %s: server c does not count as in the room", version)
		}
	}
}

// The third server cannot be reached and the membership cannot be fetched. The events wait until that server sends the
// join.
func TestEventsAreParkedUntilTheirServerIsKnownToBeInTheRoom(t *testing.T) {
	n := newNetwork(t)
	a, b, c := n.add("a"), n.add("b"), n.add("c")
	room := a.create(a.user("alice"), CreateRoom{Preset: "public_chat"})
	b.joinVia(b.user("bob"), room, "a")
	carol := c.user("carol")
	n.split([]string{"a"}, []string{"b", "c"})
	c.joinVia(carol, room, "b")
	said := c.eventAt(c.room(room), c.position(room, c.say(carol, room, "hello")))
	results, err := a.svc.Receive(t.Context(), "c", room, []json.RawMessage{said.JSON()})
	a.ok(err)
	if result, told := results[said.ID()]; !told || result != nil || a.stored(room, said.ID()) != nil {
		t.Fatalf("the results are %v; want nil for the message, which must not be stored yet", results)
	}
	if ready := a.svc.Unparked(); len(ready) != 0 {
		t.Errorf("%v can be received before the server is known to be in the room", ready)
	}
	n.split()
	n.mu.Lock()
	n.sent = slices.DeleteFunc(n.sent, func(p parcel) bool { return p.from == "c" }) // b's message about the join arrives, but c does not send its message again
	n.mu.Unlock()
	n.deliver()
	ready := a.svc.Unparked()
	if len(ready) != 1 || ready[0].Origin != "c" {
		t.Fatalf("Unparked returns %v, want the events of server c", ready)
	}
	_, err = a.svc.Receive(t.Context(), ready[0].Origin, ready[0].Room, ready[0].PDUs)
	a.ok(err)
	if e := a.stored(room, said.ID()); e == nil || e.Hidden() {
		t.Error("the parked message is not accepted")
	}
	if n := a.svc.parking.Bytes(); n != 0 {
		t.Errorf("%d bytes are still parked, want 0", n)
	}
}

// Parked events are processed together with the next events of their server.
func TestParkedEventsAreProcessedWithTheNextOnesOfTheirServer(t *testing.T) {
	n := newNetwork(t)
	a, b := n.add("a"), n.add("b")
	room := a.create(a.user("alice"), CreateRoom{Preset: "public_chat"})
	bob := b.user("bob")
	var first *pdu.Event
	evil := n.stranger("evil", a)
	mallory := evil.user("mallory")
	first = evil.make(room, pdu.Proto{Type: "m.room.message", Sender: mallory, PrevEvents: []id.EventID{unknownID(1)}, AuthEvents: cites(a.room(room))})
	_, err := a.svc.Receive(t.Context(), "evil", room, []json.RawMessage{first.JSON()})
	a.ok(err)
	b.joinVia(bob, room, "a")
	evil.join(room, mallory)
	second := evil.say(room, mallory, "second")
	results := evil.send(room, second)
	if _, told := results[first.ID()]; !told || results[second.ID()] != nil {
		t.Errorf("the results are %v; want one for the first message, and nil for the second", results)
	}
	if n := a.svc.parking.Bytes(); n != 0 {
		t.Errorf("%d bytes are still parked, want 0", n)
	}
}

// An invite-only room used to be public. A join that was forged according to the old rules must not let its server in.
func TestForbiddenJoinDoesNotLetItsServerIn(t *testing.T) {
	n := newNetwork(t)
	a, b := n.add("a"), n.add("b")
	evil := n.stranger("evil", a)
	alice := a.user("alice")
	room := a.create(alice, CreateRoom{Preset: "public_chat", RoomVersion: id.RoomV11})
	b.joinVia(b.user("bob"), room, "a")
	public := a.room(room).State(typeJoinRules, "").ID()
	a.set(alice, room, typeJoinRules, "", `{"join_rule":"invite"}`)
	meter, mallory := a.metered(), evil.user("mallory")
	key := string(mallory)
	join := evil.make(room, pdu.Proto{Type: typeMember, StateKey: &key, Sender: mallory, Content: json.RawMessage(`{"membership":"join"}`),
		PrevEvents: []id.EventID{public}, AuthEvents: cites(a.room(room), public)})
	e := evil.make(room, pdu.Proto{Type: "m.room.message", Sender: mallory, PrevEvents: []id.EventID{join.ID()}, AuthEvents: cites(a.room(room), join.ID())})
	_, err := a.svc.Receive(t.Context(), "evil", room, []json.RawMessage{e.JSON()})
	a.ok(err)
	for _, asked := range meter.asked() {
		if asked != "event b" && asked != "event evil" && asked != "keys evil" {
			t.Errorf("this server requested %q, want only the event and keys", asked)
		}
	}
	if a.stored(room, e.ID()) != nil || a.room(room).HasServer("evil") {
		t.Error("the forged membership is stored, or its server counts as in the room")
	}
}

func TestEventsThatArriveDuringAJoinWaitForIt(t *testing.T) {
	n := newNetwork(t)
	a, b := n.add("a"), n.add("b")
	alice, bob := a.user("alice"), b.user("bob")
	room := a.create(alice, CreateRoom{Preset: "public_chat"})
	var said id.EventID
	b.lie().joined = func(*fedclient.JoinAnswer) { // a has accepted the join, but b has not received the response yet
		said = a.say(alice, room, "welcome")
		n.deliver()
	}
	b.joinVia(bob, room, "a")
	select {
	case <-b.svc.MayUnpark():
	default:
		t.Error("MayUnpark does not signal the end of the join")
	}
	ready := b.svc.Unparked()
	if len(ready) != 1 {
		t.Fatalf("Unparked returns %v, want the events of one server", ready)
	}
	_, err := b.svc.Receive(t.Context(), ready[0].Origin, ready[0].Room, ready[0].PDUs)
	b.ok(err)
	if e := b.stored(room, said); e == nil || e.Hidden() {
		t.Error("the message that arrived during the join is lost")
	}
}

// An invite is withdrawn while accepting it fails.
func TestInviteWithdrawnDuringAFailingJoinIsRemoved(t *testing.T) {
	n := newNetwork(t)
	a, b := n.add("a"), n.add("b")
	alice, bob := a.user("alice"), b.user("bob")
	room := a.create(alice, CreateRoom{Invite: []id.UserID{bob.UserID}})
	l := b.lie()
	l.template = func(t *fedclient.Template) {
		a.ok(a.svc.Kick(a.Context(), alice, room, bob.UserID, ""))
		n.deliver()
		t.Event = json.RawMessage(`{}`)
	}
	if err := b.svc.Join(t.Context(), bob, room, ""); err == nil {
		t.Fatal("the join succeeds, although the invite was withdrawn")
	}
	for _, p := range b.svc.Unparked() {
		_, err := b.svc.Receive(t.Context(), p.Origin, p.Room, p.PDUs)
		b.ok(err)
	}
	if m := b.room(room).Membership(bob.UserID); m != Leave {
		t.Errorf("bob's membership is %q, want leave: the invite was withdrawn", m)
	}
}

// Of the events that a server sends for a room in which this server does not participate, only the withdrawal of an
// invite is verified.
func TestOnlyWithdrawnInvitesAreVerifiedOutsideARoom(t *testing.T) {
	n := newNetwork(t)
	a, b := n.add("a"), n.add("b")
	alice, bob := a.user("alice"), b.user("bob")
	room := a.create(alice, CreateRoom{Invite: []id.UserID{bob.UserID}})
	evil := n.stranger("evil", a)
	meter := b.metered()
	key := string(bob.UserID)
	kick := evil.make(room, pdu.Proto{Type: typeMember, StateKey: &key, Sender: "@mallory:nobody", Content: json.RawMessage(`{"membership":"leave"}`)})
	for _, e := range []*pdu.Event{kick, evil.say(room, evil.user("mallory"), "hello")} {
		if _, err := b.svc.Receive(t.Context(), "evil", room, []json.RawMessage{e.JSON()}); err != nil {
			t.Error(err)
		}
	}
	if asked := meter.asked(); len(asked) != 0 {
		t.Errorf("this server requested %v, want nothing", asked)
	}
	a.ok(a.svc.Kick(t.Context(), alice, room, bob.UserID, ""))
	n.deliver()
	if m := b.room(room).Membership(bob.UserID); m != Leave {
		t.Errorf("bob's membership is %q, want leave: the invite was withdrawn", m)
	}
}

// A membership event with which a user of an outside server joins or leaves must not make this server send any requests
// to that server.
func TestMembershipEventsOfOutsideServersCauseNoRequests(t *testing.T) {
	n := newNetwork(t)
	a, b := n.add("a"), n.add("b")
	evil := n.stranger("evil", a)
	room := a.create(a.user("alice"), CreateRoom{Preset: "public_chat"})
	b.joinVia(b.user("bob"), room, "a")
	meter, mallory := a.metered(), evil.user("mallory")
	key := string(mallory)
	for _, m := range []Membership{Join, Leave, Knock} {
		for name, p := range map[string]pdu.Proto{
			"past": {PrevEvents: []id.EventID{unknownID(1)}}, "shallow past": {PrevEvents: []id.EventID{unknownID(2)}, Depth: 1},
			"auth events": {AuthEvents: cites(a.room(room), unknownID(3))},
		} {
			p.Type, p.StateKey, p.Sender, p.Content = typeMember, &key, mallory, json.RawMessage(`{"membership":"`+m+`"}`)
			e := evil.make(room, p)
			h := Handshake{Origin: "evil", Room: room, Event: e.ID(), PDU: e.JSON()}
			var err error
			switch m {
			case Join:
				_, err = a.svc.AcceptJoin(t.Context(), h)
			case Leave:
				err = a.svc.AcceptLeave(t.Context(), h)
			case Knock:
				_, err = a.svc.AcceptKnock(t.Context(), h)
			}
			a.refused(err, "M_FORBIDDEN")
			for _, asked := range meter.asked() {
				if asked != "keys evil" {
					t.Errorf("%s with an unknown %s: this server requested %q, want only the keys of evil", m, name, asked)
				}
			}
		}
	}
}
