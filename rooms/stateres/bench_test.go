package stateres_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"ebb/rooms/pdu"
	"ebb/rooms/stateres"

	"maunium.net/go/mautrix/id"
)

// BenchmarkResolve resolves two states of a room of 10,000 members that differ in what is named.
func BenchmarkResolve(b *testing.B) {
	v, _ := pdu.VersionOf(id.RoomV12)
	w := newWorld(b, v, rand.New(rand.NewPCG(1, 1)), false)
	state := maps.Clone(w.after[w.order[len(w.order)-1]])
	auth := []id.EventID{state[pdu.StateKey{Type: "m.room.power_levels"}], state[pdu.StateKey{Type: "m.room.join_rules"}]}
	for i := range 10_000 {
		user := fmt.Sprintf("@user%d:y", i)
		state[pdu.StateKey{Type: "m.room.member", Key: user}] = w.add("m.room.member", user, user, map[string]any{"membership": "join"}, nil, auth)
	}
	one, two := maps.Clone(state), maps.Clone(state)
	creator := state[pdu.StateKey{Type: "m.room.member", Key: names[0]}]
	for i, set := range []stateres.StateSet{one, two} {
		set[pdu.StateKey{Type: "m.room.topic"}] = w.add("m.room.topic", names[0], "", map[string]any{"n": i}, nil, append(auth, creator))
	}
	b.Run("topics", func(b *testing.B) { benchmarkSets(b, w, []stateres.StateSet{one, two}) })
	for i, set := range []stateres.StateSet{one, two} {
		set[pdu.StateKey{Type: "m.room.power_levels"}] = w.add("m.room.power_levels", names[0], "", map[string]any{"ban": i}, nil, []id.EventID{auth[0], creator})
	}
	one[pdu.StateKey{Type: "m.room.name"}] = w.add("m.room.name", names[0], "", map[string]any{}, nil, []id.EventID{one[pdu.StateKey{Type: "m.room.power_levels"}], creator})
	b.Run("power levels", func(b *testing.B) { benchmarkSets(b, w, []stateres.StateSet{one, two}) })
}

func benchmarkSets(b *testing.B, w *world, sets []stateres.StateSet) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := stateres.Resolve(w.v, sets, w.store); err != nil {
			b.Fatal(err)
		}
	}
}
