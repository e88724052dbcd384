package rooms

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/fedclient"
	"ebb/mxerr"
	"ebb/rooms/handshake"
	"ebb/rooms/pdu"
)

// liar is a client for other servers that modifies their responses.
type liar struct {
	Remote
	template func(t *fedclient.Template)
	joined   func(a *fedclient.JoinAnswer)
	invited  func(raw json.RawMessage) json.RawMessage
	knocked  func(stripped []json.RawMessage) []json.RawMessage

	asked []string          // the servers from which templates were requested
	sent  []json.RawMessage // the events that were sent after signing
	mu    sync.Mutex
}

func (l *liar) MakeJoin(ctx context.Context, server string, room id.RoomID, user id.UserID, versions []id.RoomVersion) (fedclient.Template, error) {
	l.mu.Lock()
	l.asked = append(l.asked, server)
	l.mu.Unlock()
	t, err := l.Remote.MakeJoin(ctx, server, room, user, versions)
	if l.template != nil {
		l.template(&t)
	}
	return t, err
}

func (l *liar) SendJoin(ctx context.Context, server string, room id.RoomID, event id.EventID, join json.RawMessage, omit bool) (*fedclient.JoinAnswer, error) {
	l.mu.Lock()
	l.sent = append(l.sent, join)
	l.mu.Unlock()
	a, err := l.Remote.SendJoin(ctx, server, room, event, join, omit)
	if err == nil && l.joined != nil {
		l.joined(a)
	}
	return a, err
}

func (l *liar) SendKnock(ctx context.Context, server string, room id.RoomID, event id.EventID, knock json.RawMessage) ([]json.RawMessage, error) {
	stripped, err := l.Remote.SendKnock(ctx, server, room, event, knock)
	if err == nil && l.knocked != nil {
		stripped = l.knocked(stripped)
	}
	return stripped, err
}

func (l *liar) Invite(ctx context.Context, server string, version id.RoomVersion, room id.RoomID, event id.EventID, invite json.RawMessage, stripped []json.RawMessage) (json.RawMessage, error) {
	raw, err := l.Remote.Invite(ctx, server, version, room, event, invite, stripped)
	if err == nil && l.invited != nil {
		raw = l.invited(raw)
	}
	return raw, err
}

// lie makes a server use a liar, and returns it.
func (p *peer) lie() *liar {
	l := &liar{Remote: p.svc.opts.Remote}
	p.svc.opts.Remote = l
	return l
}

// with sets a member of a JSON object.
func with(raw json.RawMessage, key, value string) json.RawMessage {
	return canonjson.AppendWith(nil, raw, key, []byte(value))
}

var sharedVersions = []id.RoomVersion{id.RoomV1, id.RoomV3, id.RoomV8, id.RoomV11, id.RoomV12}

func TestTemplateOfAnythingElseIsNotSigned(t *testing.T) {
	n := newNetwork(t)
	a, b := n.add("a"), n.add("b")
	l := b.lie()
	for _, version := range sharedVersions {
		for name, bend := range map[string]func(event json.RawMessage) json.RawMessage{
			"another sender":     func(e json.RawMessage) json.RawMessage { return with(e, "sender", `"@mallory:b"`) },
			"another state key":  func(e json.RawMessage) json.RawMessage { return with(e, "state_key", `"@mallory:b"`) },
			"no state key":       func(e json.RawMessage) json.RawMessage { return canonjson.Without(e, "state_key") },
			"another type":       func(e json.RawMessage) json.RawMessage { return with(e, "type", `"m.room.power_levels"`) },
			"another room":       func(e json.RawMessage) json.RawMessage { return with(e, "room_id", `"!other:a"`) },
			"no room":            func(e json.RawMessage) json.RawMessage { return canonjson.Without(e, "room_id") },
			"another membership": func(e json.RawMessage) json.RawMessage { return with(e, "content", `{"membership":"leave"}`) },
			"content no object":  func(e json.RawMessage) json.RawMessage { return with(e, "content", `"join"`) },
			"no place":           func(e json.RawMessage) json.RawMessage { return with(e, "prev_events", `[]`) },
			"places no list":     func(e json.RawMessage) json.RawMessage { return with(e, "auth_events", `{"a":1}`) },
			"too many places": func(e json.RawMessage) json.RawMessage {
				return with(e, "prev_events", "["+strings.Repeat(`"$a",`, 20)+`"$a"]`)
			},
			"no event": func(json.RawMessage) json.RawMessage { return json.RawMessage(`[]`) },
			"no JSON":  func(json.RawMessage) json.RawMessage { return json.RawMessage(`{"a":`) },
		} {
			t.Run(fmt.Sprint("v", version, " ", name), func(t *testing.T) {
				room := a.create(a.user("alice"), CreateRoom{Preset: "public_chat", RoomVersion: version})
				l.template = func(t *fedclient.Template) { t.Event = bend(t.Event) }
				err := b.svc.JoinWith(b.Context(), b.user("bob"), room, []string{"a"}, nil)
				if err == nil || len(l.sent) > 0 {
					t.Fatalf("the join with this template returned %v, and this server signed %s; want an error and no signature", err, l.sent)
				}
				var told *mxerr.Error
				if !errors.As(err, &told) || told.Status != http.StatusBadGateway {
					t.Errorf("the client gets %v, want status 502", err)
				}
			})
		}
	}
}

