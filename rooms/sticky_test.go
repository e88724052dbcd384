package rooms

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// sticky builds a message that is sticky for a time, after the given events.
func (s *stranger) sticky(room id.RoomID, user id.UserID, text string, d time.Duration, prev, auth []id.EventID) *pdu.Event {
	s.n.Helper()
	ms := d.Milliseconds()
	return s.make(room, pdu.Proto{Type: "m.room.message", Sender: user, Content: json.RawMessage(`{"body":"` + text + `"}`), StickyMS: &ms, PrevEvents: prev, AuthEvents: auth})
}

// stuck returns the bodies of the events of a room that clients get as sticky.
func (h *house) stuck(room id.RoomID) (bodies string) {
	h.Helper()
	h.ok(h.db.Read(h.Context(), func(tx *storage.Tx) error {
		rows, err := tx.StickyEvents([]ident.RoomNID{h.room(room).nid}, 0, 1<<60, h.now.UnixMilli(), 100)
		for i := range rows {
			e, err := h.room(room).LoadEvent(&rows[i])
			h.ok(err)
			bodies += e.ContentString("body") + " "
		}
		return err
	}))
	if after := h.svc.Sticky().After(h.room(room).nid, 0, h.now.UnixMilli()); bodies != "" && !after {
		h.Errorf("memory knows of no sticky events, but there are %s", bodies)
	}
	return strings.TrimSpace(bodies)
}

// readmitted makes the checks that are queued.
func (h *house) readmitted() (n int) {
	h.Helper()
	for {
		select {
		case nid := <-h.svc.toReadmit:
			h.ok(h.svc.readmit(h.Context(), nid))
			n++
		default:
			return n
		}
	}
}

func TestSoftFailedStickyEventsArriveWhenTheStateAllowsThem(t *testing.T) {
	s := besieged(t, id.RoomV11)
	s.set(s.alice, s.room, typePowerLevels, "", `{"users":{"`+string(s.alice.UserID)+`":100},"events":{"org.example.state":0}}`)
	head, auth := s.ends(), s.authBefore("")
	target := s.say(s.alice, s.room, "target")
	s.ok(s.svc.Ban(t.Context(), s.alice, s.room, s.mallory, ""))
	long := s.evil.sticky(s.room, s.mallory, "long", time.Hour, head, auth)
	short := s.evil.sticky(s.room, s.mallory, "short", time.Minute, head, auth)
	plain := s.evil.make(s.room, pdu.Proto{Type: "m.room.message", Sender: s.mallory, PrevEvents: head, AuthEvents: auth})
	ms, key := time.Hour.Milliseconds(), ""
	state := s.evil.make(s.room, pdu.Proto{Type: "org.example.state", StateKey: &key, Sender: s.mallory, StickyMS: &ms, PrevEvents: head, AuthEvents: auth})
	reply := s.evil.make(s.room, pdu.Proto{Type: "m.room.message", Sender: s.mallory, StickyMS: &ms, PrevEvents: head, AuthEvents: auth,
		Content: json.RawMessage(`{"body":"reply","m.relates_to":{"rel_type":"m.thread","event_id":"` + string(target) + `"}}`)})
	s.evil.send(s.room, long, short, plain, state)
	s.evil.send(s.room, reply) // apart, since events of one transaction that do not depend on each other have no order
	if got := s.stuck(s.room); got != "" {
		t.Errorf("soft-failed events are sticky: %q", got)
	}
	for _, e := range []*pdu.Event{long, reply} {
		_, err := s.reads().GetEvent(t.Context(), s.room, e.ID(), s.alice)
		s.refused(err, mxerr.CodeNotFound)
	}
	s.set(s.alice, s.room, typeName, "", `{"name":"x"}`)
	if s.readmitted(); s.stuck(s.room) != "" {
		t.Error("events of a banned user have arrived")
	}
	s.now = s.now.Add(2 * time.Minute)
	s.ok(s.svc.Unban(t.Context(), s.alice, s.room, s.mallory, ""))
	s.evil.join(s.room, s.mallory)
	var arrived []id.EventID
	s.listen(func(c *Commit) {
		for _, e := range c.Events {
			if !e.Hidden() {
				arrived = append(arrived, e.ID())
			}
		}
	})
	ends := s.ends()
	if n := s.readmitted(); n == 0 {
		t.Fatal("a change of a membership causes no new check of soft-failed events")
	}
	if got := s.stuck(s.room); got != "long reply" {
		t.Errorf("the sticky events are %q, want those that the state allows now", got)
	}
	if !slices.Equal(arrived, []id.EventID{long.ID(), reply.ID()}) || !slices.Equal(s.ends(), ends) {
		t.Errorf("the events that arrived are %v; the forward extremities were %v and are %v", arrived, ends, s.ends())
	}
	for _, e := range []*pdu.Event{long, reply} {
		if _, err := s.reads().GetEvent(t.Context(), s.room, e.ID(), s.alice); err != nil {
			t.Errorf("GetEvent of the event that arrived: %v", err)
		}
	}
	if raw, err := s.reads().GetEvent(t.Context(), s.room, target, s.alice); err != nil || !strings.Contains(string(raw), `"count":1`) {
		t.Errorf("the root of the reply's thread is %s (%v), want it with one reply", raw, err)
	}
	for _, e := range []*pdu.Event{short, plain, state} {
		if s.stored(s.room, e.ID()).Flags&storage.SoftFailedEvent == 0 {
			t.Errorf("an event has arrived that is a state event, or not sticky at this time: %s", e.JSON())
		}
	}
	if s.readmitted(); len(arrived) != 2 {
		t.Errorf("after another check the events that arrived are %v, want no further ones", arrived)
	}
	s.whole()
	s.svc = s.open()
	if got := s.stuck(s.room); got != "long reply" {
		t.Errorf("after a restart the sticky events are %q, want the same as before", got)
	}
	s.whole()
}

