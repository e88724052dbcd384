package rooms

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
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

// lossy is a room of three servers. The first server cannot fetch the key of the third any more.
type lossy struct {
	*peer // the server that lacks the key
	good  *peer
	dead  *peer
	n     *network
	alice ident.Requester // user on the server good, with a high power level
	bob   ident.Requester // user on this server
	carol ident.Requester // user on the server dead, with a high power level
	room  id.RoomID
}

func withoutKey(t *testing.T, version id.RoomVersion) *lossy {
	n := newNetwork(t)
	n.heedless = true
	l := &lossy{n: n, peer: n.add("here"), good: n.add("good"), dead: n.add("dead")}
	l.alice, l.bob, l.carol = l.good.user("alice"), l.user("bob"), l.dead.user("carol")
	levels := fmt.Sprintf(`{"state_default":50,"users":{%q:100,%q:100}}`, l.alice.UserID, l.carol.UserID)
	if v, _ := pdu.VersionOf(version); v.PrivilegedCreators {
		levels = fmt.Sprintf(`{"state_default":50,"users":{%q:100}}`, l.carol.UserID)
	}
	l.room = l.good.create(l.alice, CreateRoom{Preset: "public_chat", RoomVersion: version, PowerLevelOverride: json.RawMessage(levels)})
	l.dead.joinVia(l.carol, l.room, "good")
	n.deliver()
	l.joinVia(l.bob, l.room, "good")
	n.deliver()
	l.say(l.bob, l.room, "hello")
	n.deliver()
	n.blind["here dead"] = true
	return l
}

// sees reports whether the server shows an event.
func (p *peer) sees(room id.RoomID, eventID id.EventID) bool {
	p.Helper()
	return slices.Contains(p.shown(room), eventID)
}

// agree checks that both servers have the same state, in memory and on disk.
func (l *lossy) agree() {
	l.Helper()
	if mine, theirs := stateIDs(l.house, l.room), stateIDs(l.good.house, l.room); !maps.Equal(mine, theirs) {
		g := readGraph(l.good.house, l.room)
		l.Errorf("the states differ: %s", g.differences(mine, theirs))
	}
	l.matchesDisk(l.room)
}

// hidden checks that an event whose key cannot be fetched is returned to nobody.
func (l *lossy) hidden(eventID id.EventID) {
	l.Helper()
	if l.sees(l.room, eventID) {
		l.Errorf("%s is shown", eventID)
	}
	if _, err := l.reads().GetEvent(l.Context(), l.room, eventID, l.bob); mxerr.Code(err) != mxerr.CodeNotFound {
		l.Errorf("a client gets it: %v", err)
	}
	if _, err := l.reads().EventForServer(l.Context(), "good", eventID); mxerr.Code(err) != mxerr.CodeNotFound {
		l.Errorf("a server gets it: %v", err)
	}
	if e := l.stored(l.room, eventID); e != nil && !slices.Equal(e.JSON(), mustRedact(l, e).JSON()) {
		l.Errorf("more than the redacted form is stored: %s", e.JSON())
	}
	if slices.Contains(l.house.room(l.room).extremityIDs(), eventID) {
		l.Error("it is a forward extremity")
	}
}

func mustRedact(t testing.TB, e *Event) *pdu.Event {
	t.Helper()
	pruned, err := e.Redact()
	if err != nil {
		t.Fatal(err)
	}
	return pruned
}

// attempts makes the attempts to decide events that are due, as DecideEvents does.
func (l *lossy) attempts() {
	l.Helper()
	for len(l.svc.toDecide) > 0 {
		l.ok(l.svc.decideIn(l.Context(), <-l.svc.toDecide, false))
	}
}

// While one request to a slow server is in progress, another event of the room must not wait for it.
func TestUndecidedEventDoesNotWaitForTheNetwork(t *testing.T) {
	l := withoutKey(t, id.RoomV11)
	l.dead.say(l.carol, l.room, "nobody can tell")
	l.n.deliver()
	l.good.say(l.alice, l.room, "follows it")
	l.n.deliver()
	r := l.house.room(l.room)
	if !r.hasUndecided() {
		t.Fatal("no event is undecided: the test proves nothing")
	}
	r.fetching <- struct{}{}
	defer func() { <-r.fetching }()
	after := l.good.say(l.alice, l.room, "quick")
	within(t, 10*time.Second, "an event of another server", func(context.Context) { l.n.deliver() })
	if !l.sees(l.room, after) {
		t.Error("the event after the undecided one is not shown")
	}
	within(t, 10*time.Second, "an attempt to decide", func(context.Context) { l.attempts() })
}