func TestOnlyTheGraphFieldsOfATemplateAreUsed(t *testing.T) {
	n := newNetwork(t)
	a, b := n.add("a"), n.add("b")
	room := a.create(a.user("alice"), CreateRoom{Preset: "public_chat"})
	l := b.lie()
	l.template = func(t *fedclient.Template) {
		t.Event = with(t.Event, "content", `{"membership":"join","displayname":"I am a fool","third_party_invite":{},"is_direct":true,"join_authorised_via_users_server":"@bob:b"}`)
		t.Event = with(with(with(t.Event, "origin_server_ts", "1"), "redacts", `"$a"`), "evil", "1")
	}
	bob := b.user("bob")
	b.ok(b.svc.JoinWith(b.Context(), bob, room, []string{"a"}, map[string]json.RawMessage{"reason": json.RawMessage(`"hungry"`)}))
	e := b.room(room).State(typeMember, string(bob.UserID))
	if got := string(e.Content()); got != `{"membership":"join","reason":"hungry"}` || e.OriginServerTS() != b.now.UnixMilli() || bytes.Contains(e.JSON(), []byte("evil")) {
		t.Errorf("the signed join is %s; want only the reason of the client and the time of this server", e.JSON())
	}
}

// forge creates an event in a room of the server and signs it, whether the rules allow it or not.
func (p *peer) forge(room id.RoomID, proto pdu.Proto) json.RawMessage {
	p.Helper()
	proto.RoomID, proto.OriginServerTS, proto.Depth = room, p.now.UnixMilli(), 9
	e, err := pdu.Build(p.room(room).version, proto, p.svc.opts.Signer.Current())
	p.ok(err)
	return e.JSON()
}

// replaceType replaces the events of a type in a list.
func replaceType(list []json.RawMessage, typ string, by ...json.RawMessage) []json.RawMessage {
	out := slices.DeleteFunc(slices.Clone(list), func(raw json.RawMessage) bool { return handshake.TypeOf(raw) == typ })
	return append(out, by...)
}

func TestInvalidJoinResponsesAreRefused(t *testing.T) {
	for _, version := range sharedVersions {
		for name, bend := range map[string]func(a *peer, room, other id.RoomID, answer *fedclient.JoinAnswer){
			"nothing": func(_ *peer, _, _ id.RoomID, answer *fedclient.JoinAnswer) { *answer = fedclient.JoinAnswer{} },
			"no create event": func(_ *peer, _, _ id.RoomID, answer *fedclient.JoinAnswer) {
				answer.State = replaceType(answer.State, typeCreate)
			},
			"another room's create event": func(a *peer, _, other id.RoomID, answer *fedclient.JoinAnswer) {
				create := a.room(other).State(typeCreate, "").JSON()
				answer.State, answer.AuthChain = replaceType(answer.State, typeCreate, create), replaceType(answer.AuthChain, typeCreate, create)
			},
			"another room": func(a *peer, _, other id.RoomID, answer *fedclient.JoinAnswer) {
				answer.State, answer.AuthChain = nil, nil
				for _, typ := range []string{typeCreate, typeJoinRules, typePowerLevels} {
					answer.State = append(answer.State, a.room(other).State(typ, "").JSON())
				}
			},
			"state twice": func(a *peer, room, _ id.RoomID, answer *fedclient.JoinAnswer) {
				key := ""
				second := a.forge(room, pdu.Proto{Type: typeName, StateKey: &key, Sender: "@alice:a", Content: json.RawMessage(`{}`), PrevEvents: []id.EventID{"$a"}, AuthEvents: []id.EventID{"$b"}})
				answer.State = append(answer.State, second, a.forge(room, pdu.Proto{
					Type: typeName, StateKey: &key, Sender: "@alice:a", Content: json.RawMessage(`{"name":"x"}`), PrevEvents: []id.EventID{"$a"}, AuthEvents: []id.EventID{"$b"},
				}))
			},
			"join rules that nobody may set": func(a *peer, room, _ id.RoomID, answer *fedclient.JoinAnswer) {
				key := ""
				answer.State = replaceType(answer.State, typeJoinRules, a.forge(room, pdu.Proto{
					Type: typeJoinRules, StateKey: &key, Sender: "@nobody:a", Content: json.RawMessage(`{"join_rule":"public"}`),
					PrevEvents: []id.EventID{a.room(room).State(typeCreate, "").ID()}, AuthEvents: authOf(a.room(room), typeCreate, typePowerLevels),
				}))
			},
		} {
			t.Run(fmt.Sprint("v", version, " ", name), func(t *testing.T) {
				n := newNetwork(t)
				a, b := n.add("a"), n.add("b")
				room := a.create(a.user("alice"), CreateRoom{Preset: "public_chat", RoomVersion: version})
				other := a.create(a.user("alice"), CreateRoom{Preset: "public_chat", RoomVersion: version})
				b.lie().joined = func(answer *fedclient.JoinAnswer) { bend(a, room, other, answer) }
				bob := b.user("bob")
				if err := b.svc.JoinWith(b.Context(), bob, room, []string{"a"}, nil); err == nil {
					t.Fatal("the join succeeds with an invalid response")
				}
				if r, err := b.svc.Room(b.Context(), room); err == nil && (r.Resident() || r.Membership(bob.UserID) != "") {
					t.Error("the refused response has left a membership, or the server counts as in the room")
				}
				b.svc.opts.Remote.(*liar).joined = nil // with an unmodified response the room can be joined
				b.joinVia(bob, room, "a")
				if b.room(room).Membership(bob.UserID) != Join {
					t.Error("after a valid response bob is not joined")
				}
			})
		}
	}
}

