package rooms

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/expiry"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// siege is a room of an honest server with a member on a hostile server.
type siege struct {
	*peer
	n       *network
	evil    *stranger
	alice   ident.Requester
	mallory id.UserID
	room    id.RoomID
}

func besieged(t *testing.T, version id.RoomVersion) *siege {
	n := newNetwork(t)
	return besiegedOn(n, n.add("here"), version, "alice")
}

// besiegedOn is like besieged, for a given server and the name of its user.
func besiegedOn(n *network, here *peer, version id.RoomVersion, alice string) *siege {
	s := &siege{n: n, peer: here}
	s.evil = n.stranger("evil", s.peer)
	s.alice, s.mallory = s.user(alice), s.evil.user("mallory")
	s.room = s.create(s.alice, CreateRoom{Preset: "public_chat", RoomVersion: version})
	s.evil.join(s.room, s.mallory)
	return s
}

// whole checks that the room still works, in memory and on disk.
func (s *siege) whole() {
	s.Helper()
	s.say(s.alice, s.room, "still here")
	s.matchesDisk(s.room)
}

func (s *siege) receive(raws ...json.RawMessage) map[id.EventID]error {
	s.Helper()
	results, err := s.svc.Receive(s.Context(), "evil", s.room, raws)
	if !errors.Is(err, ErrLater) {
		s.ok(err)
	}
	return results
}

// within checks that f returns within a time limit, in which only bounded work is possible.
func within(t testing.TB, limit time.Duration, what string, f func(ctx context.Context)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	select {
	case <-done:
	case <-time.After(limit + 5*time.Second):
		t.Fatalf("%s takes longer than %v", what, limit)
	}
}

// mangle replaces text in the JSON of an event.
func mangle(e *pdu.Event, from, to string) json.RawMessage {
	return json.RawMessage(strings.Replace(string(e.JSON()), from, to, 1))
}

// CVE-2025-30355 and others: an invalid event must harm neither other events nor the server.
func TestBadEventHarmsNoOther(t *testing.T) {
	s := besieged(t, id.RoomV11)
	other := s.create(s.alice, CreateRoom{Preset: "public_chat", RoomVersion: id.RoomV11})
	cases := map[string]func(e *pdu.Event) json.RawMessage{
		"signature of another event": func(e *pdu.Event) json.RawMessage { return mangle(e, `"origin_server_ts":`, `"origin_server_ts":1`) },
		"no signature":               func(e *pdu.Event) json.RawMessage { return mangle(e, `"evil":{`, `"elsewhere":{`) },
		"of another room": func(e *pdu.Event) json.RawMessage {
			return s.evil.make(other, pdu.Proto{Type: "x", Sender: s.mallory, PrevEvents: e.PrevEvents(), AuthEvents: e.AuthEvents()}).JSON()
		},
		"depth beyond 2^53":        func(e *pdu.Event) json.RawMessage { return mangle(e, `"depth":`, `"depth":922337203685477580`) },
		"depth is a fraction":      func(e *pdu.Event) json.RawMessage { return mangle(e, `"depth":`, `"depth":0.5e`) },
		"depth is a text":          func(e *pdu.Event) json.RawMessage { return mangle(e, `"depth":`, `"depth":"1","x":`) },
		"content is a list":        func(e *pdu.Event) json.RawMessage { return mangle(e, `"content":{`, `"content":[],"x":{`) },
		"type is a number":         func(e *pdu.Event) json.RawMessage { return mangle(e, `"type":"`, `"type":1,"x":"`) },
		"sender is nobody":         func(e *pdu.Event) json.RawMessage { return mangle(e, `"@mallory:evil"`, `"mallory"`) },
		"prev_events is an object": func(e *pdu.Event) json.RawMessage { return mangle(e, `"prev_events":[`, `"prev_events":{},"x":[`) },
		"invalid UTF-8":            func(e *pdu.Event) json.RawMessage { return mangle(e, `"body":"`, "\"body\":\"\xff\xfe") },
		"10,000 auth events": func(e *pdu.Event) json.RawMessage {
			return mangle(e, `"auth_events":[`, `"auth_events":[`+strings.Repeat(`"$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",`, 10_000))
		},
		"10 MiB": func(e *pdu.Event) json.RawMessage {
			return mangle(e, `"body":"`, `"body":"`+strings.Repeat("x", 10<<20))
		},
		"deep": func(e *pdu.Event) json.RawMessage {
			return mangle(e, `"body":"`, `"deep":`+strings.Repeat("[", 400_000)+strings.Repeat("]", 400_000)+`,"body":"`)
		},
		"cut off": func(e *pdu.Event) json.RawMessage { return e.JSON()[:len(e.JSON())/2] },
		"null":    func(*pdu.Event) json.RawMessage { return json.RawMessage(`null`) },
		"nothing": func(*pdu.Event) json.RawMessage { return json.RawMessage(``) },
		"list":    func(*pdu.Event) json.RawMessage { return json.RawMessage(`[1]`) },
		"of a local user": func(e *pdu.Event) json.RawMessage {
			return s.evil.make(s.room, pdu.Proto{Type: "m.room.message", Sender: s.alice.UserID, PrevEvents: e.PrevEvents()}).JSON()
		},
	}
	raws := []json.RawMessage{}
	for name, bad := range cases {
		raws = append(raws, bad(s.evil.say(s.room, s.mallory, name)))
	}
	good := s.evil.say(s.room, s.mallory, "good")
	raws = append(raws, good.JSON())
	results := s.receive(raws...)
	if err, told := results[good.ID()]; !told || err != nil {
		t.Fatalf("the result of the valid event is %v (reported: %v), want nil", err, told)
	}
	delete(results, good.ID())
	for eventID, err := range results {
		if err == nil || s.stored(s.room, eventID) != nil {
			t.Errorf("%s was accepted (%v): %s", eventID, err, s.stored(s.room, eventID).JSON())
		}
	}
	// Each event is in a transaction of its own.
	for name, bad := range cases {
		for eventID, err := range s.receive(bad(s.evil.say(s.room, s.mallory, name))) {
			if err == nil {
				t.Errorf("%s: %s was accepted", name, eventID)
			}
		}
	}
	if got := s.timeline(s.room); got[len(got)-1].ID() != good.ID() {
		t.Errorf("the newest event is %s, want the valid one", got[len(got)-1].JSON())
	}
	s.whole()
}