// What happened before a stop is found at the next start.
func TestSoftFailedStickyEventsAreCheckedAtTheStart(t *testing.T) {
	s := besieged(t, id.RoomV11)
	head, auth := s.ends(), s.authBefore("")
	s.ok(s.svc.Ban(t.Context(), s.alice, s.room, s.mallory, ""))
	s.evil.send(s.room, s.evil.sticky(s.room, s.mallory, "sticky", time.Hour, head, auth))
	s.ok(s.svc.Unban(t.Context(), s.alice, s.room, s.mallory, ""))
	s.evil.join(s.room, s.mallory)
	s.svc = s.open()
	s.ok(s.svc.readmitAll(t.Context()))
	if got := s.stuck(s.room); got != "sticky" {
		t.Errorf("the sticky events are %q, want %q", got, "sticky")
	}
}

func TestASoftFailedStickyRedactionTakesEffectWhenItArrives(t *testing.T) {
	s := besieged(t, id.RoomV11)
	own := s.evil.sticky(s.room, s.mallory, "own", time.Hour, nil, nil)
	s.evil.sendGood(s.room, own)
	head, auth := s.ends(), s.authBefore("")
	s.ok(s.svc.Ban(t.Context(), s.alice, s.room, s.mallory, ""))
	ms := time.Hour.Milliseconds()
	redaction := s.evil.make(s.room, pdu.Proto{Type: typeRedaction, Sender: s.mallory, Redacts: own.ID(), StickyMS: &ms, PrevEvents: head, AuthEvents: auth})
	s.evil.send(s.room, redaction)
	if got := s.stuck(s.room); got != "own" || s.stored(s.room, own.ID()).RedactedBy != 0 {
		t.Fatalf("the sticky events are %q, want only the target, which is not redacted yet", got)
	}
	s.ok(s.svc.Unban(t.Context(), s.alice, s.room, s.mallory, ""))
	s.evil.join(s.room, s.mallory)
	s.readmitted()
	if e := s.stored(s.room, own.ID()); e.RedactedBy == 0 || s.stuck(s.room) != "" || e.StickyUntil() != 0 {
		t.Errorf("the target is %s and the sticky events are %q; want the target redacted and none", e.JSON(), s.stuck(s.room))
	}
	s.whole()
}

// What a policy server does not sign is not sticky, however the state changes.
func TestEventsThatThePolicyServerRefusesAreNeverSticky(t *testing.T) {
	s, p, _, _ := guarded(t)
	p.down = true
	e := s.evil.sticky(s.room, s.mallory, "spam", time.Hour, nil, nil)
	s.ok(s.send1(e))
	if s.stored(s.room, e.ID()).Flags&storage.SoftFailedEvent == 0 {
		t.Fatal("the event is not soft-failed")
	}
	p.down = false
	s.set(s.alice, s.room, typeName, "", `{"name":"x"}`)
	s.ok(s.svc.readmitAll(t.Context()))
	s.readmitted()
	if got := s.stuck(s.room); got != "" {
		t.Errorf("the sticky events are %q, want none", got)
	}
	s.whole()
}