func authOf(r *Room, types ...string) (ids []id.EventID) {
	for _, typ := range types {
		if typ != typeCreate || !r.version.RoomIDIsCreateHash {
			ids = append(ids, r.State(typ, "").ID())
		}
	}
	return ids
}

func TestInvalidEventsOfAJoinResponseAreIgnored(t *testing.T) {
	for _, version := range sharedVersions {
		t.Run("v"+string(version), func(t *testing.T) {
			n := newNetwork(t)
			a, b := n.add("a"), n.add("b")
			n.signer("elsewhere")
			alice := a.user("alice")
			room := a.create(alice, CreateRoom{Preset: "public_chat", RoomVersion: version, Name: "Kitchen"})
			topic := a.set(alice, room, typeTopic, "", `{"topic":"food"}`)
			key := ""
			good := func(p pdu.Proto) json.RawMessage {
				p.StateKey, p.PrevEvents = &key, []id.EventID{a.room(room).State(typeCreate, "").ID()}
				return a.forge(room, p)
			}
			b.lie().joined = func(answer *fedclient.JoinAnswer) {
				for i, raw := range answer.State {
					switch handshake.TypeOf(raw) {
					case typeTopic: // differs from what was signed
						answer.State[i] = with(raw, "signatures", `{"a":{"ed25519:1":"`+strings.Repeat("A", 86)+`"}}`)
					case typeName: // its content differs from what was signed
						answer.State[i] = with(raw, "content", `{"name":"Prison"}`)
					}
				}
				answer.State = append(answer.State,
					json.RawMessage(`null`), json.RawMessage(`{}`), json.RawMessage(`"x"`), json.RawMessage(`{"type":`),
					a.forge(room, pdu.Proto{Type: "m.room.message", Sender: alice.UserID, Content: json.RawMessage(`{}`), PrevEvents: []id.EventID{topic}}),
					good(pdu.Proto{Type: "x.rejected", Sender: "@nobody:a", Content: json.RawMessage(`{}`), AuthEvents: authOf(a.room(room), typeCreate, typePowerLevels)}),
					good(pdu.Proto{Type: "x.unknown", Sender: alice.UserID, Content: json.RawMessage(`{}`), AuthEvents: []id.EventID{"$nowhere"}}),
					good(pdu.Proto{Type: "x.elsewhere", Sender: "@eve:elsewhere", Content: json.RawMessage(`{}`), AuthEvents: authOf(a.room(room), typeCreate)}),
				)
			}
			bob := b.user("bob")
			b.joinVia(bob, room, "a")
			r := b.room(room)
			for _, typ := range []string{typeTopic, "x.rejected", "x.unknown", "x.elsewhere", "m.room.message"} {
				if e := r.State(typ, ""); e != nil {
					t.Errorf("an invalid event of the response is part of the state: %s", e.JSON())
				}
			}
			if got := b.content(room, typeName, ""); got != `{}` {
				t.Errorf("the name, whose event has a wrong content hash, has the content %s, want {}", got)
			}
			b.say(bob, room, "here I am")
			n.deliver()
			a.say(alice, room, "welcome")
			n.deliver()
			if a.content(room, typeTopic, "") != `{"topic":"food"}` {
				t.Error("the topic of the resident server has changed")
			}
		})
	}
}

func TestForgedMembershipRequestsAreRefused(t *testing.T) {
	for _, version := range sharedVersions {
		t.Run("v"+string(version), func(t *testing.T) {
			n := newNetwork(t)
			a := n.add("a")
			s := n.stranger("s", a)
			alice := a.user("alice")
			room := a.create(alice, CreateRoom{Preset: "public_chat", RoomVersion: version})
			other := a.create(alice, CreateRoom{Preset: "public_chat", RoomVersion: version})
			member := func(sender id.UserID, key, content string) *pdu.Event {
				return s.make(room, pdu.Proto{Type: typeMember, StateKey: &key, Sender: sender, Content: json.RawMessage(content)})
			}
			eve := s.user("eve")
			good := member(eve, string(eve), `{"membership":"join"}`)
			empty := ""
			unsigned := with(good.JSON(), "signatures", `{}`)
			wrong := with(good.JSON(), "signatures", `{"s":{"ed25519:1":"`+strings.Repeat("A", 86)+`"}}`)
			for name, h := range map[string]Handshake{
				"another room":    {Room: other, Event: good.ID(), PDU: good.JSON()},
				"another id":      {Room: room, Event: "$other", PDU: good.JSON()},
				"another type":    handshakeOf(room, s.make(room, pdu.Proto{Type: typeTopic, StateKey: &empty, Sender: eve})),
				"no state":        handshakeOf(room, s.make(room, pdu.Proto{Type: typeMember, Sender: eve, Content: json.RawMessage(`{"membership":"join"}`)})),
				"an invite":       handshakeOf(room, member(eve, string(eve), `{"membership":"invite"}`)),
				"of another user": handshakeOf(room, member(eve, string(s.user("mallory")), `{"membership":"join"}`)),
				"of alice":        handshakeOf(room, member(alice.UserID, string(alice.UserID), `{"membership":"join"}`)),
				"unsigned":        {Room: room, Event: good.ID(), PDU: unsigned},
				"wrongly signed":  {Room: room, Event: good.ID(), PDU: wrong},
				"no event":        {Room: room, Event: good.ID(), PDU: json.RawMessage(`{}`)},
			} {
				h.Origin = "s"
				_, err := a.svc.AcceptJoin(t.Context(), h)
				var told *mxerr.Error
				if !errors.As(err, &told) || told.Status < 400 || told.Status >= 500 {
					t.Errorf("%s: got %v, want an error with a 4xx status", name, err)
				}
				for _, as := range []func() error{
					func() error { return a.svc.AcceptLeave(t.Context(), h) },
					func() error { _, err := a.svc.AcceptKnock(t.Context(), h); return err },
				} {
					if err := as(); err == nil {
						t.Errorf("%s is accepted as a leave or a knock", name)
					}
				}
			}
			if m := a.room(room).Membership(eve); m != "" {
				t.Errorf("eve's membership is %q, want none", m)
			}
			_, err := a.svc.AcceptJoin(t.Context(), Handshake{Origin: "s", Room: room, Event: good.ID(), PDU: good.JSON()})
			a.ok(err)
		})
	}
}