func TestEventWithModifiedContentIsStoredRedacted(t *testing.T) {
	s := besieged(t, id.RoomV11)
	e := s.evil.say(s.room, s.mallory, "as it was")
	if err := s.receive(mangle(e, "as it was", "something else"))[e.ID()]; err != nil {
		t.Fatal(err)
	}
	if got := s.stored(s.room, e.ID()); string(got.Content()) != `{}` {
		t.Fatalf("the content is %s, want {}", got.Content())
	}
	s.whole()
}

// CVE-2018-10657: an event with the maximum depth must not make the room unusable.
func TestMaximumDepthDoesNotMakeTheRoomUnusable(t *testing.T) {
	s := besieged(t, id.RoomV11)
	deep := s.evil.make(s.room, pdu.Proto{Type: "m.room.message", Sender: s.mallory, Depth: 1<<53 - 1})
	s.evil.sendGood(s.room, deep)
	for range 3 {
		s.say(s.alice, s.room, "deeper")
	}
	s.evil.sendGood(s.room, s.evil.say(s.room, s.mallory, "and deeper", s.ends()...))
	s.whole()
	events := s.timeline(s.room)
	for i := 1; i < len(events); i++ {
		if events[i].Order <= events[i-1].Order {
			t.Fatal("the events are not in the timeline in the order in which they arrived")
		}
	}
}

// ends returns the room's forward extremities.
func (s *siege) ends() []id.EventID { return s.house.room(s.room).extremityIDs() }

// setBy builds a state event of the hostile server.
func (s *siege) setBy(user id.UserID, typ, key, content string, prev ...id.EventID) *pdu.Event {
	s.Helper()
	return s.evil.make(s.room, pdu.Proto{Type: typ, StateKey: &key, Sender: user, Content: json.RawMessage(content), PrevEvents: prev})
}

// rows returns the number of database rows of an event.
func (s *siege) rows(eventID id.EventID) (n int) {
	s.Helper()
	s.ok(s.db.Read(s.Context(), func(tx *storage.Tx) error {
		rows, err := tx.EventsByID(s.house.room(s.room).nid, []string{string(eventID)})
		n = len(rows)
		return err
	}))
	return n
}

// CVE-2022-39374: a rejected event stays rejected, however often and by whatever operation it arrives, and gives no
// authority to other events.
func TestRejectedEventStaysRejected(t *testing.T) {
	s := besieged(t, id.RoomV11)
	before := s.ends()
	bad := s.setBy(s.mallory, typePowerLevels, "", `{"users":{"@mallory:evil":100}}`)
	for range 3 {
		if err := s.send1(bad); err == nil {
			t.Fatal("an event by which a user without power grants themselves power is accepted")
		}
	}
	if n := s.rows(bad.ID()); n != 1 {
		t.Errorf("the event is stored %d times, want 1", n)
	}
	// Events that follow or cite it must not make it accepted.
	onTop := s.setBy(s.mallory, typeName, "", `{"name":"mine"}`, bad.ID())
	s.send1(onTop)
	cites := s.evil.make(s.room, pdu.Proto{
		Type: typeName, StateKey: new(string), Sender: s.mallory, Content: json.RawMessage(`{"name":"mine"}`), PrevEvents: before,
		AuthEvents: append(slices.DeleteFunc(onTop.AuthEvents(), func(a id.EventID) bool { return a == s.house.room(s.room).State(typePowerLevels, "").ID() }), bad.ID()),
	})
	if err := s.send1(cites); err == nil {
		t.Error("an event is accepted that only a rejected event would allow")
	}
	if got := s.content(s.room, typeName, ""); got != "" {
		t.Errorf("the name is %s, want none", got)
	}
	if r := s.house.room(s.room); r.Levels().UserLevel(s.mallory) != 0 {
		t.Error("the power levels are those of the rejected event")
	}
	for _, e := range []*pdu.Event{bad, cites} {
		if _, err := s.reads().GetEvent(t.Context(), s.room, e.ID(), s.alice); mxerr.Code(err) != mxerr.CodeNotFound {
			t.Errorf("a client that requests the rejected %s gets %v, want M_NOT_FOUND", e.Type(), err)
		}
	}
	s.whole()
}

