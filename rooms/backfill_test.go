package rooms

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/expiry"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// askAgain is the time after which other servers are asked again for events that they did not have.
const askAgain = 10*time.Minute + time.Second

// pastRoom is a room with some history on one server, which another server has just joined.
type pastRoom struct {
	n         *network
	old, late *peer
	alice     ident.Requester
	bob       ident.Requester
	room      id.RoomID
	said      []id.EventID
}

func withHistory(t *testing.T, messages int) *pastRoom {
	n := newNetwork(t)
	h := &pastRoom{n: n, old: n.add("old"), late: n.add("late")}
	h.alice, h.bob = h.old.user("alice"), h.late.user("bob")
	h.room = h.old.public(h.alice)
	for i := range messages {
		h.old.now = h.old.now.Add(time.Second)
		h.said = append(h.said, h.old.say(h.alice, h.room, fmt.Sprint("said ", i)))
	}
	h.late.now = h.old.now
	h.late.joinVia(h.bob, h.room, "old")
	return h
}

// pages reads a room back to its beginning and returns the event IDs, newest first.
func (p *peer) pages(u ident.Requester, room id.RoomID, limit int) (ids []id.EventID) {
	p.Helper()
	token := ""
	for range 1000 {
		chunk, end, err := p.reads().Messages(p.Context(), room, u, token, limit)
		p.ok(err)
		if len(chunk) > limit {
			p.Fatalf("%d events in a page of %d", len(chunk), limit)
		}
		for _, raw := range chunk {
			ids = append(ids, clientID(p, raw))
		}
		if token = end; token == "" {
			return ids
		}
	}
	p.Fatal("the pages have no end")
	return nil
}

func clientID(p *peer, raw json.RawMessage) id.EventID {
	p.Helper()
	var e struct {
		ID id.EventID `json:"event_id"`
	}
	p.ok(json.Unmarshal(raw, &e))
	return e.ID
}

func TestHistoryIsFetchedForUsersWhoReadBack(t *testing.T) {
	for _, limit := range []int{7, 100, 1000} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			h := withHistory(t, 250)
			h.n.deliver()
			want := h.old.pages(h.alice, h.room, 1000)
			if got := h.late.pages(h.bob, h.room, limit); !slices.Equal(got, want) {
				t.Fatalf("%d events, want %d", len(got), len(want))
			}
			h.late.matchesDisk(h.room)
			// Now the server that has the events can be reached.
			h.n.split([]string{"old"}, []string{"late"})
			if got := h.late.pages(h.bob, h.room, limit); !slices.Equal(got, want) {
				t.Fatalf("once it is stored: %d events, want %d", len(got), len(want))
			}
			h.late.svc = h.late.open()
			if got := h.late.pages(h.bob, h.room, limit); !slices.Equal(got, want) {
				t.Fatalf("after a restart: %d events, want %d", len(got), len(want))
			}
		})
	}
}

// A user who reads back must see only the events that the history visibility of their time allows.
func TestFetchedHistoryKeepsItsVisibility(t *testing.T) {
	n := newNetwork(t)
	old, late := n.add("old"), n.add("late")
	alice, bob := old.user("alice"), late.user("bob")
	room := old.public(alice)
	shared := old.say(alice, room, "for those who come later")
	old.set(alice, room, typeHistoryVisibility, "", `{"history_visibility":"joined"}`)
	secret := old.say(alice, room, "for those who are here")
	old.set(alice, room, typeHistoryVisibility, "", `{"history_visibility":"shared"}`)
	again := old.say(alice, room, "for everybody again")
	late.joinVia(bob, room, "old")
	n.deliver()
	got := late.pages(bob, room, 10)
	if !slices.Contains(got, shared) || !slices.Contains(got, again) || slices.Contains(got, secret) {
		t.Errorf("shared: %v, again: %v, secret: %v", slices.Contains(got, shared), slices.Contains(got, again), slices.Contains(got, secret))
	}
}

// Servers that have no earlier events must not be asked again for every page.
func TestMissingHistoryIsNotRequestedForEveryPage(t *testing.T) {
	h := withHistory(t, 10)
	h.n.split([]string{"old"}, []string{"late"})
	first := h.late.pages(h.bob, h.room, 10)
	h.n.split()
	if got := h.late.pages(h.bob, h.room, 10); len(got) != len(first) {
		t.Errorf("right after a request for history: %d events instead of %d: the server asked again", len(got), len(first))
	}
	h.late.now = h.late.now.Add(askAgain)
	if got := h.late.pages(h.bob, h.room, 10); len(got) <= len(first)+10 {
		t.Errorf("after a while: %d events instead of more than %d: the server did not ask again", len(got), len(first)+10)
	}
}

// Expired events must not be fetched from other servers.
func TestExpiredHistoryIsNotFetched(t *testing.T) {
	n := newNetwork(t)
	old := n.add("old")
	late := n.add("late", func(o *Options) {
		day := 24 * time.Hour
		o.Retention.Default = expiry.Policy{Max: &day}
	})
	alice, bob := old.user("alice"), late.user("bob")
	room := old.public(alice)
	for i := range 150 {
		old.say(alice, room, fmt.Sprint("long ago ", i))
	}
	old.now = old.now.Add(48 * time.Hour)
	fresh := old.say(alice, room, "today")
	late.now = old.now
	late.joinVia(bob, room, "old")
	got := late.pages(bob, room, 20)
	if !slices.Contains(got, fresh) {
		t.Error("the unexpired message is missing")
	}
	for _, e := range late.timeline(room) {
		if e.Type() == "m.room.message" && e.ID() != fresh && string(e.Content()) != `{}` {
			t.Fatalf("an expired message is stored with its content: %s", e.JSON())
		}
	}
	edges := 0
	late.ok(late.db.Read(t.Context(), func(tx *storage.Tx) error {
		left, err := tx.BackwardEdges(late.room(room).nid, 0, math.MaxInt64, 10)
		edges = len(left)
		return err
	}))
	if edges != 0 {
		t.Errorf("%d missing events are recorded, want 0: they have expired", edges)
	}
}