func handshakeOf(room id.RoomID, e *pdu.Event) Handshake {
	return Handshake{Room: room, Event: e.ID(), PDU: e.JSON()}
}

func TestTemplatesAreForTheirOwnUsersAndVersions(t *testing.T) {
	n := newNetwork(t)
	a := n.add("a")
	alice := a.user("alice")
	open := a.create(alice, CreateRoom{Preset: "public_chat", RoomVersion: id.RoomV11})
	closed := a.create(alice, CreateRoom{Preset: "private_chat"})
	alone := a.create(alice, CreateRoom{Preset: "public_chat", CreationContent: json.RawMessage(`{"m.federate":false}`)})
	all := pdu.Versions()
	for name, tc := range map[string]struct {
		origin   string
		room     id.RoomID
		user     id.UserID
		m        Membership
		versions []id.RoomVersion
		code     string
	}{
		"another server's user":   {"b", open, "@eve:c", Join, all, mxerr.CodeForbidden},
		"this server's user":      {"b", open, alice.UserID, Join, all, mxerr.CodeForbidden},
		"no user":                 {"b", open, "eve", Join, all, mxerr.CodeForbidden},
		"an unknown room":         {"b", "!none:a", "@bob:b", Join, all, mxerr.CodeNotFound},
		"an old server":           {"b", open, "@bob:b", Join, []id.RoomVersion{id.RoomV1}, mxerr.CodeIncompatibleRoomVersion},
		"a room that is closed":   {"b", closed, "@bob:b", Join, all, mxerr.CodeForbidden},
		"a room of this server":   {"b", alone, "@bob:b", Join, all, mxerr.CodeForbidden},
		"a leave of a stranger":   {"b", open, "@bob:b", Leave, nil, mxerr.CodeForbidden},
		"a knock where one joins": {"b", open, "@bob:b", Knock, all, mxerr.CodeForbidden},
	} {
		_, err := a.svc.Template(t.Context(), tc.origin, tc.room, tc.user, tc.m, tc.versions)
		if mxerr.Code(err) != tc.code {
			t.Errorf("%s: %v, want %s", name, err, tc.code)
		}
	}
	a.set(alice, open, typeServerACL, "", `{"allow":["*"],"deny":["b"]}`)
	_, err := a.svc.Template(t.Context(), "b", open, "@bob:b", Join, all)
	a.refused(err, mxerr.CodeForbidden)
}