// The content of a rejected state event is not kept, however the event arrived.
func TestRejectedStateEventKeepsNoContent(t *testing.T) {
	s := besieged(t, id.RoomV11)
	bad := s.setBy(s.mallory, typePowerLevels, "", `{"users":{"@mallory:evil":100},"note":"marker"}`)
	name := s.setBy(s.mallory, typeName, "", `{"name":"marker"}`)
	inChain := s.setBy(s.mallory, "org.example.setting", "x", `{"text":"marker"}`)
	s.send1(bad)
	s.send1(name)
	s.send1(s.evil.make(s.room, pdu.Proto{ // this one arrives as an auth event first
		Type: "m.room.message", Sender: s.mallory, AuthEvents: append(slices.Clone(name.AuthEvents()), inChain.ID()),
	}))
	for _, e := range []*pdu.Event{bad, name, inChain} {
		n := 0
		if err := s.svc.db.Read(t.Context(), func(tx *storage.Tx) error {
			rows, err := tx.EventsByID(s.house.room(s.room).nid, []string{string(e.ID())})
			for _, row := range rows {
				if n++; strings.Contains(string(row.JSON), "marker") || row.Flags&storage.RejectedEvent == 0 {
					t.Errorf("a rejected event is stored with the flags %d as %s; want it rejected, without its content", row.Flags, row.JSON)
				}
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			t.Errorf("%s is not stored: the test proves nothing", e.Type())
		}
	}
	s.whole()
}

// An event that was known only by its ID, as part of a state, and is then rejected must not be stored again each time
// it arrives.
func TestRejectedEventThatWasKnownBeforeIsStoredOnce(t *testing.T) {
	s := besieged(t, id.RoomV11)
	bad := s.setBy(s.mallory, typePowerLevels, "", `{"users":{"@mallory:evil":100}}`)
	// It first arrives in an auth chain.
	cites := s.evil.make(s.room, pdu.Proto{
		Type: "m.room.message", Sender: s.mallory,
		AuthEvents: append(slices.DeleteFunc(bad.AuthEvents(), func(a id.EventID) bool { return a == s.house.room(s.room).State(typePowerLevels, "").ID() }), bad.ID()),
	})
	for range 3 {
		s.send1(cites)
		s.send1(bad)
	}
	if n := s.rows(bad.ID()); n > 2 {
		t.Errorf("the event is stored %d times, want at most 2", n)
	}
	if err := s.send1(bad); err == nil {
		t.Error("the rejected event is accepted when it arrives again")
	}
	s.whole()
}

func (s *siege) send1(e *pdu.Event) error {
	s.Helper()
	results := s.evil.send(s.room, e)
	err, told := results[e.ID()]
	if !told {
		s.Fatalf("nothing was told of %s", e.ID())
	}
	return err
}

// CVE-2022-39200: events that were requested are checked as thoroughly as events that were sent.
func TestMissingEventsAreVerified(t *testing.T) {
	s := besieged(t, id.RoomV11)
	forged := s.evil.say(s.room, s.mallory, "forged")
	byAlice := s.evil.make(s.room, pdu.Proto{Type: "m.room.message", Sender: s.alice.UserID, Content: json.RawMessage(`{"body":"I owe you"}`)})
	s.evil.missing = func([]id.EventID) ([]json.RawMessage, error) {
		return []json.RawMessage{mangle(forged, `"evil":{"ed25519:1":"`, `"evil":{"ed25519:1":"AAAA`), byAlice.JSON(), json.RawMessage(`{"broken":`)}, nil
	}
	tip := s.evil.say(s.room, s.mallory, "tip", forged.ID(), byAlice.ID())
	s.send1(tip)
	for _, e := range []*pdu.Event{forged, byAlice, tip} {
		if s.stored(s.room, e.ID()) != nil {
			t.Errorf("an invalid event of the response is stored: %s", e.JSON())
		}
	}
	s.whole()
}

// A server may claim forever that there are earlier events.
func TestEndlessMissingEventsAreNotFetched(t *testing.T) {
	s := besieged(t, id.RoomV11)
	asked := 0
	s.evil.missing = func([]id.EventID) ([]json.RawMessage, error) {
		asked++
		before := s.evil.say(s.room, s.mallory, fmt.Sprint("before ", asked), unknownID(asked))
		// The next request is for an event that does not exist, so the server returns events that were not requested.
		return []json.RawMessage{before.JSON()}, nil
	}
	within(t, time.Minute, "an endless history", func(context.Context) {
		s.send1(s.evil.say(s.room, s.mallory, "tip", unknownID(-1)))
	})
	if asked > maxMissingRounds {
		t.Errorf("the server was asked %d times for missing events, want at most %d", asked, maxMissingRounds)
	}
	s.whole()
}

// A server that responds with events that are known already must not be asked again and again.
func TestKnownEventsDoNotCountAsProgress(t *testing.T) {
	s := besieged(t, id.RoomV11)
	var known []json.RawMessage
	for range usualMissingPage {
		e := s.evil.say(s.room, s.mallory, "known")
		s.evil.sendGood(s.room, e)
		known = append(known, e.JSON())
	}
	s.evil.missing = func([]id.EventID) ([]json.RawMessage, error) { s.evil.asked["missing"]++; return known, nil }
	s.receive(s.evil.say(s.room, s.mallory, "after nothing", unknownID(1)).JSON())
	if n := s.evil.asked["missing"]; n != 1 {
		t.Errorf("the server was asked %d times for missing events, want 1", n)
	}
}

// unknownID returns the ID of an event that does not exist.
func unknownID(n int) id.EventID { return id.EventID(fmt.Sprintf("$%043d", n+100)) }

// Every missing event may name twenty more that do not exist.
func TestWideHistoryCostsLittle(t *testing.T) {
	s := besieged(t, id.RoomV11)
	n := 0
	s.evil.missing = func([]id.EventID) (out []json.RawMessage, err error) {
		for range maxMissingPage {
			prev := make([]id.EventID, pdu.MaxPrevEvents)
			for i := range prev {
				n++
				prev[i] = unknownID(n)
			}
			out = append(out, s.evil.say(s.room, s.mallory, "wide", prev...).JSON())
		}
		return out, nil
	}
	within(t, 30*time.Second, "a wide history", func(ctx context.Context) {
		_, _ = s.svc.Receive(ctx, "evil", s.room, []json.RawMessage{s.evil.say(s.room, s.mallory, "tip", unknownID(0)).JSON()})
	})
	s.whole()
}

// Two events that depend on each other, one as an auth event and the other as a prev_event, must not be waited for.
func TestEventsThatWaitForEachOtherAreRefused(t *testing.T) {
	for _, version := range []id.RoomVersion{id.RoomV1, id.RoomV11} {
		t.Run("v"+string(version), func(t *testing.T) {
			s := besieged(t, version)
			r := s.house.room(s.room)
			state := idsOf(s.stateEvents())
			s.evil.stateIDs = func(id.EventID) (all, chain []id.EventID, err error) { return state, nil, nil }
			// last cites, in two ways, an event that follows one that cannot be fetched.
			key := string(s.mallory)
			first := s.evil.make(s.room, pdu.Proto{
				Type: typeMember, StateKey: &key, Sender: s.mallory, Content: json.RawMessage(`{"membership":"join","displayname":"x"}`),
				PrevEvents: []id.EventID{unknownLike(version, 2)}, Depth: 1,
			})
			last := s.evil.make(s.room, pdu.Proto{
				Type: "m.room.message", Sender: s.mallory, PrevEvents: []id.EventID{unknownLike(version, 1)}, Depth: 1,
				AuthEvents: []id.EventID{r.State(typeCreate, "").ID(), r.State(typePowerLevels, "").ID(), first.ID()},
			})
			within(t, 20*time.Second, "a circle", func(ctx context.Context) {
				_, _ = s.svc.Receive(ctx, "evil", s.room, []json.RawMessage{first.JSON(), last.JSON()})
			})
			s.whole()
		})
	}
}

func unknownLike(version id.RoomVersion, n int) id.EventID {
	if version == id.RoomV1 {
		return id.EventID(fmt.Sprintf("$unknown%d:evil", n))
	}
	return unknownID(n)
}

// stateEvents returns the current state events.
func (s *siege) stateEvents() (out []*Event) {
	s.Helper()
	r := s.house.room(s.room)
	r.EachState(func(key pdu.StateKey, _, _ storage.Pos, _ *Event) bool {
		if key.Type != typeMember {
			out = append(out, r.head.state[key])
		}
		return true
	})
	for _, m := range r.Members(Join, Leave, Invite, Ban) {
		out = append(out, r.State(typeMember, string(m.User)))
	}
	return out
}

// In old room versions, servers choose event IDs, so events can precede each other in a circle.
func TestCircleOfFreelyChosenIDsIsRefused(t *testing.T) {
	s := besieged(t, id.RoomV1)
	chosen := func(name string, prev ...id.EventID) *pdu.Event {
		e := s.evil.say(s.room, s.mallory, name, prev...)
		raw := bytes.Replace(e.JSON(), []byte(e.ID()), []byte("$"+name+":evil"), 1)
		raw, err := sealAgain(raw, s.evil.signer)
		s.ok(err)
		again, err := pdu.Parse(s.house.room(s.room).version, raw)
		s.ok(err)
		return again
	}
	a, b, self := chosen("a", "$b:evil"), chosen("b", "$a:evil"), chosen("self", "$self:evil")
	within(t, 20*time.Second, "a circle", func(ctx context.Context) {
		results, err := s.svc.Receive(ctx, "evil", s.room, []json.RawMessage{a.JSON(), b.JSON(), self.JSON()})
		s.ok(err)
		for _, e := range []*pdu.Event{a, b, self} {
			if err, told := results[e.ID()]; err == nil {
				t.Errorf("the result of %s is %v (reported: %v), want a rejection", e.ID(), err, told)
			}
		}
	})
	s.whole()
}

// A thousand events may follow the same event.
func TestThousandEndsOfTheGraphAreMerged(t *testing.T) {
	s := besieged(t, id.RoomV11)
	head := s.ends()
	var events []*pdu.Event
	for i := range 1000 {
		events = append(events, s.evil.say(s.room, s.mallory, fmt.Sprint(i), head...))
	}
	within(t, time.Minute, "a wide graph", func(context.Context) {
		for part := range slices.Chunk(events, 50) {
			s.evil.sendGood(s.room, part...)
		}
	})
	if n := len(s.ends()); n > maxExtremities {
		t.Errorf("the room has %d forward extremities, want at most %d", n, maxExtremities)
	}
	s.whole()
	if n := len(s.ends()); n != 1 {
		t.Errorf("after an event of this server the room has %d forward extremities, want 1", n)
	}
}

func TestServerThatHasLeftARoomIgnoresItsEvents(t *testing.T) {
	s := besieged(t, id.RoomV11)
	e := s.evil.say(s.room, s.mallory, "nobody is there")
	s.ok(s.svc.Leave(t.Context(), s.alice, s.room, ""))
	s.receive(e.JSON())
	if s.stored(s.room, e.ID()) != nil {
		t.Error("an event of a room that this server has left is stored")
	}
}

// CVE-2023-45129: the access control list of the room is evaluated for every transaction.
func TestHostileAccessControlListCostsLittle(t *testing.T) {
	s := besieged(t, id.RoomV11)
	deny := make([]string, 1500)
	for i := range deny {
		deny[i] = strings.Repeat("*a", 10) + fmt.Sprint(i)
	}
	raw, err := json.Marshal(map[string]any{"allow": []string{"*"}, "deny": deny})
	s.ok(err)
	s.set(s.alice, s.room, typeServerACL, "", string(raw))
	r := s.house.room(s.room)
	within(t, 5*time.Second, "a list of patterns", func(context.Context) {
		for range 250 {
			if !r.AllowsServer(strings.Repeat("a", 200)) {
				t.Error("a server that the list does not deny is denied")
			}
		}
	})
}

func TestAccessControlListBlocksServers(t *testing.T) {
	s := besieged(t, id.RoomV11)
	s.set(s.alice, s.room, typeServerACL, "", `{"allow":["*"],"deny":["EV?L","*.bad.org"],"allow_ip_literals":false}`)
	_, err := s.svc.Receive(t.Context(), "evil", s.room, []json.RawMessage{s.evil.say(s.room, s.mallory, "let me in").JSON()})
	s.refused(err, mxerr.CodeForbidden)
	r := s.house.room(s.room)
	for server, want := range map[string]bool{
		"good.org": true, "good.org:8448": true, "evil:8448": false, "Evil": false, "x.bad.org": false, "bad.org": true, "1.2.3.4": false, "1.2.3.4:1": false,
		"[::1]": false, "[::1]:8448": false,
	} {
		if got := r.AllowsServer(server); got != want {
			t.Errorf("%s: allowed is %v, want %v", server, got, want)
		}
	}
}

// CVE-2026-45076: pages continue beyond events that nobody may see.
func TestPagesContinueBeyondRejectedEvents(t *testing.T) {
	s := besieged(t, id.RoomV11)
	first := s.say(s.alice, s.room, "first")
	head := s.ends()
	s.ok(s.svc.Ban(t.Context(), s.alice, s.room, s.mallory, ""))
	for part := range 4 {
		var events []*pdu.Event
		for i := range 50 {
			e := s.evil.make(s.room, pdu.Proto{
				Type: "m.room.message", Sender: s.mallory, PrevEvents: head, Content: json.RawMessage(fmt.Sprintf(`{"body":"%d.%d"}`, part, i)),
				AuthEvents: s.authBefore(head[0]),
			})
			events = append(events, e)
		}
		s.evil.send(s.room, events...)
	}
	last := s.say(s.alice, s.room, "last")
	seen := map[id.EventID]bool{}
	token := ""
	for range 50 {
		chunk, end, err := s.reads().Messages(t.Context(), s.room, s.alice, token, 5)
		s.ok(err)
		for _, raw := range chunk {
			var e struct {
				ID     id.EventID `json:"event_id"`
				Sender id.UserID
				Type   string
			}
			s.ok(json.Unmarshal(raw, &e))
			seen[e.ID] = true
			if e.Sender == s.mallory && e.Type == "m.room.message" {
				t.Fatalf("a page has a rejected event: %s", raw)
			}
		}
		if token = end; token == "" {
			break
		}
	}
	if !seen[first] || !seen[last] || token != "" {
		t.Errorf("the first event is on a page: %v; the last: %v; the token at the end is %q, want none", seen[first], seen[last], token)
	}
	if got := s.ends(); len(got) != 1 || got[0] != last {
		t.Errorf("the forward extremities are %v, want only %s", got, last)
	}
	s.whole()
}

// authBefore returns the auth events that mallory cited while she was in the room.
func (s *siege) authBefore(head id.EventID) []id.EventID {
	s.Helper()
	r := s.house.room(s.room)
	var join id.EventID
	for _, e := range s.timeline(s.room) {
		if e.IsStateKey(typeMember, string(s.mallory)) && e.ContentString("membership") == Join {
			join = e.ID()
		}
	}
	return []id.EventID{r.State(typeCreate, "").ID(), r.State(typePowerLevels, "").ID(), join}
}

// MSC4307: an event of another room does not authorise anything.
func TestAuthEventOfAnotherRoomIsNotAccepted(t *testing.T) {
	for _, version := range []id.RoomVersion{id.RoomV10, id.RoomV12} {
		t.Run("v"+string(version), func(t *testing.T) {
			s := besieged(t, version)
			other := s.create(s.alice, CreateRoom{Preset: "public_chat", RoomVersion: version})
			s.evil.join(other, s.mallory)
			s.ok(s.svc.Ban(t.Context(), s.alice, s.room, s.mallory, ""))
			auth := s.authBefore("")
			auth[2] = s.house.room(other).State(typeMember, string(s.mallory)).ID()
			if s.house.room(s.room).version.RoomIDIsCreateHash {
				auth = auth[1:]
			}
			e := s.evil.make(s.room, pdu.Proto{Type: "m.room.message", Sender: s.mallory, AuthEvents: auth})
			if err := s.send1(e); err == nil && s.stored(s.room, e.ID()) != nil {
				t.Error("an event is accepted that cites an auth event of another room")
			}
			s.whole()
		})
	}
}

// The size of a state response is bounded, and a state event in it that is not authorised has no effect.
func TestUnauthorisedStateResponseHasNoEffect(t *testing.T) {
	s := besieged(t, id.RoomV11)
	carol := s.evil.user("carol") // keeps the hostile server in the room
	s.evil.join(s.room, carol)
	s.ok(s.svc.Ban(t.Context(), s.alice, s.room, s.mallory, ""))
	bobs := s.evil.user("bob")
	key := string(bobs)
	r := s.house.room(s.room)
	// The sender of this name event claims a state that nobody else knows, in which the sender has given themselves
	// power.
	pl := s.evil.make(s.room, pdu.Proto{Type: typePowerLevels, StateKey: new(string), Sender: s.mallory, Content: json.RawMessage(`{"users":{"@mallory:evil":100,"@bob:evil":100}}`),
		PrevEvents: []id.EventID{unknownID(1)}, AuthEvents: s.authBefore("")})
	join := s.evil.make(s.room, pdu.Proto{Type: typeMember, StateKey: &key, Sender: bobs, Content: json.RawMessage(`{"membership":"join"}`),
		PrevEvents: []id.EventID{pl.ID()}, AuthEvents: []id.EventID{r.State(typeCreate, "").ID(), r.State(typeJoinRules, "").ID(), pl.ID()}})
	name := s.evil.make(s.room, pdu.Proto{Type: typeName, StateKey: new(string), Sender: bobs, Content: json.RawMessage(`{"name":"mine"}`),
		Depth: 1, PrevEvents: []id.EventID{unknownID(2)}, AuthEvents: []id.EventID{r.State(typeCreate, "").ID(), pl.ID(), join.ID()}})
	state := append(idsOf(s.stateEvents()), pl.ID(), join.ID())
	s.evil.stateIDs = func(id.EventID) (all, chain []id.EventID, err error) { return state, nil, nil }
	s.evil.send(s.room, name)
	if got := s.content(s.room, typeName, ""); got != "" {
		t.Errorf("the name is %s, want none", got)
	}
	if s.house.room(s.room).Levels().UserLevel(bobs) != 0 {
		t.Error("bob has power by a state that its auth events do not authorise")
	}
	s.whole()
	huge := make([]id.EventID, maxForeignState+1)
	for i := range huge {
		huge[i] = unknownID(i)
	}
	asked := false
	s.evil.stateIDs = func(id.EventID) (all, chain []id.EventID, err error) { asked = true; return huge, nil, nil }
	after := s.evil.make(s.room, pdu.Proto{Type: "m.room.message", Sender: carol, PrevEvents: []id.EventID{unknownID(3)}, Depth: 1})
	if s.send1(after); s.stored(s.room, after.ID()) != nil {
		t.Error("an event is accepted on a state that is too large")
	}
	if !asked {
		t.Error("the hostile server was not asked for a state: the test proves nothing")
	}
	s.whole()
}

// A banned user must not be able to speak by sending events that follow those from before the ban.
func TestEventOfBannedUserBesideTheBanIsHidden(t *testing.T) {
	s := besieged(t, id.RoomV11)
	head := s.ends()
	auth := s.authBefore("")
	s.ok(s.svc.Ban(t.Context(), s.alice, s.room, s.mallory, ""))
	e := s.evil.make(s.room, pdu.Proto{Type: "m.room.message", Sender: s.mallory, PrevEvents: head, AuthEvents: auth})
	if err := s.send1(e); err != nil {
		t.Errorf("the sender gets the error %v for a soft failure, want none", err)
	}
	if got := s.stored(s.room, e.ID()); got == nil || got.Flags&storage.SoftFailedEvent == 0 {
		t.Fatalf("the event is stored as %+v, want it soft-failed", got)
	}
	_, err := s.reads().GetEvent(t.Context(), s.room, e.ID(), s.alice)
	s.refused(err, mxerr.CodeNotFound)
	s.whole()
}

func TestEventThatArrivesTwiceIsStoredOnce(t *testing.T) {
	s := besieged(t, id.RoomV11)
	e := s.evil.say(s.room, s.mallory, "twice")
	s.evil.sendGood(s.room, e, e)
	s.evil.sendGood(s.room, e)
	if n := s.rows(e.ID()); n != 1 {
		t.Errorf("the event is stored %d times, want 1", n)
	}
	s.whole()
}

// An event that arrives after its child must not become a forward extremity.
func TestLateEventIsNotAForwardExtremity(t *testing.T) {
	s := besieged(t, id.RoomV11)
	late := s.evil.say(s.room, s.mallory, "late")
	child := s.evil.say(s.room, s.mallory, "child", late.ID())
	state := idsOf(s.stateEvents())
	s.evil.stateIDs = func(id.EventID) (all, chain []id.EventID, err error) { return state, nil, nil }
	tip := s.evil.say(s.room, s.mallory, "tip", child.ID())
	s.evil.missing = func([]id.EventID) ([]json.RawMessage, error) { return []json.RawMessage{child.JSON()}, nil }
	s.evil.sendGood(s.room, tip)
	head := s.ends()
	if !slices.Contains(head, tip.ID()) {
		t.Fatalf("the forward extremities are %v, want them to include the newest event: the test proves nothing", head)
	}
	s.evil.sendGood(s.room, late)
	if got := s.ends(); slices.Contains(got, late.ID()) {
		t.Errorf("the forward extremities are %v; they include the late event, although another event follows it", got)
	}
	s.whole()
}

func TestRedactionArrivesBeforeItsTarget(t *testing.T) {
	s := besieged(t, id.RoomV11)
	head := s.ends()
	target := s.evil.say(s.room, s.mallory, "secret", head...)
	redaction := s.evil.make(s.room, pdu.Proto{Type: typeRedaction, Sender: s.mallory, Redacts: target.ID(), PrevEvents: head})
	s.evil.sendGood(s.room, redaction)
	s.evil.sendGood(s.room, target)
	got := s.stored(s.room, target.ID())
	if strings.Contains(string(got.JSON()), "secret") || got.RedactedBy == 0 {
		t.Errorf("the target is stored as %s, want it redacted", got.JSON())
	}
	s.whole()
}

func TestRedactionNeedsThePowerOrTheSameServer(t *testing.T) {
	s := besieged(t, id.RoomV11)
	mine := s.say(s.alice, s.room, "by alice")
	s.evil.sendGood(s.room, s.evil.make(s.room, pdu.Proto{Type: typeRedaction, Sender: s.mallory, Redacts: mine}))
	if got := s.stored(s.room, mine); got.RedactedBy != 0 || !strings.Contains(string(got.JSON()), "by alice") {
		t.Errorf("a redaction by mallory took effect on %s", got.JSON())
	}
	s.whole()
}

// An event that cannot be judged, here because a database row is damaged, must not keep other events out.
func TestEventThatCannotBeJudgedHarmsNoOther(t *testing.T) {
	s := besieged(t, id.RoomV11)
	lost := s.set(s.alice, s.room, typeTopic, "", `{"topic":"old"}`)
	s.say(s.alice, s.room, "about something else")
	head := s.ends()
	s.set(s.alice, s.room, typeTopic, "", `{"topic":"new"}`)
	pos := s.stored(s.room, lost).Pos
	fork := s.evil.say(s.room, s.mallory, "fork", head...)
	good := s.evil.say(s.room, s.mallory, "good")
	s.ok(s.db.Write(t.Context(), func(tx *storage.Tx) error { return tx.PurgeEvent(pos, string(lost)) }))
	results := s.evil.send(s.room, fork, good)
	if err, told := results[good.ID()]; err != nil || !told {
		t.Errorf("the result of the valid event is %v (reported: %v), want nil", err, told)
	}
	if results[fork.ID()] == nil {
		t.Error("the event that cannot be authorised is accepted")
	}
	s.whole()
}

// Messages expire by their position in the timeline, so a message without a position is not kept.
func TestMessageInAnAuthChainIsNotKept(t *testing.T) {
	s := besieged(t, id.RoomV11)
	secret := s.evil.say(s.room, s.mallory, "secret")
	cites := s.evil.make(s.room, pdu.Proto{Type: "m.room.message", Sender: s.mallory, AuthEvents: append(s.authBefore(""), secret.ID())})
	s.send1(cites)
	if got := s.stored(s.room, secret.ID()); got != nil {
		t.Errorf("a message in an auth chain is stored: %s", got.JSON())
	}
	s.whole()
}

// A server that responds slowly must not delay events that need nothing from the network.
func TestSlowServerDelaysNoOtherEvents(t *testing.T) {
	s := besieged(t, id.RoomV11)
	good := s.n.stranger("good", s.peer)
	bob := good.user("bob")
	good.join(s.room, bob)
	asked, answer := make(chan struct{}), make(chan struct{})
	s.evil.missing = func([]id.EventID) ([]json.RawMessage, error) {
		close(asked)
		<-answer
		return nil, nil
	}
	slow := s.evil.say(s.room, s.mallory, "slow", unknownID(1)).JSON()
	done := make(chan error)
	go func() {
		_, err := s.svc.Receive(context.WithoutCancel(t.Context()), "evil", s.room, []json.RawMessage{slow})
		done <- err
	}()
	<-asked
	within(t, 10*time.Second, "an event of another server", func(context.Context) {
		good.sendGood(s.room, good.say(s.room, bob, "quick"))
	})
	close(answer)
	if err := <-done; !errors.Is(err, ErrLater) {
		t.Error(err)
	}
	s.whole()
}

// CVE-2024-31208: a server can make an auth chain as long as it likes.
func TestLongAuthChainCostsLittle(t *testing.T) {
	s := besieged(t, id.RoomV11)
	auth, key := s.authBefore(""), string(s.mallory)
	for i := range 5000 {
		e := s.evil.make(s.room, pdu.Proto{
			Type: typeMember, StateKey: &key, Sender: s.mallory, Content: json.RawMessage(fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, i)),
			PrevEvents: []id.EventID{unknownID(i)}, AuthEvents: append(slices.Clone(auth), s.house.room(s.room).State(typeJoinRules, "").ID()),
		})
		auth[2] = e.ID()
	}
	e := s.evil.make(s.room, pdu.Proto{Type: "m.room.message", Sender: s.mallory, AuthEvents: auth})
	within(t, time.Minute, "a long auth chain", func(ctx context.Context) {
		_, err := s.svc.Receive(ctx, "evil", s.room, []json.RawMessage{e.JSON()})
		s.ok(err)
	})
	if s.stored(s.room, e.ID()) == nil {
		t.Error("the event at the end of the auth chain is not stored")
	}
	s.whole()
}

// A purged message must not get its content back, however it arrives again.
func TestPurgedMessageDoesNotComeBack(t *testing.T) {
	n := newNetwork(t)
	s := &siege{n: n, peer: n.add("here", func(o *Options) {
		day := 24 * time.Hour
		o.Retention.Default = expiry.Policy{Max: &day}
	})}
	s.evil = n.stranger("evil", s.peer)
	s.alice, s.mallory = s.user("alice"), s.evil.user("mallory")
	s.room = s.create(s.alice, CreateRoom{Preset: "public_chat", RoomVersion: id.RoomV11})
	s.evil.join(s.room, s.mallory)
	secret := s.evil.say(s.room, s.mallory, "secret")
	s.evil.sendGood(s.room, secret)
	s.now = s.now.Add(48 * time.Hour)
	s.say(s.alice, s.room, "two days later")
	s.purge(s.room)
	if s.stored(s.room, secret.ID()) != nil {
		t.Fatal("the message is not purged: the test proves nothing")
	}
	// The event arrives in a transaction, and as a missing event.
	fork := s.evil.say(s.room, s.mallory, "fork", secret.ID())
	s.evil.missing = func([]id.EventID) ([]json.RawMessage, error) { return []json.RawMessage{secret.JSON()}, nil }
	s.evil.send(s.room, fork)
	s.evil.send(s.room, secret)
	if got := s.stored(s.room, secret.ID()); got != nil && (!got.Hidden() || strings.Contains(string(got.JSON()), "secret")) {
		t.Errorf("the purged message is stored again: %s", got.JSON())
	}
	for _, eventID := range s.pages(s.alice, s.room, 10) {
		if eventID == secret.ID() {
			t.Error("the purged message is in the timeline")
		}
	}
	s.whole()
}

func TestEntryThatStateResolutionDeletesIsAChange(t *testing.T) {
	s := besieged(t, id.RoomV11)
	bob := s.user("bob")
	s.ok(s.svc.Join(t.Context(), bob, s.room, ""))
	levels := func(bob int) string {
		return fmt.Sprintf(`{"users":{%q:100,%q:100,"@bob:here":%d},"state_default":50}`, s.alice.UserID, s.mallory, bob)
	}
	s.set(s.alice, s.room, typePowerLevels, "", levels(50))
	head := s.ends()
	noKey := ""
	demotion := s.evil.make(s.room, pdu.Proto{Type: typePowerLevels, StateKey: &noKey, Sender: s.mallory, Content: json.RawMessage(levels(0)), PrevEvents: head})
	s.set(bob, s.room, "x.note", "key", `{"body":"by bob"}`)
	before := s.house.room(s.room).Last()
	s.evil.sendGood(s.room, demotion)
	note := pdu.StateKey{Type: "x.note", Key: "key"}
	deleted := func(when string, want bool) {
		t.Helper()
		r := s.house.room(s.room)
		if got := slices.Contains(r.Resolved(before), note); got != want || r.State(note.Type, note.Key) != nil == want {
			t.Errorf("%s: the entry is among the resolved ones: %t, want %t; it is in the state: %t", when, got, want, r.State(note.Type, note.Key) != nil)
		}
		if slices.Contains(r.Resolved(r.Last()), note) {
			t.Errorf("%s: the entry counts as changed after the newest event", when)
		}
	}
	deleted("at once", true)
	s.whole()
	again, err := s.open().Room(t.Context(), s.room)
	s.ok(err)
	if !slices.Contains(again.Resolved(before), note) {
		t.Error("after a restart the entry does not count as changed any more")
	}
	s.set(s.alice, s.room, "x.note", "key", `{"body":"by alice"}`)
	deleted("once it is set again", false)
	s.whole()
}
