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

// roomsOf makes n rooms of some of the given users.
func roomsOf(r *rand.Rand, people []*user, n int) (list []id.RoomID) {
	for i := range n {
		host := people[i%len(people)]
		room := host.create("public_chat")
		host.say(room, "welcome")
		for _, p := range people {
			if p != host && r.IntN(3) > 0 {
				p.join(room)
			}
		}
		list = append(list, room)
	}
	return list
}

// fillRandomly adds up to n random events and receipts of the users to a room. The host created the room.
func fillRandomly(r *rand.Rand, host *user, people []*user, room id.RoomID, n int) {
	said := []id.EventID{host.say(room, "hello")}
	for range r.IntN(n) {
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

// roomsSince returns the rooms of a sync. State, whose order means nothing, is sorted.
func (u *user) roomsSince(since, filter string, stateAfter bool) map[string]any {
	a := u.syncFrom(since, func(q *feed.SyncRequest) { q.Filter, q.StateAfter = filter, stateAfter })
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

// After a restart, the rooms of an answer are read together, in groups.
func TestSyncAfterARestartIsAsBefore(t *testing.T) {
	w := newWorld(t)
	people := []*user{w.user("alice"), w.user("bob"), w.user("carol")}
	r := rand.New(rand.NewPCG(1, 2))
	list := roomsOf(r, people, 80)
	for i, room := range list {
		fillRandomly(r, people[i%len(people)], people, room, 40)
	}
	large := people[0].create("public_chat")
	for i := range 70 { // more members than are read ahead
		w.user(fmt.Sprint("guest", i)).join(large)
	}
	people[1].join(large)
	people[1].say(large, "hello")
	tokens := map[*user][]string{}
	for _, u := range people {
		tokens[u] = []string{"", u.syncFrom("", filter(`{"room":{"rooms":[]}}`)).NextBatch}
	}
	for i, room := range list {
		fillRandomly(r, people[i%len(people)], people, room, 1+i%3*20) // some have more than fits in a timeline
	}
	people[1].say(large, "hello again")
	for _, filter := range []string{"", lazy, `{"room":{"timeline":{"limit":3}}}`} {
		for _, stateAfter := range []bool{false, true} {
			for _, u := range people {
				for _, since := range tokens[u] {
					before := u.roomsSince(since, filter, stateAfter)
					w.restart()
					if after := u.roomsSince(since, filter, stateAfter); !reflect.DeepEqual(before, after) || len(before) < 25 {
						for id, room := range before {
							if !reflect.DeepEqual(room, after[id]) {
								t.Errorf("%s since %q, filter %q, state_after %v: %s is\n%v\nafter the restart, before\n%v", u.UserID, since, filter, stateAfter, id, after[id], room)
							}
						}
						t.Fatalf("%d rooms before, %d after", len(before), len(after))
					}
				}
			}
		}
	}
}

// After a restart, nothing is in memory. An answer with many rooms must not query the database for each of them.
func TestAnswersAfterARestartTakeFewStatementsForEachRoom(t *testing.T) {
	const few, many = 4, 40
	small, large := statementsAfterRestarts(t, few), statementsAfterRestarts(t, many)
	for name, n := range large {
		// The unread events of half of the rooms are not in memory: these take a statement for each.
		if more := float64(n-small[name]) / (many - few); more > 0.9 {
			t.Errorf("%s: %d statements for %d rooms and %d for %d, which is %.1f for each further room", name, small[name], few, n, many, more)
		}
	}
}

// statementsAfterRestarts returns how many statements the first request after a restart executes, for a user in n rooms
// with news, half of which have more than fits in a timeline.
func statementsAfterRestarts(t *testing.T, n int) map[string]int64 {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	var list []id.RoomID
	for range n {
		room := alice.create("public_chat")
		bob.join(room)
		list = append(list, room)
	}
	since := alice.sync().NextBatch
	c := alice.sliding(allRooms)
	c.next()
	for i, room := range list {
		for range 1 + i%2*30 {
			bob.say(room, "news")
		}
	}
	out := map[string]int64{}
	for name, ask := range map[string]func(){
		"first sync":    func() { alice.syncFrom("") },
		"sync":          func() { alice.syncFrom(since) },
		"sync, lazy":    func() { alice.syncFrom(since, filter(lazy)) },
		"sliding sync":  func() { c.again() },
		"first sliding": func() { alice.sliding(allRooms[:1] + `"conn_id":"new",` + allRooms[1:]).next() },
	} {
		w.restart()
		w.statements.Store(0)
		ask()
		out[name] = w.statements.Load()
	}
	return out
}
