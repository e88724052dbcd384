package stateres

import (
	"errors"
	"fmt"
	"testing"

	"ebb/rooms/pdu"

	"maunium.net/go/mautrix/id"
)

// endless is a Store of a room whose auth chains never end.
type endless struct {
	v     *pdu.Version
	asked int
}

func (s *endless) Event(eventID id.EventID) *pdu.Event {
	s.asked++
	raw := fmt.Sprintf(`{"event_id":%q,"room_id":"!r:x","type":"m.room.power_levels","sender":"@a:x","state_key":"","content":{},"prev_events":[],"auth_events":["$%d"]}`, eventID, s.asked)
	e, err := pdu.ParseLenient(s.v, []byte(raw))
	if err != nil {
		return nil
	}
	return e
}

func (s *endless) Rejected(id.EventID) bool { return false }

func TestEndlessAuthChainsAreRefused(t *testing.T) {
	for _, name := range []id.RoomVersion{id.RoomV3, id.RoomV11, id.RoomV12} {
		v, _ := pdu.VersionOf(name)
		store := &endless{v: v}
		key := pdu.StateKey{Type: typePowerLevels}
		_, err := resolve(v, []StateSet{{key: "$a"}, {key: "$b"}}, store, 1000)
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("version %s: %v, want ErrTooLarge", name, err)
		}
		if store.asked > 1001 {
			t.Errorf("version %s: %d events were asked for", name, store.asked)
		}
	}
}

func TestHugeStatesAreRefused(t *testing.T) {
	v, _ := pdu.VersionOf(id.RoomV12)
	set := make(StateSet)
	for i := range 11 {
		set[pdu.StateKey{Type: "t", Key: fmt.Sprint(i)}] = "$e"
	}
	if _, err := resolve(v, []StateSet{set}, &endless{v: v}, 10); !errors.Is(err, ErrTooLarge) {
		t.Errorf("resolve = %v, want ErrTooLarge", err)
	}
	if _, err := resolve(v, []StateSet{set}, &endless{v: v}, 11); err != nil {
		t.Errorf("resolve = %v for a state as large as the limit", err)
	}
}

// store is a Store in memory.
type store map[id.EventID]*pdu.Event

func (s store) Event(eventID id.EventID) *pdu.Event { return s[eventID] }
func (s store) Rejected(id.EventID) bool            { return false }

func TestTheLimitCountsEvents(t *testing.T) {
	key := pdu.StateKey{Type: typePowerLevels}
	for _, name := range []id.RoomVersion{id.RoomV3, id.RoomV12} {
		v, _ := pdu.VersionOf(name)
		events := store{}
		for _, eventID := range []id.EventID{"$a", "$b"} {
			e, err := pdu.ParseStored(v, eventID, []byte(`{"room_id":"!r:x","type":"m.room.power_levels","sender":"@a:x","state_key":"","content":{},"prev_events":[],"auth_events":[]}`))
			if err != nil {
				t.Fatal(err)
			}
			events[eventID] = e
		}
		for limit, want := range map[int]error{1: ErrTooLarge, 3: nil} { // the third is the create event, which is looked for
			if _, err := resolve(v, []StateSet{{key: "$a"}, {key: "$b"}}, events, limit); !errors.Is(err, want) {
				t.Errorf("version %s, limit %d: %v, want %v", name, limit, err, want)
			}
		}
	}
}

func TestConflictsOfUnknownEventsHaveNoWinner(t *testing.T) {
	key := pdu.StateKey{Type: typePowerLevels}
	for _, name := range pdu.Versions() {
		v, _ := pdu.VersionOf(name)
		state, err := Resolve(v, []StateSet{{key: "$a"}, {key: "$b"}}, store{})
		if err != nil || len(state) > 0 {
			t.Errorf("version %s: %v, %v", name, state, err)
		}
	}
}
