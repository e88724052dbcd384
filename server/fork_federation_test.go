package server_test

import (
	"fmt"
	"slices"
	"testing"
)

// TestClientHasTheStateThatResolutionChose: two servers that are cut apart change one and the same state. Afterwards one of
// the changes counts; on one of the servers the other one arrived last, and stands last in the timeline.
func TestClientHasTheStateThatResolutionChose(t *testing.T) {
	s := newShared(t, nil)
	alice, bob := s.alice, s.bob
	base := "/v3/rooms/" + s.room
	alice.Do("PUT", base+"/state/m.room.power_levels", obj{"events": obj{"m.room.topic": 0}})
	alice.say(base, "everybody may")
	bob.until("the power", func(a obj) bool { return said(a, s.room, "everybody may") })
	alice.sync()
	topics := map[*device]any{}
	apply := func(d *device, answer obj) {
		room := get(answer, "rooms", "join", s.room)
		for _, e := range append(list(room, "state", "events"), list(room, "timeline", "events")...) {
			if get(e, "type") == "m.room.topic" {
				topics[d] = get(e, "content", "topic")
			}
		}
	}
	for round := range 3 {
		s.Cut(s.Name(0), s.Name(1))
		for _, d := range []*device{alice, bob} {
			d.Do("PUT", base+"/state/m.room.topic", obj{"topic": fmt.Sprint(d.User, round)})
			apply(d, d.sync())
		}
		s.Heal()
		s.Servers[0].Heard(s.Name(1))
		s.Servers[1].Heard(s.Name(0))
		for _, d := range []*device{alice, bob} {
			other := map[*device]*device{alice: bob, bob: alice}[d]
			over := fmt.Sprint("over ", d.User, round)
			d.say(base, over)
			other.until(over, func(a obj) bool {
				apply(other, a)
				return said(a, s.room, over)
			})
		}
		for _, d := range []*device{alice, bob} {
			apply(d, d.sync())
			if now := d.Do("GET", base+"/state/m.room.topic", nil)["topic"]; topics[d] != now {
				t.Errorf("round %d: the client of %s has the topic %v, the room %v", round, d.User, topics[d], now)
			}
		}
	}
}

// said reports whether an answer has a message.
func said(answer obj, room, body string) bool {
	return slices.ContainsFunc(list(answer, "rooms", "join", room, "timeline", "events"), func(e any) bool {
		return get(e, "content", "body") == body
	})
}