// A server that joins is sent old events. Those that are sticky arrive, whatever precedes them, and change no state.
func TestStickyEventsFromBeforeTheJoinArrive(t *testing.T) {
	n := newNetwork(t)
	old, late := n.add("old"), n.add("late")
	alice, bob := old.user("alice"), late.user("bob")
	room := old.public(alice)
	old.set(alice, room, typeName, "", `{"name":"first"}`)
	ms := time.Hour.Milliseconds()
	send := func(text string) id.EventID {
		eventID, err := old.svc.Send(t.Context(), NewEvent{Room: room, Sender: alice, Type: "m.room.message", Content: json.RawMessage(`{"body":"` + text + `"}`), StickyMS: &ms})
		old.ok(err)
		return eventID
	}
	first := send("first")
	plain := old.say(alice, room, "plain")
	second := send("second")
	old.set(alice, room, typeName, "", `{"name":"second"}`)
	third := send("third")
	late.now = old.now
	late.joinVia(bob, room, "old")
	n.deliver()
	ends := late.ends2(room)
	raws := map[id.EventID]json.RawMessage{}
	for _, eventID := range []id.EventID{first, plain, second, third} {
		raws[eventID] = old.stored(room, eventID).JSON()
	}
	late.now = late.now.Add(10 * time.Minute)
	for _, eventID := range []id.EventID{second, plain, first, third, second} {
		if _, err := late.svc.Receive(t.Context(), "old", room, []json.RawMessage{raws[eventID]}); err != nil {
			t.Errorf("%s: %v", raws[eventID], err)
		}
	}
	if got := late.stuck(room); got != "second first third" {
		t.Errorf("the sticky events are %q, want second, first and third", got)
	}
	if e := late.stored(room, second); e == nil || e.Hidden() || e.StickyUntil() != old.now.Add(time.Hour).UnixMilli() {
		t.Errorf("the event is stored as %+v, want it shown, and sticky for an hour", e)
	}
	if late.stored(room, plain) != nil {
		t.Error("an event from before the join arrives as a new one although it is not sticky")
	}
	if got := late.ends2(room); !slices.Equal(got, ends) || late.content(room, typeName, "") != `{"name":"second"}` {
		t.Errorf("the forward extremities were %v and are %v, and the name is %s; want no change", ends, got, late.content(room, typeName, ""))
	}
	late.matchesDisk(room)
	want := old.pages(alice, room, 1000)
	got := late.pages(bob, room, 1000)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the pages back to the beginning have %d events, want %d", len(got), len(want))
	}
	late.svc = late.open()
	late.matchesDisk(room)
}

// ends2 returns the forward extremities of a room.
func (p *peer) ends2(room id.RoomID) []id.EventID { return p.room(room).extremityIDs() }

// Sticky events that come with the history are found too.
func TestStickyEventsOfTheHistoryAreSticky(t *testing.T) {
	h := withHistory(t, 3)
	ms := time.Hour.Milliseconds()
	_, err := h.old.svc.Send(t.Context(), NewEvent{Room: h.room, Sender: h.alice, Type: "m.room.message", Content: json.RawMessage(`{"body":"sticky"}`), StickyMS: &ms})
	h.old.ok(err)
	late := h.n.add("later")
	late.now = h.old.now.Add(time.Minute)
	carol := late.user("carol")
	late.joinVia(carol, h.room, "old")
	if got := late.stuck(h.room); got != "" {
		t.Fatalf("before the history is fetched, the sticky events are %q, want none", got)
	}
	late.pages(carol, h.room, 100)
	if got := late.stuck(h.room); got != "sticky" {
		t.Errorf("the sticky events are %q, want %q", got, "sticky")
	}
}

func TestServersSeeStickyEventsWhateverTheHistoryVisibility(t *testing.T) {
	n := newNetwork(t)
	old, late := n.add("old"), n.add("late")
	alice, bob := old.user("alice"), late.user("bob")
	room := old.public(alice)
	old.set(alice, room, typeHistoryVisibility, "", `{"history_visibility":"joined"}`)
	ms := time.Hour.Milliseconds()
	sticky, err := old.svc.Send(t.Context(), NewEvent{Room: room, Sender: alice, Type: "m.room.message", Content: json.RawMessage(`{"body":"sticky"}`), StickyMS: &ms})
	old.ok(err)
	late.joinVia(bob, room, "old")
	see := func() string {
		raw, err := old.reads().EventForServer(t.Context(), "late", sticky)
		old.ok(err)
		return string(raw)
	}
	if !strings.Contains(see(), `"body":"sticky"`) {
		t.Errorf("a server in the room gets %s, want the content of the sticky event", see())
	}
	old.now = old.now.Add(time.Hour)
	if strings.Contains(see(), "body") {
		t.Errorf("a server in the room still gets the content of an event that is not sticky any more: %s", see())
	}
}

// The events of other servers count from when they were sent or received, whichever is earlier.
func TestStickinessBeginsAtTheEarlierTime(t *testing.T) {
	s := besieged(t, id.RoomV11)
	ms := time.Hour.Milliseconds()
	for name, c := range map[string]struct {
		sent time.Duration // before the arrival
		left time.Duration
	}{"late": {30 * time.Minute, 30 * time.Minute}, "from the future": {-24 * time.Hour, time.Hour}, "too late": {2 * time.Hour, 0}} {
		e := s.evil.make(s.room, pdu.Proto{Type: "m.room.message", Sender: s.mallory, Content: json.RawMessage(`{"body":"x"}`), StickyMS: &ms, OriginServerTS: s.now.Add(-c.sent).UnixMilli()})
		s.evil.sendGood(s.room, e)
		if left := time.Duration(max(0, s.stored(s.room, e.ID()).StickyUntil()-s.now.UnixMilli())) * time.Millisecond; left != c.left {
			t.Errorf("%s: sticky for %v, want %v", name, left, c.left)
		}
	}
	if got := s.stuck(s.room); got != "x x" {
		t.Errorf("the sticky events are %q, want %q", got, "x x")
	}
}
