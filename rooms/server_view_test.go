package rooms

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/mxerr"
	"ebb/rooms/pdu"
)

// waysIn returns the requests with which another server can read a room.
func (p *peer) waysIn(origin string, room id.RoomID, event id.EventID) map[string]func(ctx context.Context) (any, error) {
	r := p.reads()
	return map[string]func(ctx context.Context) (any, error){
		"event": func(ctx context.Context) (any, error) { return r.EventForServer(ctx, origin, event) },
		"state": func(ctx context.Context) (any, error) {
			state, _, err := r.StateForServer(ctx, origin, room, event)
			return state, err
		},
		"event_auth": func(ctx context.Context) (any, error) { return r.AuthChainForServer(ctx, origin, room, event) },
		"backfill": func(ctx context.Context) (any, error) {
			return r.BackfillForServer(ctx, origin, room, []id.EventID{event}, 100)
		},
		"missing": func(ctx context.Context) (any, error) {
			return r.MissingEventsForServer(ctx, origin, room, nil, []id.EventID{event}, 100, 0)
		},
		"timestamp_to_event": func(ctx context.Context) (any, error) {
			eventID, _, err := r.EventAtTimeForServer(ctx, origin, room, p.now.UnixMilli(), true)
			return eventID, err
		},
		"make_leave": func(ctx context.Context) (any, error) {
			return p.svc.Template(ctx, origin, room, id.UserID("@spy:"+origin), Leave, nil)
		},
	}
}

// CVE-2022-39335 and similar: a server that is not in the room must not be able to read anything of it.
func TestServersThatAreNotInARoomReadNothingOfIt(t *testing.T) {
	n := newNetwork(t)
	here, there := n.add("here"), n.add("there")
	alice, bob := here.user("alice"), there.user("bob")
	room := here.create(alice, CreateRoom{Preset: "public_chat"})
	there.joinVia(bob, room, "here")
	message := here.say(alice, room, "for members")
	n.deliver()
	refused := func(origin string) {
		t.Helper()
		for name, read := range here.waysIn(origin, room, message) {
			if got, err := read(t.Context()); mxerr.Code(err) != mxerr.CodeForbidden {
				t.Errorf("%s by %s: got %v, %v; want M_FORBIDDEN", name, origin, got, err)
			}
		}
	}
	refused("spy")
	refused("")
	refused("re")
	for name, read := range here.waysIn("there", room, message) {
		if _, err := read(t.Context()); err != nil && name != "make_leave" {
			t.Errorf("%s by a server in the room: %v", name, err)
		}
	}
	here.set(alice, room, typeServerACL, "", `{"allow":["*"],"deny":["there"]}`)
	refused("there")
	here.set(alice, room, typeServerACL, "", `{"allow":["*"]}`)
	here.ok(here.svc.Kick(t.Context(), alice, room, bob.UserID, ""))
	refused("there")
	for name, read := range here.waysIn("spy", "!unknown:here", "$unknown") {
		if got, err := read(t.Context()); mxerr.Code(err) != mxerr.CodeNotFound {
			t.Errorf("%s of an unknown room: got %v, %v; want M_NOT_FOUND", name, got, err)
		}
	}
}

// told returns the text of everything that a server can read by backfill, going back from an event.
func (p *peer) told(origin string, room id.RoomID, from id.EventID) string {
	p.Helper()
	events, err := p.reads().BackfillForServer(p.Context(), origin, room, []id.EventID{from}, 100)
	p.ok(err)
	missing, err := p.reads().MissingEventsForServer(p.Context(), origin, room, nil, []id.EventID{from}, 100, 0)
	p.ok(err)
	text, err := json.Marshal(append(events, missing...))
	p.ok(err)
	return string(text)
}