// Servers choose when their keys become available, and each decision judges all later events again.
func TestDecisionsUseOnlyAShareOfTheTime(t *testing.T) {
	l := withoutKey(t, id.RoomV11)
	lost := l.dead.say(l.carol, l.room, "nobody can tell")
	l.n.deliver()
	l.good.say(l.alice, l.room, "follows it")
	l.n.deliver()
	delete(l.n.blind, "here dead")
	r := l.house.room(l.room)
	r.restDeciding(l.now.Add(time.Minute)) // as after a decision that took three seconds
	l.ok(l.svc.decideAll(t.Context()))
	if l.sees(l.room, lost) || !r.hasUndecided() {
		t.Error("the undecided event was authorised too early")
	}
	l.now = l.now.Add(time.Minute)
	l.ok(l.svc.decideAll(t.Context()))
	if !l.sees(l.room, lost) || r.hasUndecided() {
		t.Error("the undecided event is not authorised, although the key is known and the pause is over")
	}
	l.agree()
}

func TestUnverifiableMessageDoesNotBlockARoom(t *testing.T) {
	for _, version := range joinVersions {
		t.Run("v"+string(version), func(t *testing.T) {
			l := withoutKey(t, version)
			lost := l.dead.say(l.carol, l.room, "nobody can tell")
			l.n.deliver()
			after := []id.EventID{l.good.say(l.alice, l.room, "one"), l.good.say(l.alice, l.room, "two")}
			l.n.deliver()
			after = append(after, l.say(l.bob, l.room, "three"))
			l.n.deliver()
			after = append(after, l.good.set(l.alice, l.room, typeName, "", `{"name":"four"}`))
			l.n.deliver()
			for _, e := range after {
				if !l.sees(l.room, e) {
					t.Errorf("an event that follows the undecided one is not shown: %s", l.good.stored(l.room, e).JSON())
				}
			}
			l.hidden(lost)
			l.agree()
			delete(l.n.blind, "here dead")
			l.attempts() // the attempts from before
			l.now = l.now.Add(undecidedRest)
			l.good.say(l.alice, l.room, "five")
			l.n.deliver()
			l.attempts()
			if !l.sees(l.room, lost) {
				t.Error("the undecided message is not shown although its key is known now")
			}
			if got := l.stored(l.room, lost); got == nil || len(got.Content()) < 10 {
				t.Errorf("the message is shown without its content: %s", got.JSON())
			}
			if l.house.room(l.room).hasUndecided() {
				t.Error("the room still has undecided events")
			}
			l.agree()
		})
	}
}

// Events that follow an unverifiable state event are judged without it, and again with it when its key is available.
// A redaction that is accepted only once its key is available must take effect in memory too, and on a target that is
// accepted at the same time.
func TestUnverifiableRedactionTakesEffectWhenItsKeyIsAvailable(t *testing.T) {
	for _, version := range redactionVersions {
		t.Run("v"+string(version), func(t *testing.T) {
			l := withoutKey(t, version)
			hers := l.good.say(l.alice, l.room, "secret of alice")
			l.n.deliver()
			own := l.dead.say(l.carol, l.room, "secret of carol")
			unredacted := slices.Clone(l.dead.stored(l.room, own).JSON())
			var redactions []id.EventID
			for _, target := range []id.EventID{hers, own} {
				redaction, err := l.dead.svc.Redact(t.Context(), l.carol, l.room, target, "", nil)
				l.ok(err)
				redactions = append(redactions, redaction)
			}
			l.n.deliver()
			l.good.say(l.alice, l.room, "follows them")
			l.n.deliver()
			if !l.house.room(l.room).hasUndecided() {
				t.Fatal("no event is undecided: the test proves nothing")
			}
			delete(l.n.blind, "here dead")
			_, err := l.svc.Receive(t.Context(), "dead", l.room, []json.RawMessage{unredacted}) // an old copy arrives
			l.ok(err)
			for range 2 { // from memory, and after a restart
				for _, redaction := range redactions {
					if !l.sees(l.room, redaction) {
						t.Error("a redaction is not shown")
					}
				}
				for _, eventID := range []id.EventID{hers, own} {
					if e := l.stored(l.room, eventID); e == nil || e.Flags&storage.HiddenEvent != 0 || strings.Contains(string(e.JSON()), "secret") {
						t.Errorf("a redacted event is stored as %+v", e)
					}
					shown, err := l.reads().GetEvent(t.Context(), l.room, eventID, l.bob)
					if l.ok(err); strings.Contains(string(shown), "secret") {
						t.Errorf("a client gets the content of a redacted event: %s", shown)
					}
				}
				for _, e := range l.house.room(l.room).head.ring {
					if strings.Contains(string(e.JSON()), "secret") {
						t.Errorf("memory has the content of a redacted event: %s", e.JSON())
					}
				}
				l.agree()
				l.svc = l.open()
			}
		})
	}
}

