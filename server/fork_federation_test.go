package server_test

import (
	"fmt"
	"slices"
	"testing"
)

// Two servers that cannot reach each other change the same state. Afterwards one of the changes wins. On one server the
// losing event arrived last and is the last one in the timeline, which is sent in full because a losing state event
// must not hide messages. Only state_after shows which change won.
func TestClientReceivesTheResolvedState(t *testing.T) {
	s := newShared(t, nil)
	alice, bob := s.alice, s.bob
	base := "/v3/rooms/" + s.room
	alice.Do("PUT", base+"/state/m.room.power_levels", obj{"events": obj{"m.room.topic": 0}})
	alice.say(base, "everybody may")
	bob.until("the power", func(a obj) bool { return said(a, s.room, "everybody may") })
	alice.sync()
	stateAfter := []string{"use_state_after", "true"}
	topics := map[*device]any{}
	apply := func(d *device, answer obj) {
		for _, e := range list(answer, "rooms", "join", s.room, "state_after", "events") {
			if get(e, "type") == "m.room.topic" {
				topics[d] = get(e, "content", "topic")
			}
		}
	}
	for round := range 3 {
		s.Cut(s.Name(0), s.Name(1))
		for _, d := range []*device{alice, bob} {
			d.Do("PUT", base+"/state/m.room.topic", obj{"topic": fmt.Sprint(d.User, round)})
			apply(d, d.sync(stateAfter...))
			d.say(base, fmt.Sprint("alone ", d.User, round))
		}
		s.Heal()
		s.Servers[0].Heard(s.Name(1))
		s.Servers[1].Heard(s.Name(0))
		for _, d := range []*device{alice, bob} {
			other := map[*device]*device{alice: bob, bob: alice}[d]
			over := fmt.Sprint("over ", d.User, round)
			d.say(base, over)
			alone := false
			other.until(over, func(a obj) bool {
				apply(other, a)
				alone = alone || said(a, s.room, fmt.Sprint("alone ", d.User, round))
				return said(a, s.room, over)
			}, stateAfter...)
			if !alone {
				t.Errorf("round %d: what %s said while the servers were apart is not shown", round, d.User)
			}
		}
		for _, d := range []*device{alice, bob} {
			apply(d, d.sync(stateAfter...))
			if now := d.Do("GET", base+"/state/m.room.topic", nil)["topic"]; topics[d] != now {
				t.Errorf("round %d: the client of %s has the topic %v, the room %v", round, d.User, topics[d], now)
			}
		}
	}
}

// said reports whether a response contains a message in a room.
func said(answer obj, room, body string) bool {
	return slices.ContainsFunc(list(answer, "rooms", "join", room, "timeline", "events"), func(e any) bool {
		return get(e, "content", "body") == body
	})
}