func TestForgedInvitesAreRefused(t *testing.T) {
	for _, version := range sharedVersions {
		t.Run("v"+string(version), func(t *testing.T) {
			n := newNetwork(t)
			a, b := n.add("a"), n.add("b")
			alice, bob := a.user("alice"), b.user("bob")
			room := a.create(alice, CreateRoom{RoomVersion: version})
			other := a.create(alice, CreateRoom{RoomVersion: version})
			r := a.room(room)
			shown := r.stripped(alice.UserID)
			member := func(sender id.UserID, key, content string) json.RawMessage {
				return a.forge(room, pdu.Proto{
					Type: typeMember, StateKey: &key, Sender: sender, Content: json.RawMessage(content), PrevEvents: r.extremityIDs(), AuthEvents: authOf(r, typeCreate, typePowerLevels),
				})
			}
			good := member(alice.UserID, string(bob.UserID), `{"membership":"invite"}`)
			huge := json.RawMessage(`{"type":"m.room.topic","state_key":"","sender":"@alice:a","content":{"topic":"` + strings.Repeat("x", 512<<10) + `"}}`)
			many := slices.Repeat([]json.RawMessage{json.RawMessage(`{"type":"x","state_key":"","sender":"@alice:a","content":{}}`)}, 100+1)
			for name, in := range map[string]ReceivedInvite{
				"another room":             {Room: other, PDU: good, Stripped: shown},
				"another id":               {Room: room, Event: "$other", PDU: good, Stripped: shown},
				"an unknown version":       {Room: room, Version: "9999", PDU: good, Stripped: shown},
				"a join":                   {Room: room, PDU: member(alice.UserID, string(bob.UserID), `{"membership":"join"}`), Stripped: shown},
				"of a user of its own":     {Room: room, PDU: member(alice.UserID, "@carol:a", `{"membership":"invite"}`), Stripped: shown},
				"of a user of nobody":      {Room: room, PDU: member(alice.UserID, "bob", `{"membership":"invite"}`), Stripped: shown},
				"by a user of another one": {Room: room, PDU: member("@carol:c", string(bob.UserID), `{"membership":"invite"}`), Stripped: shown},
				"unsigned":                 {Room: room, PDU: with(good, "signatures", `{}`), Stripped: shown},
				"no event":                 {Room: room, PDU: json.RawMessage(`{}`), Stripped: shown},
				"state that is none":       {Room: room, PDU: good, Stripped: append(slices.Clone(shown), json.RawMessage(`"x"`))},
				"state without type":       {Room: room, PDU: good, Stripped: append(slices.Clone(shown), json.RawMessage(`{"state_key":"","sender":"@alice:a","content":{}}`))},
				"state with odd content":   {Room: room, PDU: good, Stripped: append(slices.Clone(shown), json.RawMessage(`{"type":"m.room.name","state_key":"","sender":"@alice:a","content":7}`))},
				"state with broken JSON":   {Room: room, PDU: good, Stripped: append(slices.Clone(shown), json.RawMessage(`{"type":"m.room.name","state_key":"","sender":"@alice:a","content":{"a":}}`))},
				"too much state":           {Room: room, PDU: good, Stripped: many},
				"too large state":          {Room: room, PDU: good, Stripped: append(slices.Clone(shown), huge)},
			} {
				if in.Version == "" {
					in.Version = version
				}
				if in.Event == "" {
					in.Event = idOf(r.version, in.PDU)
				}
				in.Origin = "a"
				signed, err := b.svc.ReceiveInvite(t.Context(), in)
				var told *mxerr.Error
				if signed != nil || !errors.As(err, &told) || told.Status < 400 || told.Status >= 500 {
					t.Errorf("%s: got %s and %v, want no signature and an error with a 4xx status", name, signed, err)
				}
			}
			if list, err := b.svc.Memberships(t.Context(), bob.UserNID); err != nil || len(list) > 0 {
				t.Errorf("bob has the memberships %v (%v), want none", list, err)
			}
			_, err := b.svc.ReceiveInvite(t.Context(), ReceivedInvite{Origin: "a", Version: version, Room: room, Event: idOf(r.version, good), PDU: good, Stripped: shown})
			b.ok(err)
		})
	}
}

// Deployed servers send invites to rooms of version 12 without the complete create event. State of another room must
// not be shown.
func TestInviteWithoutTheCreateEventIsAccepted(t *testing.T) {
	n := newNetwork(t)
	a, b := n.add("a"), n.add("b")
	alice, bob := a.user("alice"), b.user("bob")
	room, other := a.create(alice, CreateRoom{Name: "Kitchen"}), a.create(alice, CreateRoom{Name: "Bank"})
	r := a.room(room)
	key := string(bob.UserID)
	good := a.forge(room, pdu.Proto{
		Type: typeMember, StateKey: &key, Sender: alice.UserID, Content: json.RawMessage(`{"membership":"invite"}`), PrevEvents: r.extremityIDs(), AuthEvents: authOf(r, typePowerLevels),
	})
	shown := r.stripped(alice.UserID)
	invite := func(stripped ...json.RawMessage) error {
		_, err := b.svc.ReceiveInvite(t.Context(), ReceivedInvite{Origin: "a", Version: id.RoomV12, Room: room, Event: idOf(r.version, good), PDU: good, Stripped: stripped})
		return err
	}
	told := func() (text string) {
		t.Helper()
		stripped, err := b.svc.StrippedState(t.Context(), bob.UserNID, b.room(room))
		b.ok(err)
		for _, raw := range stripped {
			text += string(raw) + "\n"
		}
		return text
	}
	bank := a.room(other)
	stripped := json.RawMessage(`{"type":"m.room.create","state_key":"","sender":"@alice:a","content":{"room_version":"12","type":"m.space"}}`)
	for what, c := range map[string]struct {
		state []json.RawMessage
		shows string // "" if there must be no create event
	}{
		"nothing":                  {nil, ""},
		"no create event":          {replaceType(shown, typeCreate), ""},
		"that of another room":     {replaceType(shown, typeCreate, bank.State(typeCreate, "").JSON()), ""},
		"one in stripped form":     {replaceType(shown, typeCreate, stripped), `"type":"m.space"`},
		"the name of another room": {append(replaceType(shown, typeName), bank.State(typeName, "").JSON()), string(r.State(typeCreate, "").JSON())},
	} {
		b.ok(invite(c.state...))
		b.membership(room, bob, Invite)
		got := told()
		if strings.Contains(got, typeCreate) != (c.shows != "") || !strings.Contains(got, c.shows) || strings.Contains(got, "Bank") {
			t.Errorf("%s: bob is shown %s", what, got)
		}
		b.ok(b.svc.Leave(t.Context(), bob, room, ""))
	}
}