func TestUnverifiableStateEventTakesEffectWhenItsKeyIsAvailable(t *testing.T) {
	for _, version := range joinVersions {
		t.Run("v"+string(version), func(t *testing.T) {
			l := withoutKey(t, version)
			lost := l.dead.set(l.carol, l.room, typeTopic, "", `{"topic":"lost"}`)
			l.n.deliver()
			var after []id.EventID
			for i := range 3 {
				after = append(after, l.good.say(l.alice, l.room, fmt.Sprint("after ", i)))
				l.n.deliver()
			}
			if l.content(l.room, typeTopic, "") != "" {
				t.Error("the undecided topic has an effect")
			}
			l.hidden(lost)
			l.svc = l.open() // a restart loses nothing
			delete(l.n.blind, "here dead")
			l.ok(l.svc.decideAll(t.Context()))
			if got := l.content(l.room, typeTopic, ""); got != `{"topic":"lost"}` {
				t.Errorf("the topic is %s, want that of the event whose key is known now", got)
			}
			after = append(after, l.good.say(l.alice, l.room, "done"), lost)
			l.n.deliver()
			for _, e := range after {
				if !l.sees(l.room, e) {
					t.Errorf("not shown although the key is known now: %s", l.good.stored(l.room, e).JSON())
				}
			}
			l.agree()
		})
	}
}

func TestEventsThatCiteUnverifiablePowerLevelsAreDelayed(t *testing.T) {
	for _, version := range joinVersions {
		t.Run("v"+string(version), func(t *testing.T) {
			l := withoutKey(t, version)
			before := l.house.room(l.room).Levels().EventLevel(typeName, true)
			levels := l.dead.content(l.room, typePowerLevels, "")
			lost := l.dead.set(l.carol, l.room, typePowerLevels, "", strings.Replace(levels, `"state_default":50`, `"state_default":70`, 1))
			l.n.deliver()
			var citing []id.EventID
			for i := range 5 {
				citing = append(citing, l.good.say(l.alice, l.room, fmt.Sprint("cites them ", i)))
				l.n.deliver()
			}
			mine := l.say(l.bob, l.room, "beside them")
			l.n.deliver()
			l.hidden(lost)
			for _, e := range citing {
				l.hidden(e)
			}
			if !l.sees(l.room, mine) || l.house.room(l.room).Levels().EventLevel(typeName, true) != before {
				t.Error("the undecided power levels have an effect, or block an event that does not cite them")
			}
			delete(l.n.blind, "here dead")
			citing = append(citing, l.good.say(l.alice, l.room, "afterwards"), lost)
			l.n.deliver()
			for _, e := range citing {
				if !l.sees(l.room, e) {
					t.Errorf("not shown although the power levels are authorised now: %s", l.good.stored(l.room, e).JSON())
				}
				if got := l.stored(l.room, e); got == nil || len(got.Content()) < 10 {
					t.Error("an event that cited the power levels is shown without its content")
				}
			}
			l.agree()
			l.say(l.bob, l.room, "all is well")
			l.n.deliver()
			l.agree()
		})
	}
}