// From room version 12 on, no event names the create event in its auth_events, but other servers still expect it in
// auth chains.
func TestAuthChainsGoBackToTheCreateEvent(t *testing.T) {
	for _, v := range sharedVersions {
		for _, omit := range []bool{false, true} {
			n := newNetwork(t)
			n.omit = omit
			here, there := n.add("here"), n.add("there")
			alice, bob := here.user("alice"), there.user("bob")
			room := here.create(alice, CreateRoom{RoomVersion: v, Preset: "public_chat"})
			create := here.room(room).State(typeCreate, "").ID()
			l := there.lie()
			l.joined = func(a *fedclient.JoinAnswer) {
				version, _ := pdu.VersionOf(v)
				given := map[id.EventID]bool{}
				for _, raw := range append(slices.Clone(a.AuthChain), a.State...) {
					given[idOf(version, raw)] = true
				}
				inChain := slices.ContainsFunc(a.AuthChain, func(raw json.RawMessage) bool { return idOf(version, raw) == create })
				if inChain == omit || !given[create] { // if members are omitted, events of the state are not repeated in the chain
					t.Errorf("version %s, omit_members %t: the auth chain in the response to send_join has the create event: %t; or the response lacks it", v, omit, inChain)
				}
			}
			there.joinVia(bob, room, "here")
			message := here.say(alice, room, "hello")
			_, chain, err := here.reads().StateForServer(t.Context(), "there", room, message)
			here.ok(err)
			if !slices.Contains(idsOf(chain), create) {
				t.Errorf("version %s: the auth chain of a state lacks the create event", v)
			}
			first := here.chained(room)[1].ID() // the creator's join, which cites nothing from version 12 on
			for _, eventID := range []id.EventID{message, first} {
				chain, err = here.reads().AuthChainForServer(t.Context(), "there", room, eventID)
				here.ok(err)
				if !slices.Contains(idsOf(chain), create) {
					t.Errorf("version %s: the auth chain of %s lacks the create event", v, eventID)
				}
			}
			if chain, err = here.reads().AuthChainForServer(t.Context(), "there", room, create); err != nil || len(chain) != 0 {
				t.Errorf("version %s: the auth chain of the create event has %d events (%v), want none", v, len(chain), err)
			}
		}
	}
}

func TestServersCanReadWhatTheirUsersCouldSee(t *testing.T) {
	for history, before := range map[string]bool{"joined": false, "invited": false, "shared": true, "world_readable": true} {
		n := newNetwork(t)
		here, there := n.add("here"), n.add("there")
		alice, bob := here.user("alice"), there.user("bob")
		room := here.create(alice, CreateRoom{Preset: "public_chat", InitialState: []InitialState{{Type: typeHistoryVisibility, Content: json.RawMessage(`{"history_visibility":"` + history + `"}`)}}})
		early := here.say(alice, room, "before anybody came")
		here.set(alice, room, typeTopic, "", `{"topic":"an early topic"}`)
		there.joinVia(bob, room, "here")
		late := here.say(alice, room, "for bob too")
		told := here.told("there", room, late)
		for text, want := range map[string]bool{"before anybody came": before, "an early topic": before, "for bob too": true, `"membership":"join"`: true, history: true} {
			if strings.Contains(told, text) != want {
				t.Errorf("history visibility %s: the server gets %q: %t, want %t", history, text, !want, want)
			}
		}
		if raw, err := here.reads().EventForServer(t.Context(), "there", early); err != nil || strings.Contains(string(raw), "before anybody came") != before {
			t.Errorf("history visibility %s: the event is sent as %s (%v); want its content: %t", history, raw, err, before)
		}
	}
}

func TestServersDoNotGetExpiredMessages(t *testing.T) {
	n := newNetwork(t)
	here, there := n.add("here"), n.add("there")
	alice, bob := here.user("alice"), there.user("bob")
	room := here.create(alice, CreateRoom{Preset: "public_chat"})
	there.joinVia(bob, room, "here")
	old := here.say(alice, room, "gone after an hour")
	here.set(alice, room, typeRetention, "", `{"max_lifetime":3600000}`)
	here.now = here.now.Add(2 * time.Hour)
	if told := here.told("there", room, here.say(alice, room, "new")); strings.Contains(told, "gone after") || !strings.Contains(told, `"new"`) {
		t.Errorf("the server gets %s, want the new message and not the expired one", told)
	}
	if raw, err := here.reads().EventForServer(t.Context(), "there", old); mxerr.Code(err) != mxerr.CodeNotFound {
		t.Errorf("a server that requests an expired event gets %s (%v), want M_NOT_FOUND", raw, err)
	}
}

// The messages of a user who asked to be erased remain readable only for servers that were in the room at the time.
func TestMessagesOfErasedUsersAreReadableForServersOfTheTime(t *testing.T) {
	n := newNetwork(t)
	here, first, second := n.add("here"), n.add("first"), n.add("second")
	alice, eve := here.user("alice"), here.user("eve")
	room := here.create(alice, CreateRoom{Preset: "public_chat"})
	here.ok(here.svc.Join(t.Context(), eve, room, ""))
	first.joinVia(first.user("bob"), room, "here")
	here.say(eve, room, "what eve said")
	here.ok(here.svc.Erase(t.Context(), eve.UserNID))
	second.joinVia(second.user("carol"), room, "here")
	last := here.say(alice, room, "later")
	if told := here.told("first", room, last); !strings.Contains(told, "what eve said") {
		t.Error("a server that was in the room before the erasure does not get the content")
	}
	if told := here.told("second", room, last); strings.Contains(told, "what eve said") || !strings.Contains(told, "later") {
		t.Errorf("a server that came after the erasure gets %s, want it without the erased user's content", told)
	}
}
