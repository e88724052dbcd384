package rooms

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// Messages that were never shown are no exception from the time for which the room keeps messages.
func TestPurgeRemovesSoftFailedMessages(t *testing.T) {
	s := besieged(t, id.RoomV11)
	head, auth := s.ends(), s.authBefore("")
	s.ok(s.svc.Ban(t.Context(), s.alice, s.room, s.mallory, ""))
	e := s.evil.make(s.room, pdu.Proto{Type: "m.room.message", Sender: s.mallory, PrevEvents: head, AuthEvents: auth, Content: json.RawMessage(`{"body":"soft"}`)})
	s.ok(s.send1(e))
	if got := s.stored(s.room, e.ID()); got == nil || got.Flags&storage.SoftFailedEvent == 0 {
		t.Fatalf("the event is stored as %+v, want it soft-failed", got)
	}
	s.keep(s.room, time.Minute)
	s.now = s.now.Add(time.Hour)
	s.purge(s.room)
	if got := s.stored(s.room, e.ID()); got != nil {
		t.Errorf("the purge left %+v", got)
	}
	s.whole()
}

func TestPurgeRemovesRejectedAndUndecidedMessages(t *testing.T) {
	l := withoutKey(t, id.RoomV11)
	undecided := l.dead.say(l.carol, l.room, "nobody can tell")
	l.n.deliver()
	l.good.say(l.alice, l.room, "follows it")
	l.n.deliver()
	if got := l.stored(l.room, undecided); got == nil || !got.Undecided() || got.Order != 0 {
		t.Fatalf("the event is stored as %+v, want it undecided", got)
	}
	l.keep(l.room, time.Minute)
	l.purge(l.room)
	if l.stored(l.room, undecided) == nil {
		t.Error("the purge removed a message that has not expired")
	}
	l.now = l.now.Add(time.Hour)
	l.purge(l.room)
	if got := l.stored(l.room, undecided); got != nil {
		t.Errorf("the purge left %+v", got)
	}
	l.say(l.bob, l.room, "later")
	l.matchesDisk(l.room)
}

func TestPurgeRemovesSupersededState(t *testing.T) {
	n := newNetwork(t)
	here, there := n.add("here", func(o *Options) { o.Retention.SupersededState = true }), n.add("there")
	alice, bob, carol := here.user("alice"), there.user("bob"), there.user("carol")
	room := here.create(alice, CreateRoom{Preset: "public_chat", Name: "first name"})
	first := here.set(alice, room, "m.room.topic", "", `{"topic":"first topic"}`)
	custom := here.set(alice, room, "m.custom", "k", `{"text":"first text"}`)
	member := here.set(alice, room, "m.room.member", string(alice.UserID), `{"membership":"join","displayname":"first alias"}`)
	message := here.say(alice, room, "hello")
	there.joinVia(bob, room, "here")
	n.deliver()
	here.now = here.now.Add(time.Hour)
	last := here.set(alice, room, "m.room.topic", "", `{"topic":"last topic"}`)
	here.set(alice, room, "m.custom", "k", `{"text":"last text"}`)
	here.set(alice, room, "m.room.member", string(alice.UserID), `{"membership":"join","displayname":"last alias"}`)
	n.deliver()
	here.keep(room, time.Minute)
	here.purge(room)
	here.purge(room)
	for _, e := range []id.EventID{first, custom, member} {
		got := here.stored(room, e)
		if got == nil || got.Flags&storage.SkeletonEvent == 0 || !slices.Equal(got.JSON(), mustRedact(here, got).JSON()) || here.sees(room, e) {
			t.Errorf("of superseded state, %+v is stored", got)
		}
	}
	if m := pdu.Membership(here.stored(room, member).Content()); m != Join {
		t.Errorf("the former member event says %q: authorisation needs it", m)
	}
	if here.stored(room, message) != nil {
		t.Error("the message is not purged")
	}
	if got := here.stored(room, last); got.Flags != 0 || !strings.Contains(string(got.JSON()), "last topic") {
		t.Errorf("current state is stored as %s", got.JSON())
	}
	if name := here.stored(room, stateIDs(here.house, room)[pdu.StateKey{Type: "m.room.name"}]); name == nil || !strings.Contains(string(name.JSON()), "first name") {
		t.Error("the name, which is current, is gone")
	}
	here.matchesDisk(room)
	there.joinVia(carol, room, "here")
	there.say(bob, room, "still works")
	n.deliver()
	if mine, theirs := stateIDs(here.house, room), stateIDs(there.house, room); !maps.Equal(mine, theirs) {
		t.Error("the servers no longer agree on the state")
	}
	here.svc = here.open()
	here.say(alice, room, "after a restart")
	here.matchesDisk(room)
}