// carol's clock is 30 days ahead. By that time her server may have another key.
func TestEventFromTheFarFutureDoesNotBlockARoom(t *testing.T) {
	for _, version := range joinVersions {
		t.Run("v"+string(version), func(t *testing.T) {
			l := withoutKey(t, version)
			clear(l.n.blind)
			l.n.keyLife = 7 * 24 * time.Hour
			l.dead.now = l.dead.now.Add(30 * 24 * time.Hour)
			l.good.now = l.dead.now // makes the server accept her timestamp
			lost := l.dead.say(l.carol, l.room, "from the future")
			l.n.deliver()
			l.good.now = l.now
			after := []id.EventID{l.good.say(l.alice, l.room, "today"), l.good.say(l.alice, l.room, "still today")}
			l.n.deliver()
			for _, e := range after {
				if !l.sees(l.room, e) {
					t.Errorf("not shown: %s", l.good.stored(l.room, e).JSON())
				}
			}
			if v, _ := pdu.VersionOf(version); v.EnforceKeyValidity {
				l.hidden(lost)
			} else if !l.sees(l.room, lost) {
				t.Error("an event from the future is not shown, although keys have no time in this version")
			}
			l.now = l.now.Add(30 * 24 * time.Hour)
			l.ok(l.svc.decideAll(t.Context()))
			if !l.sees(l.room, lost) {
				t.Error("the event is not shown although its time has come")
			}
			l.agree()
		})
	}
}

// resign returns an event with another signature, by a key with the given ID.
func resign(e *pdu.Event, keyID string) json.RawMessage {
	return mangle(e, `"evil":{"ed25519:1":"`, `"evil":{"`+keyID+`":"AAAA`)
}

func TestGenuineEventAfterABrokenCopyIsAccepted(t *testing.T) {
	for _, version := range joinVersions {
		for _, keyID := range []string{"ed25519:1", "ed25519:lost"} {
			t.Run("v"+string(version)+" "+keyID, func(t *testing.T) {
				s := besieged(t, version)
				helper := s.n.stranger("helper", s.peer)
				helper.join(s.room, helper.user("hugo"))
				e := s.evil.say(s.room, s.mallory, "genuine")
				for range 2 {
					if _, err := s.svc.Receive(t.Context(), "helper", s.room, []json.RawMessage{resign(e, keyID)}); err != nil && keyID == "ed25519:1" {
						t.Error(err)
					}
				}
				if s.stored(s.room, e.ID()) != nil {
					t.Fatal("the broken copy is stored")
				}
				s.evil.sendGood(s.room, e)
				if !s.sees(s.room, e.ID()) {
					t.Error("the genuine event is not accepted after a broken copy")
				}
				s.whole()
			})
		}
	}
}

// The broken copy arrives as a predecessor of a valid event, and the genuine one arrives later.
func TestGenuineEventReplacesItsBrokenCopy(t *testing.T) {
	for _, version := range joinVersions {
		t.Run("v"+string(version), func(t *testing.T) {
			s := besieged(t, version)
			helper := s.n.stranger("helper", s.peer)
			helper.join(s.room, helper.user("hugo"))
			e := s.setBy(s.mallory, typeMember, string(s.mallory), `{"membership":"join","displayname":"M"}`)
			next := helper.say(s.room, helper.user("hugo"), "next", e.ID())
			helper.missing = func([]id.EventID) ([]json.RawMessage, error) {
				return []json.RawMessage{resign(e, "ed25519:lost")}, nil
			}
			helper.sendGood(s.room, next)
			if !s.sees(s.room, next.ID()) || s.sees(s.room, e.ID()) {
				t.Fatalf("shown: the event that follows %v, want true; the broken copy %v, want false", s.sees(s.room, next.ID()), s.sees(s.room, e.ID()))
			}
			s.evil.sendGood(s.room, e)
			if !s.sees(s.room, e.ID()) || s.content(s.room, typeMember, string(s.mallory)) != `{"displayname":"M","membership":"join"}` && s.content(s.room, typeMember, string(s.mallory)) != `{"membership":"join","displayname":"M"}` {
				t.Errorf("the genuine event is shown: %v; mallory's member event is %s", s.sees(s.room, e.ID()), s.content(s.room, typeMember, string(s.mallory)))
			}
			if n := s.rows(e.ID()); n != 1 {
				t.Errorf("the event is stored %d times, want 1", n)
			}
			if got := s.ends(); len(got) != 1 || got[0] != next.ID() {
				t.Errorf("the forward extremities are %v, want only the newest event", got)
			}
			s.whole()
		})
	}
}

