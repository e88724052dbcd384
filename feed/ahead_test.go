package feed_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/feed"
	"ebb/rooms"
)

// fillRandomly makes rooms with random events and receipts of the given users.
func fillRandomly(r *rand.Rand, people []*user, n int) {
	for i := range n {
		host := people[i%len(people)]
		room := host.create("public_chat")
		said := []id.EventID{host.say(room, "welcome")}
		for _, p := range people {
			if p != host && r.IntN(3) > 0 {
				p.join(room)
			}
		}
		for range r.IntN(40) {
			p := people[r.IntN(len(people))]
			in, err := p.w.Room(p.w.t.Context(), room)
			if p.must(err); in.Membership(p.UserID) != rooms.Join {
				continue
			}
			at := said[r.IntN(len(said))]
			switch r.IntN(8) {
			case 0:
				p.send(room, "m.room.message", fmt.Sprintf(`{"body":"x","m.relates_to":{"rel_type":"m.thread","event_id":%q}}`, said[0]))
			case 1:
				p.send(room, "m.room.member", fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, r.IntN(100)), string(p.UserID))
			case 2:
				p.receipt(room, "m.read", at)
			case 3:
				host.send(room, "m.room.topic", fmt.Sprintf(`{"topic":"%d"}`, r.IntN(100)), "")
			default:
				said = append(said, p.say(room, fmt.Sprint(r.IntN(1000))))
			}
		}
	}
}

// firstSync returns the rooms of a first sync. State, whose order means nothing, is sorted.
func (u *user) firstSync(filter string, stateAfter bool) map[string]any {
	a := u.syncFrom("", func(q *feed.SyncRequest) { q.Filter, q.StateAfter = filter, stateAfter })
	var answer struct {
		Rooms struct {
			Join map[string]map[string]any `json:"join"`
		} `json:"rooms"`
	}
	u.must(json.Unmarshal([]byte(a.raw), &answer))
	out := map[string]any{}
	for id, room := range answer.Rooms.Join {
		for _, section := range []string{"state", "state_after"} {
			if state, ok := room[section].(map[string]any); ok {
				slices.SortFunc(state["events"].([]any), func(a, b any) int {
					return cmp.Compare(a.(map[string]any)["event_id"].(string), b.(map[string]any)["event_id"].(string))
				})
			}
		}
		out[id] = room
	}
	return out
}

// After a restart, the rooms of a first sync are read together, in groups.
func TestFirstSyncAfterARestartIsAsBefore(t *testing.T) {
	w := newWorld(t)
	people := []*user{w.user("alice"), w.user("bob"), w.user("carol")}
	fillRandomly(rand.New(rand.NewPCG(1, 2)), people, 80)
	large := people[0].create("public_chat")
	for i := range 70 { // more members than are read ahead
		w.user(fmt.Sprint("guest", i)).join(large)
	}
	people[1].join(large)
	people[1].say(large, "hello")
	for _, filter := range []string{"", lazy, `{"room":{"timeline":{"limit":3}}}`} {
		for _, stateAfter := range []bool{false, true} {
			for _, u := range people {
				before := u.firstSync(filter, stateAfter)
				w.restart()
				if after := u.firstSync(filter, stateAfter); !reflect.DeepEqual(before, after) || len(before) < 25 {
					for id, room := range before {
						if !reflect.DeepEqual(room, after[id]) {
							t.Errorf("%s, filter %q, state_after %v: %s is\n%v\nafter the restart, before\n%v", u.UserID, filter, stateAfter, id, after[id], room)
						}
					}
					t.Fatalf("%d rooms before, %d after", len(before), len(after))
				}
			}
		}
	}
}