// Of old state under a legal hold, readers see no more than of old state that was purged, until the hold is lifted.
func TestSupersededStateUnderAHoldIsHiddenAndNotPurged(t *testing.T) {
	n := newNetwork(t)
	here, there := n.add("here", func(o *Options) { o.Retention.SupersededState = true }), n.add("there")
	alice, bob := here.user("alice"), there.user("bob")
	room := here.create(alice, CreateRoom{Preset: "public_chat", Name: "first name"})
	first := here.set(alice, room, "m.room.topic", "", `{"topic":"first topic"}`)
	third := here.set(alice, room, "m.room.third_party_invite", "k", `{"public_key":"key","display_name":"x"}`)
	there.joinVia(bob, room, "here")
	n.deliver()
	nid := here.legalHold(CommittedHold{Room: here.room(room).NID()}, 0)
	here.set(alice, room, "m.room.topic", "", `{"topic":"second topic"}`)
	here.set(alice, room, "m.room.third_party_invite", "k", `{}`)
	here.now = here.now.Add(time.Hour)
	last := here.set(alice, room, "m.room.topic", "", `{"topic":"last topic"}`)
	n.deliver()
	here.keep(room, time.Minute)
	for range 2 {
		here.purge(room)
	}
	row, found := here.row(string(first))
	if !found || row.Flags != storage.KeptEvent || !strings.Contains(string(row.JSON), "first topic") {
		t.Fatalf("of the held topic, %+v is stored", row)
	}
	if e := here.stored(room, first); strings.Contains(string(e.JSON()), "first topic") || !e.Hidden() || here.sees(room, first) {
		t.Errorf("readers get the held topic as %s", e.JSON())
	}
	for _, current := range []id.EventID{last, stateIDs(here.house, room)[pdu.StateKey{Type: "m.room.name"}], third} {
		if row, found := here.row(string(current)); !found || row.Flags != 0 {
			t.Errorf("what is not superseded, or a third-party invite, is stored as %+v", row)
		}
	}
	here.matchesDisk(room)
	here.svc = here.open()
	there.say(bob, room, "after the restart")
	n.deliver()
	here.matchesDisk(room)
	here.legalHold(CommittedHold{Room: here.room(room).NID()}, nid)
	if got := here.released(); got != 2 {
		t.Errorf("%d events are purged after the hold was lifted, want the two old topics", got)
	}
	if row, found := here.row(string(first)); !found || row.Flags != storage.SkeletonEvent || strings.Contains(string(row.JSON), "first topic") {
		t.Errorf("after the hold was lifted, %+v is stored", row)
	}
	if mine, theirs := stateIDs(here.house, room), stateIDs(there.house, room); !maps.Equal(mine, theirs) {
		t.Error("the servers no longer agree on the state")
	}
	here.matchesDisk(room)
}

// joined returns a server that has joined a room of another one, which has a name, and a topic that is returned.
func joined(t *testing.T) (n *network, here, there *peer, alice, bob ident.Requester, room id.RoomID, topic id.EventID) {
	n = newNetwork(t)
	here, there = n.add("here", func(o *Options) { o.Retention.SupersededState = true }), n.add("there")
	alice, bob = here.user("alice"), there.user("bob")
	room = there.create(bob, CreateRoom{Preset: "public_chat", Name: "the name"})
	topic = there.set(bob, room, "m.room.topic", "", `{"topic":"first topic"}`)
	here.joinVia(alice, room, "there")
	here.until("the room is complete", func() bool { return !here.room(room).Partial() })
	n.deliver()
	here.keep(room, time.Minute)
	return n, here, there, alice, bob, room, topic
}

func (h *house) textOf(eventID id.EventID) string {
	h.Helper()
	row, _ := h.row(string(eventID))
	return string(row.JSON)
}

func TestPurgeRemovesSupersededStateFromBeforeTheJoin(t *testing.T) {
	n, here, there, alice, bob, room, first := joined(t)
	name := stateIDs(here.house, room)[pdu.StateKey{Type: "m.room.name"}]
	last := there.set(bob, room, "m.room.topic", "", `{"topic":"last topic"}`)
	n.deliver()
	here.now = here.now.Add(outlierRest - time.Hour)
	here.purge(room)
	if got := here.textOf(first); !strings.Contains(got, "first topic") {
		t.Errorf("state that may still be about to become current is stored as %s", got)
	}
	here.now = here.now.Add(2 * time.Hour)
	here.purge(room)
	if row, found := here.row(string(first)); !found || strings.Contains(string(row.JSON), "first topic") || row.Flags&storage.SkeletonEvent == 0 {
		t.Errorf("of the topic from before the join, %+v is stored", row)
	}
	if a, b := here.textOf(name), here.textOf(last); !strings.Contains(a, "the name") || !strings.Contains(b, "last topic") {
		t.Errorf("current state is stored as %s and %s", a, b)
	}
	if n := here.purge(room); n != 0 {
		t.Errorf("%d events are purged again", n)
	}
	here.say(alice, room, "still here")
	there.say(bob, room, "and there")
	n.deliver()
	here.matchesDisk(room)
}

// An event that is current from before the join can be fetched as history later.
func TestPurgeKeepsCurrentStateThatIsAlsoPartOfTheHistory(t *testing.T) {
	_, here, _, alice, _, room, topic := joined(t)
	here.pages(alice, room, 10)
	here.now = here.now.Add(2 * outlierRest)
	here.purge(room)
	row, found := here.row(string(topic))
	if !found || row.Order == 0 || row.Flags&storage.GoneEvent != 0 || !strings.Contains(string(row.JSON), "first topic") {
		t.Errorf("current state is stored as %+v", row)
	}
	if !slices.Contains(here.pages(alice, room, 10), topic) {
		t.Error("the history lacks the event")
	}
}

func TestPurgeKeepsSupersededStateUnlessConfigured(t *testing.T) {
	h := oneHouse(t)
	alice := h.user("alice")
	room := h.public(alice)
	first := h.set(alice, room, "m.room.topic", "", `{"topic":"first topic"}`)
	h.set(alice, room, "m.room.topic", "", `{"topic":"last topic"}`)
	h.keep(room, time.Minute)
	h.now = h.now.Add(time.Hour)
	h.purge(room)
	if got := h.stored(room, first); got == nil || got.Flags != 0 {
		t.Errorf("the former topic is stored as %+v", got)
	}
}