// In the first room versions servers choose the event IDs, so a forgery can have the ID of a genuine event. It must not
// decide on what the genuine one is authorised, and the genuine one must not be lost.
func TestGenuineEventReplacesAForgeryWithItsID(t *testing.T) {
	for _, version := range []id.RoomVersion{id.RoomV1, id.RoomV2} {
		for name, forge := range map[string]func(s *siege, p *pdu.Proto){
			"that cites an unknown event":                func(_ *siege, p *pdu.Proto) { p.AuthEvents = []id.EventID{unknownLike(id.RoomV1, 1)} },
			"that follows an event from before the join": func(s *siege, p *pdu.Proto) { p.PrevEvents = []id.EventID{s.room0().ID()} },
			"of another user":                            func(s *siege, p *pdu.Proto) { p.Sender = s.evil.user("other") },
		} {
			t.Run("v"+string(version)+" "+name, func(t *testing.T) {
				s := besieged(t, version)
				helper := s.n.stranger("helper", s.peer)
				helper.join(s.room, helper.user("hugo"))
				e := s.evil.say(s.room, s.mallory, "genuine")
				p := pdu.Proto{Type: "m.room.message", Sender: s.mallory}
				forge(s, &p)
				forgery := s.evil.make(s.room, p)
				next := helper.say(s.room, helper.user("hugo"), "next", e.ID())
				helper.missing = func([]id.EventID) ([]json.RawMessage, error) {
					return []json.RawMessage{[]byte(strings.ReplaceAll(string(resign(forgery, "ed25519:lost")), string(forgery.ID()), string(e.ID())))}, nil
				}
				helper.send(s.room, next)
				if stored := s.stored(s.room, e.ID()); stored == nil || !stored.Undecided() {
					t.Fatal("the forgery is not stored: the test proves nothing")
				}
				s.evil.sendGood(s.room, e)
				if !s.sees(s.room, e.ID()) || s.stored(s.room, e.ID()).Sender() != s.mallory || !s.sees(s.room, next.ID()) {
					t.Error("the genuine event, or the one that follows it, is not shown")
				}
				if sender, err := s.svc.UserNID(t.Context(), s.mallory); err != nil || s.stored(s.room, e.ID()).SenderNID != sender {
					t.Errorf("the sender is user %d, want %d, %v", s.stored(s.room, e.ID()).SenderNID, sender, err)
				}
				s.matchesDisk(s.room)
			})
		}
	}
}

// An event that cites an event of another room is rejected, whether or not the cited event can be fetched. Events that
// follow it are authorised according to the rules.
func TestEventThatCitesAnotherRoomDoesNotBlockARoom(t *testing.T) {
	for _, version := range joinVersions {
		for _, given := range []string{"given", "known here", "withheld"} {
			t.Run("v"+string(version)+" "+given, func(t *testing.T) {
				s := besieged(t, version)
				good := s.n.stranger("good", s.peer)
				good.join(s.room, good.user("gina"))
				other := s.create(s.alice, CreateRoom{Preset: "public_chat", RoomVersion: version})
				join := s.evil.join(other, s.mallory)
				cited := join.ID()
				if given != "known here" {
					foreign := s.evil.make(other, pdu.Proto{Type: typeTopic, StateKey: new(string), Sender: s.mallory})
					cited = foreign.ID()
					if given == "withheld" {
						delete(s.evil.made, cited)
					}
				}
				auth := append(s.evil.say(s.room, s.mallory, "").AuthEvents(), cited)
				e := s.evil.make(s.room, pdu.Proto{Type: "m.room.message", Sender: s.mallory, AuthEvents: auth, Content: json.RawMessage(`{"body":"cites another room"}`)})
				next := good.say(s.room, good.user("gina"), "next", e.ID())
				for _, made := range s.evil.made {
					good.made[made.ID()] = made
				}
				good.remembers()
				good.sendGood(s.room, next)
				good.sendGood(s.room, good.say(s.room, good.user("gina"), "after that", next.ID()))
				stored := s.stored(s.room, e.ID())
				if stored == nil || stored.Flags&storage.RejectedEvent == 0 || stored.Undecided() != (given == "withheld") {
					t.Errorf("the event is stored as %+v, want it rejected, and undecided only if the cited event was withheld", stored)
				}
				if !s.sees(s.room, next.ID()) || s.sees(s.room, e.ID()) {
					t.Errorf("shown: the event that follows %v, want true; the one that cites another room %v, want false", s.sees(s.room, next.ID()), s.sees(s.room, e.ID()))
				}
				s.whole()
			})
		}
	}
}

