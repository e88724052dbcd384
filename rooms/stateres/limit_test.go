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
}