func TestOnlyTheSignatureOfACountersignedInviteIsUsed(t *testing.T) {
	for _, version := range sharedVersions {
		t.Run("v"+string(version), func(t *testing.T) {
			n := newNetwork(t)
			a, b := n.add("a"), n.add("b")
			alice, bob := a.user("alice"), b.user("bob")
			room := a.create(alice, CreateRoom{RoomVersion: version})
			l := a.lie()
			for name, bend := range map[string]func(json.RawMessage) json.RawMessage{
				"nothing":        func(json.RawMessage) json.RawMessage { return json.RawMessage(`{}`) },
				"no JSON":        func(json.RawMessage) json.RawMessage { return json.RawMessage(`{`) },
				"no signature":   func(raw json.RawMessage) json.RawMessage { return with(raw, "signatures", `{}`) },
				"odd signatures": func(raw json.RawMessage) json.RawMessage { return with(raw, "signatures", `{"b":7}`) },
				"wrong signature": func(raw json.RawMessage) json.RawMessage {
					return with(raw, "signatures", `{"b":{"ed25519:1":"AAAA"}}`)
				},
			} {
				l.invited = bend
				err := a.svc.Invite(t.Context(), alice, room, bob.UserID, "")
				var told *mxerr.Error
				if !errors.As(err, &told) || told.Status != http.StatusBadGateway || a.room(room).Membership(bob.UserID) != "" {
					t.Errorf("%s: got %v, want status 502 and no invite", name, err)
				}
			}
			l.invited = func(raw json.RawMessage) json.RawMessage {
				return with(raw, "content", `{"membership":"invite","reason":"lies"}`)
			}
			a.ok(a.svc.Invite(t.Context(), alice, room, bob.UserID, "dinner"))
			if got := a.content(room, typeMember, string(bob.UserID)); got != `{"membership":"invite","reason":"dinner"}` {
				t.Errorf("the invite is %s, want it as this server sent it", got)
			}
			if e := a.room(room).State(typeMember, string(bob.UserID)); !e.CheckContentHash() {
				t.Error("the content of the invite does not match its hash")
			}
		})
	}
}

func TestServersThatFailAJoinAreSkipped(t *testing.T) {
	n := newNetwork(t)
	a, b := n.add("a"), n.add("b")
	n.add("empty")
	room := a.create(a.user("alice"), CreateRoom{Preset: "public_chat"})
	l := b.lie()
	bob := b.user("bob")
	b.ok(b.svc.JoinWith(t.Context(), bob, room, []string{"dead", "b", "not a name", "empty", "dead", "a"}, nil))
	if want := []string{"dead", "empty", "a"}; !slices.Equal(l.asked, want) {
		t.Errorf("this server asked %v, want %v", l.asked, want)
	}
	l.asked = nil
	var many []string
	for i := range 50 {
		many = append(many, fmt.Sprint("dead", i))
	}
	closed := a.create(a.user("alice"), CreateRoom{})
	err := b.svc.JoinWith(t.Context(), bob, closed, append([]string{"dead", "a"}, many...), nil)
	b.refused(err, mxerr.CodeForbidden) // the error is that of a, not the failure to reach the other servers
	if len(l.asked) > maxCandidates {
		t.Errorf("this server asked %d servers, want at most %d", len(l.asked), maxCandidates)
	}
}

func TestConcurrentJoinsShareOneJoinOfTheServer(t *testing.T) {
	n := newNetwork(t)
	a, b := n.add("a"), n.add("b")
	room := a.create(a.user("alice"), CreateRoom{Preset: "public_chat"})
	l := b.lie()
	var joiners sync.WaitGroup
	var failed atomic.Pointer[error]
	for i := range 8 {
		u := b.user(fmt.Sprint("u", i))
		joiners.Go(func() {
			if err := b.svc.JoinWith(context.Background(), u, room, []string{"a"}, nil); err != nil {
				failed.Store(&err)
			}
		})
	}
	joiners.Wait()
	if err := failed.Load(); err != nil {
		t.Fatal(*err)
	}
	if len(l.sent) != 1 {
		t.Errorf("the server joined %d times", len(l.sent))
	}
	n.deliver()
	if got := a.room(room).Count(Join); got != 9 {
		t.Errorf("server a counts %d members, want 9", got)
	}
}