// A server can put any number of unverifiable events before a valid one; only a few of them are kept.
func TestUndecidedEventsAreBounded(t *testing.T) {
	s := besieged(t, id.RoomV11)
	dead := s.n.stranger("dead", s.peer)
	dead.join(s.room, dead.user("dora"))
	s.n.blind["here dead"] = true
	var tips []id.EventID
	for round := range 3 {
		prev := s.ends()
		for i := range 120 {
			content := fmt.Sprintf(`{"membership":"join","displayname":"%d.%d"}`, round, i)
			key := string(dead.user("dora"))
			e := dead.make(s.room, pdu.Proto{Type: typeMember, StateKey: &key, Sender: dead.user("dora"), Content: json.RawMessage(content), PrevEvents: prev})
			s.evil.made[e.ID()], prev = e, []id.EventID{e.ID()}
		}
		s.evil.remembers()
		tip := s.evil.say(s.room, s.mallory, "tip", prev...)
		s.evil.sendGood(s.room, tip)
		tips = append(tips, tip.ID())
		s.whole()
	}
	kept, size := 0, 0
	s.ok(s.db.Read(t.Context(), func(tx *storage.Tx) error {
		rows, err := tx.UndecidedEvents(s.house.room(s.room).nid, 10*maxUndecided)
		for _, row := range rows {
			kept, size = kept+1, size+len(row.JSON)
		}
		return err
	}))
	if kept == 0 || kept > maxUndecided || size > maxUndecidedBytes {
		t.Errorf("%d undecided events with %d bytes are kept, want some and at most %d with %d bytes", kept, size, maxUndecided, maxUndecidedBytes)
	}
	for _, tip := range tips {
		if !s.sees(s.room, tip) {
			t.Errorf("the valid event %s, which follows undecided ones, is not shown", tip)
		}
	}
	// Those that were dropped are accepted when a valid copy arrives.
	delete(s.n.blind, "here dead")
	s.whole()
	if e := s.evil.made[tips[0]]; !s.sees(s.room, e.ID()) {
		t.Error("the oldest of the valid events is not shown any more")
	}
}

// An event that a stranger sends is kept only if its signature can be verified.
func TestUnverifiableEventInATransactionIsNotKept(t *testing.T) {
	s := besieged(t, id.RoomV11)
	dead := s.n.stranger("dead", s.peer)
	dead.join(s.room, dead.user("dora"))
	s.n.blind["here dead"] = true
	e := dead.say(s.room, dead.user("dora"), "alone")
	onTop := dead.say(s.room, dead.user("dora"), "on top", e.ID())
	dead.remembers()
	dead.send(s.room, e, onTop)
	for _, e := range []*pdu.Event{e, onTop} {
		if s.stored(s.room, e.ID()) != nil {
			t.Errorf("an event that cannot be verified and that nothing follows is stored: %s", e.JSON())
		}
	}
	s.whole()
}

// pastWith creates a room whose history has messages from the server dead, and joins it from a server that cannot fetch
// the key of dead.
func pastWith(t *testing.T, version id.RoomVersion, messages int, byDead ...int) (h *newcomer, dead []id.EventID) {
	n := newNetwork(t)
	h = &newcomer{pastRoom: &pastRoom{n: n, old: n.add("old"), late: n.add("late")}}
	h.alice, h.bob = h.old.user("alice"), h.late.user("bob")
	h.room = h.old.create(h.alice, CreateRoom{Preset: "public_chat", RoomVersion: version})
	third := n.add("dead")
	carol := third.user("carol")
	third.joinVia(carol, h.room, "old")
	n.deliver()
	for i := range messages {
		if slices.Contains(byDead, i) {
			dead = append(dead, third.say(carol, h.room, "by carol"))
			n.deliver()
			continue
		}
		h.said = append(h.said, h.old.say(h.alice, h.room, fmt.Sprint("said ", i)))
		n.deliver()
	}
	h.late.joinVia(h.bob, h.room, "old")
	n.deliver()
	return h, dead
}

// readsAllBut checks that bob can read back everything that alice can read, except for some events.
func (h *newcomer) readsAllBut(limit int, missing ...id.EventID) {
	h.n.Helper()
	got := h.late.pages(h.bob, h.room, limit)
	for _, eventID := range h.old.pages(h.alice, h.room, 1000) {
		if slices.Contains(got, eventID) == slices.Contains(missing, eventID) {
			h.n.Fatalf("of %d events %s is read: %v", len(got), eventID, slices.Contains(got, eventID))
		}
	}
	h.late.matchesDisk(h.room)
}

