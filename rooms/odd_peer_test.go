package rooms

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/pdu"
)

// Servers return missing events in any order, some of them twice, along with the event that was sent and events that
// were not requested. None of that may cause a valid event to be lost.
func TestMissingEventsAreAcceptedFromOddResponses(t *testing.T) {
	type answer = []json.RawMessage
	for name, odd := range map[string]func(good answer, wanted, other *pdu.Event) answer{
		"newest first":                  func(good answer, _, _ *pdu.Event) answer { slices.Reverse(good); return good },
		"each twice":                    func(good answer, _, _ *pdu.Event) answer { return append(good, good...) },
		"with the event itself":         func(good answer, wanted, _ *pdu.Event) answer { return append(answer{wanted.JSON()}, good...) },
		"with an event of another room": func(good answer, _, other *pdu.Event) answer { return append(answer{other.JSON()}, good...) },
		"with what is no event": func(good answer, _, _ *pdu.Event) answer {
			return append(answer{[]byte(`null`), []byte(`[]`), []byte(`{}`), []byte(`7`), []byte(`{"type":1}`)}, good...)
		},
	} {
		for _, version := range []id.RoomVersion{id.RoomV6, id.RoomV11, id.RoomV12} {
			n := newNetwork(t)
			a := n.add("a")
			alice := a.user("alice")
			room := a.create(alice, CreateRoom{Preset: "public_chat", RoomVersion: version})
			elsewhere := a.create(alice, CreateRoom{Preset: "public_chat", RoomVersion: version})
			peer := n.stranger("peer", a)
			bob := peer.user("bob")
			peer.join(room, bob)
			peer.join(elsewhere, bob)
			other := peer.say(elsewhere, bob, "said elsewhere")
			chain := []*pdu.Event{peer.say(room, bob, "0")}
			for i := range 5 {
				chain = append(chain, peer.say(room, bob, fmt.Sprint(i+1), chain[i].ID()))
			}
			last := chain[len(chain)-1]
			peer.missing = func([]id.EventID) ([]json.RawMessage, error) {
				var good answer
				for _, e := range chain[:len(chain)-1] {
					good = append(good, e.JSON())
				}
				return odd(good, last, other), nil
			}
			peer.sendGood(room, last)
			for _, e := range chain {
				if stored := a.stored(room, e.ID()); stored == nil || stored.Hidden() {
					t.Errorf("%s, version %s: %s is not accepted", name, version, e.Content())
				}
			}
			if stored := a.stored(room, other.ID()); stored != nil && !stored.Hidden() {
				t.Errorf("%s, version %s: an event of another room is shown", name, version)
			}
		}
	}
}

// A message with an impossible timestamp stays, and the room stays usable.
func TestMessagesOfImpossibleTimesAreAccepted(t *testing.T) {
	for _, version := range []id.RoomVersion{id.RoomV6, id.RoomV11, id.RoomV12} {
		n := newNetwork(t)
		a := n.add("a")
		room := a.create(a.user("alice"), CreateRoom{Preset: "public_chat", RoomVersion: version})
		peer := n.stranger("peer", a)
		bob := peer.user("bob")
		peer.join(room, bob)
		for _, ts := range []int64{-1, -(1<<53 - 1), 1, 1<<53 - 1} {
			said := peer.make(room, pdu.Proto{Type: "m.room.message", Sender: bob, Content: json.RawMessage(`{"body":"hello"}`), OriginServerTS: ts})
			peer.sendGood(room, said)
			stored := a.stored(room, said.ID())
			if stored == nil || stored.Hidden() || string(stored.Content()) != `{"body":"hello"}` {
				t.Errorf("version %s, time %d: the message is stored as %+v, want it accepted with its content", version, ts, stored)
			}
			if next := peer.say(room, bob, "next"); len(peer.send(room, next)) == 0 || a.stored(room, next.ID()) == nil {
				t.Errorf("version %s: after an event with the time %d, no further event is accepted", version, ts)
			}
		}
	}
}

func TestRedactionsOfOddTargetsLeaveTheRoomUsable(t *testing.T) {
	for _, version := range redactionVersions {
		s := besieged(t, version)
		said := s.evil.say(s.room, s.mallory, "regretted")
		s.evil.sendGood(s.room, said)
		first := s.redact(said.ID())
		s.evil.sendGood(s.room, first)
		second := s.redact(first.ID())
		s.evil.sendGood(s.room, second)
		if got := s.stored(s.room, said.ID()); got.RedactedBy == 0 {
			t.Errorf("version %s: after the redaction of its redaction, a message is not redacted any more", version)
		}
		if !s.shows(second.ID()) {
			t.Errorf("version %s: the author's redaction of a redaction is withheld", version)
		}
		key := ""
		refused := s.evil.make(s.room, pdu.Proto{Type: typeName, StateKey: &key, Sender: s.mallory, Content: json.RawMessage(`{"name":"taken"}`)})
		ends := s.ends()
		early := s.redact(refused.ID(), ends...)
		s.evil.sendGood(s.room, early)
		s.evil.send(s.room, refused)
		if got := s.stored(s.room, refused.ID()); got != nil && !got.Hidden() {
			t.Errorf("version %s: a name is accepted from a user without the power level", version)
		}
		s.shows(early.ID()) // all ways of reading agree
		own := s.redact(early.ID())
		s.evil.sendGood(s.room, own)
		s.shows(own.ID())
		s.whole()
		s.reopen()
		s.whole()
	}
}

// Parked events are kept in memory only. After a restart, the next event leads to them.
func TestEventsParkedBeforeARestartArriveWithTheNextOne(t *testing.T) {
	s := besieged(t, id.RoomV11)
	room := s.create(s.alice, CreateRoom{Preset: "public_chat", RoomVersion: id.RoomV11})
	carl := s.evil.user("carl")
	key := string(carl)
	join := s.evil.make(room, pdu.Proto{Type: typeMember, StateKey: &key, Sender: carl, Content: json.RawMessage(`{"membership":"join"}`)})
	r := s.house.room(room)
	say := func(text string, prev *pdu.Event) *pdu.Event {
		return s.evil.make(room, pdu.Proto{
			Type: "m.room.message", Sender: carl, Content: json.RawMessage(fmt.Sprintf(`{"body":%q}`, text)), PrevEvents: []id.EventID{prev.ID()}, Depth: prev.Depth() + 1,
			AuthEvents: []id.EventID{r.State(typeCreate, "").ID(), r.State(typePowerLevels, "").ID(), join.ID()},
		})
	}
	parked := say("parked", join)
	delete(s.evil.made, join.ID()) // no server returns the membership yet
	s.evil.send(room, parked)
	if s.stored(room, parked.ID()) != nil || s.svc.parking.Bytes() == 0 {
		t.Fatal("the message is not parked: the test proves nothing")
	}
	s.reopen()
	s.evil.made[join.ID()] = join
	s.evil.remembers()
	next := say("next", parked)
	s.evil.sendGood(room, next)
	for _, e := range []*pdu.Event{parked, next} {
		if got := s.stored(room, e.ID()); got == nil || got.Hidden() {
			t.Errorf("%s is not accepted", e.Content())
		}
	}
}