// A hostile server must not be able to insert invalid events into the history.
func TestFetchedHistoryIsVerified(t *testing.T) {
	s := besieged(t, id.RoomV11)
	missing := s.evil.say(s.room, s.mallory, "missing")
	tip := s.evil.say(s.room, s.mallory, "tip", missing.ID())
	child := s.evil.say(s.room, s.mallory, "child", tip.ID())
	state := idsOf(s.stateEvents())
	s.evil.stateIDs = func(id.EventID) (all, chain []id.EventID, err error) { return state, nil, nil }
	s.evil.missing = func([]id.EventID) ([]json.RawMessage, error) { return []json.RawMessage{tip.JSON()}, nil }
	s.evil.sendGood(s.room, child)
	if s.stored(s.room, tip.ID()) == nil || s.stored(s.room, missing.ID()) != nil {
		t.Fatal("the missing event is stored, or the one that follows it is not: the test proves nothing")
	}
	unrelated := s.evil.say(s.room, s.mallory, "unrelated")
	byAlice := s.evil.make(s.room, pdu.Proto{Type: "m.room.message", Sender: s.alice.UserID, Content: json.RawMessage(`{"body":"I owe you"}`)})
	asked := 0
	s.evil.backfill = func([]id.EventID) ([]json.RawMessage, error) {
		asked++
		return []json.RawMessage{mangle(missing, `"evil":{"ed25519:1":"`, `"evil":{"ed25519:1":"AAAA`), byAlice.JSON(), unrelated.JSON(), json.RawMessage(`[`)}, nil
	}
	s.pages(s.alice, s.room, 10)
	for _, e := range []*pdu.Event{missing, unrelated, byAlice} {
		if s.stored(s.room, e.ID()) != nil {
			t.Errorf("an invalid event of the response is stored: %s", e.JSON())
		}
	}
	if asked != 1 {
		t.Errorf("another server was asked %d times, want 1", asked)
	}
	s.now = s.now.Add(askAgain)
	s.evil.backfill = func([]id.EventID) ([]json.RawMessage, error) { return []json.RawMessage{missing.JSON()}, nil }
	got := s.pages(s.alice, s.room, 10)
	at := slices.Index(got, tip.ID())
	if at < 0 || at+1 == len(got) || got[at+1] != missing.ID() {
		t.Errorf("the timeline does not have the missing event right before the event that names it: %v", got)
	}
	s.whole()
}

// A server that always claims to have earlier events must not keep anybody waiting forever.
func TestEndlessHistoryIsFetchedInParts(t *testing.T) {
	s := besieged(t, id.RoomV11)
	state := idsOf(s.stateEvents())
	s.evil.stateIDs = func(id.EventID) (all, chain []id.EventID, err error) { return state, nil, nil }
	// The history is created in reverse order: each event names one that is created when it is requested.
	chain := []*pdu.Event{s.evil.say(s.room, s.mallory, "0", unknownID(1))}
	for i := range 3000 {
		chain = append(chain, s.evil.say(s.room, s.mallory, fmt.Sprint(i+1), chain[i].ID()))
	}
	tip := chain[len(chain)-1]
	child := s.evil.say(s.room, s.mallory, "child", tip.ID())
	s.evil.missing = func([]id.EventID) ([]json.RawMessage, error) { return []json.RawMessage{tip.JSON()}, nil }
	asked := 0
	s.evil.backfill = func(from []id.EventID) (out []json.RawMessage, err error) {
		asked++
		at := slices.IndexFunc(chain, func(e *pdu.Event) bool { return e.ID() == from[0] })
		for i := at; i >= 0 && i > at-3; i-- {
			out = append(out, chain[i].JSON())
		}
		return out, nil
	}
	s.evil.sendGood(s.room, child)
	chunk, end, err := s.reads().Messages(t.Context(), s.room, s.alice, "", 100)
	s.ok(err)
	if end == "" || asked > 5 {
		t.Errorf("got %d events after %d requests, with the token %q; want at most 5 requests and a token", len(chunk), asked, end)
	}
	s.whole()
}

func TestContextIncludesFetchedHistory(t *testing.T) {
	h := withHistory(t, 20)
	join := h.late.room(h.room).State(typeMember, string(h.bob.UserID))
	before, err := h.late.reads().Before(t.Context(), h.room, join.ID(), h.bob, 10)
	h.late.ok(err)
	if len(before) != 5 || clientID(h.late, before[0]) != h.said[19] {
		t.Errorf("%d events before the join, want the newest 5", len(before))
	}
}

func TestEventByTimestampIsFetchedFromHistory(t *testing.T) {
	h := withHistory(t, 120)
	for _, backwards := range []bool{true, false} {
		t.Run(fmt.Sprint(backwards), func(t *testing.T) {
			want := h.said[10]
			at := time.UnixMilli(h.old.stored(h.room, want).OriginServerTS())
			got, _, err := h.late.reads().TimestampToEvent(t.Context(), h.room, h.bob, at, backwards)
			h.late.ok(err)
			if got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}