func TestBackPaginationContinuesBeyondUnverifiableEvents(t *testing.T) {
	for _, version := range joinVersions {
		for _, page := range []int{0, 7} {
			t.Run(fmt.Sprintf("v%s/%d", version, page), func(t *testing.T) {
				h, dead := pastWith(t, version, 50, 0, 1, 20, 25, 26, 27, 49)
				h.n.page = page
				h.n.blind["late dead"] = true
				h.readsAllBut(10, dead...)
				h.readsAllBut(100, dead...)
				// Once the key is available, the events are fetched and appear in their proper places.
				delete(h.n.blind, "late dead")
				h.late.now = h.late.now.Add(time.Hour)
				h.late.ok(h.late.svc.decideAll(t.Context()))
				h.readsAllBut(10)
				want := h.old.pages(h.alice, h.room, 1000)
				if got := h.late.pages(h.bob, h.room, 1000); !slices.Equal(got, want) {
					t.Error("after the history was fetched again, its events are in another order")
				}
				if shown := h.late.shown(h.room); slices.Contains(shown, dead[3]) {
					t.Error("an event of the history arrives as a new one")
				}
			})
		}
	}
}

func TestBackPaginationContinuesBeyondForgedEvents(t *testing.T) {
	for _, page := range []int{0, 7} {
		t.Run(fmt.Sprint(page), func(t *testing.T) {
			h, dead := pastWith(t, id.RoomV11, 50, 0, 1, 20, 25, 26, 27, 49)
			h.n.page = page
			h.n.spoil = func(raw json.RawMessage) json.RawMessage {
				return json.RawMessage(strings.Replace(string(raw), `"dead":{"ed25519:1":"`, `"dead":{"ed25519:1":"AAAA`, 1))
			}
			carol := h.n.peers["dead"].stored(h.room, dead[0]).Sender()
			join := h.old.house.room(h.room).State(typeMember, string(carol)).ID()
			h.readsAllBut(10, append(dead, join)...)
			for _, e := range dead {
				if h.late.stored(h.room, e) != nil {
					t.Error("a forged event is stored")
				}
			}
			h.n.spoil = nil
			h.late.now = h.late.now.Add(askAgain)
			h.readsAllBut(10)
		})
	}
}

// The oldest event of a response is rejected. The events before it must be requested all the same.
func TestBackPaginationContinuesBeyondRejectedEvents(t *testing.T) {
	for _, version := range joinVersions {
		t.Run("v"+string(version), func(t *testing.T) {
			s := besieged(t, version)
			state := idsOf(s.stateEvents())
			s.evil.stateIDs = func(id.EventID) (all, chain []id.EventID, err error) { return state, nil, nil }
			var good []id.EventID
			prev := []id.EventID{unknownLike(version, 1)}
			for i := range 60 {
				e := s.evil.say(s.room, s.mallory, fmt.Sprint(i), prev...)
				if i%10 == 5 || i%10 == 6 { // sent by a user who is not in the room
					e = s.evil.make(s.room, pdu.Proto{Type: "m.room.message", Sender: s.evil.user("nobody"), PrevEvents: prev})
				} else {
					good = append(good, e.ID())
				}
				prev = []id.EventID{e.ID()}
			}
			tip := s.evil.say(s.room, s.mallory, "tip", prev...)
			s.evil.sendGood(s.room, s.evil.say(s.room, s.mallory, "before"))
			for _, length := range []int{5, 6} { // the last event of a page is valid for one length and rejected for the other
				s.evil.missing = func([]id.EventID) ([]json.RawMessage, error) {
					return []json.RawMessage{s.evil.made[prev[0]].JSON()}, nil
				}
				s.evil.backfill = func(from []id.EventID) (out []json.RawMessage, err error) {
					for _, eventID := range from {
						for e := s.evil.made[eventID]; e != nil && len(out) < length; e = s.evil.made[e.PrevEvents()[0]] {
							out = append(out, e.JSON())
						}
					}
					return out, nil
				}
				s.evil.sendGood(s.room, tip)
				s.now = s.now.Add(askAgain)
				got := s.pages(s.alice, s.room, 7)
				for i, e := range good {
					if !slices.Contains(got, e) {
						t.Fatalf("with %d events per page, number %d of 48 is on no page", length, i)
					}
				}
			}
			s.whole()
		})
	}
}