func TestRestrictedRoomIsJoinedThroughAServerThatCanAuthoriseIt(t *testing.T) {
	for _, version := range []id.RoomVersion{id.RoomV8, id.RoomV10, id.RoomV12} {
		t.Run("v"+string(version), func(t *testing.T) {
			n := newNetwork(t)
			a, b, c := n.add("a"), n.add("b"), n.add("c")
			alice, bob, carol := a.user("alice"), b.user("bob"), c.user("carol")
			club := a.create(alice, CreateRoom{Preset: "public_chat", RoomVersion: version})
			room := a.create(alice, CreateRoom{Preset: "private_chat", RoomVersion: version, PowerLevelOverride: json.RawMessage(`{"invite":50}`), InitialState: []InitialState{{
				Type: typeJoinRules, Content: json.RawMessage(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"` + string(club) + `"}]}`),
			}}})
			l := c.lie()
			b.ok(a.svc.Invite(t.Context(), alice, room, bob.UserID, ""))
			b.joinVia(bob, room, "a")
			n.deliver()

			// bob's server is not in the club, so it cannot check the condition.
			_, err := b.svc.Template(t.Context(), "c", room, carol.UserID, Join, pdu.Versions())
			b.refused(err, mxerr.CodeUnableToAuthoriseJoin)
			// Now it is, and sees that carol is not a member of the club. Later it sees that she is, but has no user
			// who may authorise her join.
			b.joinVia(bob, club, "a")
			_, err = b.svc.Template(t.Context(), "c", room, carol.UserID, Join, pdu.Versions())
			b.refused(err, mxerr.CodeForbidden)
			_, err = a.svc.Template(t.Context(), "c", room, carol.UserID, Join, pdu.Versions())
			a.refused(err, mxerr.CodeForbidden)
			c.joinVia(carol, club, "a")
			n.deliver()
			_, err = b.svc.Template(t.Context(), "c", room, carol.UserID, Join, pdu.Versions())
			b.refused(err, mxerr.CodeUnableToGrantJoin)

			l.asked = nil
			c.ok(c.svc.JoinWith(t.Context(), carol, room, []string{"b", "a"}, nil))
			n.deliver()
			if want := []string{"b", "a"}; !slices.Equal(l.asked, want) {
				t.Errorf("this server asked %v, want %v", l.asked, want)
			}
			for _, p := range []*peer{a, b, c} {
				e := p.room(room).State(typeMember, string(carol.UserID))
				if e == nil || e.ContentString("join_authorised_via_users_server") != string(alice.UserID) {
					t.Errorf("server %s has bob's member event as %v, want one authorised by alice", p.name, e)
				}
			}
		})
	}
}

func TestServerDoesNotAuthoriseJoinsWithoutRight(t *testing.T) {
	n := newNetwork(t)
	a := n.add("a")
	s := n.stranger("s", a)
	alice := a.user("alice")
	club := a.create(alice, CreateRoom{Preset: "public_chat"})
	room := a.create(alice, CreateRoom{InitialState: []InitialState{{
		Type: typeJoinRules, Content: json.RawMessage(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"` + string(club) + `"}]}`),
	}}})
	eve := s.user("eve")
	key := string(eve)
	join := s.make(room, pdu.Proto{Type: typeMember, StateKey: &key, Sender: eve, Content: json.RawMessage(`{"membership":"join","join_authorised_via_users_server":"@alice:a"}`)})
	h := handshakeOf(room, join)
	h.Origin = "s"
	_, err := a.svc.AcceptJoin(t.Context(), h)
	a.refused(err, mxerr.CodeForbidden)
	s.join(club, eve)
	_, err = a.svc.AcceptJoin(t.Context(), h)
	a.ok(err)
}

func TestJoinNamingAnAuthorisingUserIsAcceptedInARoomWithoutJoinRules(t *testing.T) {
	n := newNetwork(t)
	a := n.add("a")
	s := n.stranger("s", a)
	alice, eve := a.user("alice"), s.user("eve")
	room := a.create(alice, CreateRoom{Preset: "public_chat"})
	s.join(room, eve)
	r := a.room(room)
	r.mu.Lock()
	delete(r.head.state, pdu.StateKey{Type: typeJoinRules}) // as in a room whose creator sent none
	r.mu.Unlock()
	key := string(eve)
	join := s.make(room, pdu.Proto{Type: typeMember, StateKey: &key, Sender: eve, Content: json.RawMessage(`{"membership":"join","join_authorised_via_users_server":"@alice:a"}`)})
	h := handshakeOf(room, join)
	h.Origin = "s"
	_, err := a.svc.AcceptJoin(t.Context(), h)
	a.ok(err)
}

func TestNothingIsSentToARoomWithoutLocalMembers(t *testing.T) {
	n := newNetwork(t)
	a, b := n.add("a"), n.add("b")
	alice, bob, carol := a.user("alice"), b.user("bob"), b.user("carol")
	invitedTo := a.create(alice, CreateRoom{Invite: []id.UserID{bob.UserID}})
	left := a.create(alice, CreateRoom{Preset: "public_chat"})
	b.joinVia(bob, left, "a")
	b.ok(b.svc.Leave(t.Context(), bob, left, ""))
	n.deliver()
	for _, room := range []id.RoomID{invitedTo, left} {
		ctx := t.Context()
		_, said := b.trySend(bob, room, "m.room.message", `{}`)
		_, set := b.trySet(bob, room, typePowerLevels, "", `{"users":{"@bob:b":100}}`)
		_, member := b.trySet(bob, room, typeMember, string(carol.UserID), `{"membership":"ban"}`)
		_, upgraded := b.svc.Upgrade(ctx, bob, room, id.RoomV12, nil)
		for i, err := range []error{
			said, set, member, upgraded, b.svc.Ban(ctx, bob, room, carol.UserID, ""), b.svc.Kick(ctx, bob, room, alice.UserID, ""), b.svc.Unban(ctx, bob, room, carol.UserID, ""),
			b.svc.Invite(ctx, bob, room, carol.UserID, ""), b.svc.Invite(ctx, bob, room, alice.UserID, ""), b.svc.Leave(ctx, carol, room, ""),
		} {
			if mxerr.Code(err) != mxerr.CodeForbidden {
				t.Errorf("request %d in %s: got %v, want M_FORBIDDEN", i, room, err)
			}
		}
	}
	b.ok(b.svc.Leave(t.Context(), bob, left, "")) // a room that the user has left stays as it is
	b.ok(b.svc.Forget(t.Context(), bob, left))
	b.svc = b.open() // also after a restart
	b.svc.setRemote(wire{n, "b"}, keysFor{n, b})
	if b.room(left).Resident() || b.room(invitedTo).Resident() {
		t.Error("the server counts as a participant of a room without local members")
	}
	b.joinVia(bob, left, "a")
	n.deliver()
	if a.room(left).Membership(bob.UserID) != Join {
		t.Error("bob has not joined the room again")
	}
}

func TestInviteIsRejectedAlthoughItsServerIsUnreachable(t *testing.T) {
	n := newNetwork(t)
	a, b := n.add("a"), n.add("b")
	alice, bob := a.user("alice"), b.user("bob")
	room := a.create(alice, CreateRoom{Invite: []id.UserID{bob.UserID}})
	if b.room(room).Membership(bob.UserID) != Invite {
		t.Fatal("bob is not invited: the test proves nothing")
	}
	n.split([]string{"a"}, []string{"b"})
	b.ok(b.svc.Leave(t.Context(), bob, room, ""))
	if m := b.room(room).Membership(bob.UserID); m != Leave {
		t.Errorf("bob's membership is %q, want leave", m)
	}
	b.ok(b.svc.Forget(t.Context(), bob, room))
	n.split()
	a.ok(a.svc.Kick(t.Context(), alice, room, bob.UserID, ""))
	a.ok(a.svc.Invite(t.Context(), alice, room, bob.UserID, "")) // and he can be invited again
	if m := b.room(room).Membership(bob.UserID); m != Invite {
		t.Errorf("bob's membership is %q after another invite, want invite", m)
	}
}

func TestBlockedInvitesDoNotArrive(t *testing.T) {
	n := newNetwork(t)
	a, b := n.add("a"), n.add("b")
	alice, bob, carol := a.user("alice"), b.user("bob"), b.user("carol")
	b.ok(b.reads().SetAccountData(t.Context(), "", bob.UserNID, "m.invite_permission_config", `{"default_action":"block"}`))
	room := a.create(alice, CreateRoom{})
	err := a.svc.Invite(t.Context(), alice, room, bob.UserID, "")
	if mxerr.Code(err) == "" || a.room(room).Membership(bob.UserID) != "" {
		t.Errorf("got %v, want an error: bob blocks the inviter", err)
	}
	at := b.create(carol, CreateRoom{})
	b.refused(b.svc.Invite(t.Context(), carol, at, bob.UserID, ""), mxerr.CodeInviteBlocked)
	_, err = b.trySet(carol, at, typeMember, string(bob.UserID), `{"membership":"invite"}`)
	b.refused(err, mxerr.CodeInviteBlocked)
	_, err = b.svc.Create(t.Context(), carol, CreateRoom{Invite: []id.UserID{bob.UserID}})
	b.refused(err, mxerr.CodeInviteBlocked)
	b.ok(b.reads().SetAccountData(t.Context(), "", bob.UserNID, "m.invite_permission_config", `{"default_action":"other"}`))
	b.ok(b.svc.Invite(t.Context(), carol, at, bob.UserID, ""))
}

// joinMany joins n new users to a room.
func (p *peer) joinMany(room id.RoomID, n int) {
	var all sync.WaitGroup
	slots := make(chan struct{}, 64)
	for i := range n {
		u := p.user(fmt.Sprint("u", i))
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			p.ok(p.svc.Join(context.Background(), u, room, ""))
		})
	}
	all.Wait()
}

// The largest rooms can be joined, whether the members come with the response or later.
func TestRoomOf100000MembersIsJoined(t *testing.T) {
	if os.Getenv("EBB_TEST_LONG") == "" {
		t.Skip("making the room takes a minute: EBB_TEST_LONG=1")
	}
	const members = 100_000
	n := newNetwork(t)
	a, b, c := n.add("a"), n.add("b"), n.add("c")
	room := a.create(a.user("alice"), CreateRoom{Preset: "public_chat"})
	a.joinMany(room, members)
	began := time.Now()
	b.joinVia(b.user("bob"), room, "a")
	t.Logf("with all members after %v", time.Since(began))
	n.omit = true
	began = time.Now()
	c.joinVia(c.user("carol"), room, "a")
	c.complete(room)
	t.Logf("with the members later after %v", time.Since(began))
	n.deliver()
	for _, p := range []*peer{b, c} {
		if got := p.room(room).Count(Join); got != members+3 {
			t.Errorf("server %s counts %d members, want %d", p.name, got, members+3)
		}
	}
}

// Joining a room with 10,000 members must take less than 5 seconds. The short test uses a fifth of both numbers.
func TestRoomOfManyMembersIsJoinedQuickly(t *testing.T) {
	members, within := 2_000, time.Second
	if os.Getenv("EBB_TEST_LONG") != "" {
		members, within = 10_000, 5*time.Second
	}
	n := newNetwork(t)
	a, b := n.add("a"), n.add("b")
	alice := a.user("alice")
	room := a.create(alice, CreateRoom{Preset: "public_chat"})
	a.joinMany(room, members)
	began := time.Now()
	b.joinVia(b.user("bob"), room, "a")
	took := time.Since(began)
	n.omit = true
	c := n.add("c")
	began = time.Now()
	c.joinVia(c.user("carol"), room, "a")
	first := time.Since(began)
	c.complete(room)
	whole := time.Since(began)
	t.Logf("joined after %v; without the members after %v, with them after %v", took, first, whole)
	if took > 3*within || first > 300*time.Millisecond || whole > 3*within { // allows for a busy machine
		t.Errorf("the join took %v with full state; with partial state it took %v, and %v until the room was complete: too long", took, first, whole)
	}
	n.deliver()
	if got := b.room(room).Count(Join); got != members+3 {
		t.Errorf("after the join with full state the room has %d members, want %d", got, members+3)
	}
	if got := c.room(room).Count(Join); got != members+3 {
		t.Errorf("after the join with partial state the room has %d members, want %d", got, members+3)
	}
}
