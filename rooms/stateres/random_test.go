package stateres_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"
	"ebb/rooms/stateres"
	"ebb/rooms/stateres/reference"

	"maunium.net/go/mautrix/id"
)

// dice is where a random room comes from: a generator or the bytes of a fuzzer.
type dice interface{ IntN(n int) int }

// world is a random room: a graph of events with the state after each.
type world struct {
	t     testing.TB
	v     *pdu.Version
	dice  dice
	store *mapStore
	order []id.EventID
	after map[id.EventID]stateres.StateSet
	room  string
	wild  bool // auth events and states may be anything
}

var names = []string{"@a:x", "@b:x", "@c:y", "@d:y", "@e:z"}

func newWorld(t testing.TB, v *pdu.Version, d dice, wild bool) *world {
	w := &world{
		t: t, v: v, dice: d, wild: wild, room: "!room:x", after: make(map[id.EventID]stateres.StateSet),
		store: &mapStore{events: make(map[id.EventID]*pdu.Event), rejected: make(map[id.EventID]bool)},
	}
	creator := names[0]
	create := w.add("m.room.create", creator, "", map[string]any{"creator": creator, "room_version": v.ID}, nil, nil)
	if v.RoomIDIsCreateHash {
		w.room = "!" + string(create[1:])
	}
	w.must("m.room.member", creator, creator, map[string]any{"membership": "join"})
	users := map[string]any{names[1]: 50}
	if !v.PrivilegedCreators {
		users[creator] = 100
	}
	w.must("m.room.power_levels", creator, "", map[string]any{"users": users})
	w.must("m.room.join_rules", creator, "", map[string]any{"join_rule": "public"})
	return w
}

func pickOne[T any](d dice, of []T) T { return of[d.IntN(len(of))] }

// heads picks the events before a new one: mostly the latest, at times others, so that the graph forks.
func (w *world) heads() []id.EventID {
	if len(w.order) == 0 {
		return nil
	}
	recent := w.order[max(0, len(w.order)-6):]
	heads := []id.EventID{recent[len(recent)-1]}
	for range w.dice.IntN(3) {
		heads = append(heads, pickOne(w.dice, recent))
	}
	if w.dice.IntN(2) == 0 {
		heads = heads[len(heads)-1:]
	}
	slices.Sort(heads)
	return slices.Compact(heads)
}

func (w *world) before(prev []id.EventID) stateres.StateSet {
	var sets []stateres.StateSet
	for _, p := range prev {
		sets = append(sets, w.after[p])
	}
	return w.resolve(sets)
}

func (w *world) resolve(sets []stateres.StateSet) stateres.StateSet {
	w.t.Helper()
	state, err := stateres.Resolve(w.v, sets, w.store)
	if err != nil {
		w.t.Fatal(err)
	}
	return state
}

func (w *world) stateOf(set stateres.StateSet) eventauth.StateMap {
	state := make(eventauth.StateMap)
	for key, eventID := range set {
		state[key] = w.store.events[eventID]
	}
	return state
}

// must adds an event after all others, which has to be allowed.
func (w *world) must(typ, sender, key string, content map[string]any) {
	w.t.Helper()
	if !w.try(typ, sender, key, content, w.order[len(w.order)-1:]) {
		w.t.Fatalf("%s by %s is not allowed", typ, sender)
	}
}

// try adds an event if the state before it allows it. One that is not is at times added as rejected.
func (w *world) try(typ, sender, key string, content map[string]any, prev []id.EventID) bool {
	state := w.before(prev)
	raw, err := json.Marshal(content)
	if err != nil {
		w.t.Fatal(err)
	}
	var auth []id.EventID
	for _, k := range eventauth.AuthKeysFor(w.v, typ, &key, id.UserID(sender), raw) {
		if eventID, ok := state[k]; ok {
			auth = append(auth, eventID)
		}
	}
	if w.wild && w.dice.IntN(4) == 0 {
		auth = append(auth, pickOne(w.dice, w.order), id.EventID(fmt.Sprintf("$%d-later", len(w.order)+w.dice.IntN(3))))
	}
	eventID := w.add(typ, sender, key, content, prev, auth)
	after := maps.Clone(state)
	allowed := eventauth.Check(w.v, w.store.events[eventID], w.stateOf(state)) == nil
	switch {
	case allowed:
		after[pdu.StateKey{Type: typ, Key: key}] = eventID
	case w.dice.IntN(6) == 0:
		w.store.rejected[eventID] = true
	default:
		delete(w.store.events, eventID)
		w.order = w.order[:len(w.order)-1]
		return false
	}
	w.after[eventID] = after
	return allowed
}

func (w *world) add(typ, sender, key string, content map[string]any, prev, auth []id.EventID) id.EventID {
	w.t.Helper()
	eventID := id.EventID(fmt.Sprintf("$%c%d", 'a'+rune(w.dice.IntN(26)), len(w.order)))
	if w.wild && w.dice.IntN(2) == 0 {
		eventID = id.EventID(fmt.Sprintf("$%d-later", len(w.order)))
	}
	obj := map[string]any{
		"event_id": eventID, "type": typ, "sender": sender, "state_key": key, "content": content,
		"origin_server_ts": w.dice.IntN(12), "depth": len(w.order) + w.dice.IntN(3),
		"prev_events": references(w.v, prev), "auth_events": references(w.v, auth),
	}
	if typ != "m.room.create" || !w.v.RoomIDIsCreateHash {
		obj["room_id"] = w.room
	}
	raw, err := json.Marshal(obj)
	if err != nil {
		w.t.Fatal(err)
	}
	e, err := pdu.ParseLenient(w.v, raw)
	if err != nil {
		w.t.Fatal(err)
	}
	w.store.events[eventID] = e
	w.order = append(w.order, eventID)
	if typ == "m.room.create" {
		w.after[eventID] = stateres.StateSet{{Type: typ}: eventID}
	}
	return eventID
}

// references gives event ids the form that the room version has for them.
func references(v *pdu.Version, ids []id.EventID) any {
	if v.EventIDFormat != pdu.EventIDFromServer {
		return append([]id.EventID{}, ids...)
	}
	pairs := []any{}
	for _, eventID := range ids {
		pairs = append(pairs, []any{eventID, map[string]string{"sha256": ""}})
	}
	return pairs
}

// grow adds events at random until the room has about n.
func (w *world) grow(n int) {
	for tries := 0; len(w.order) < n && tries < 6*n; tries++ {
		sender, target, prev := pickOne(w.dice, names), pickOne(w.dice, names), w.heads()
		switch w.dice.IntN(9) {
		case 0, 1:
			w.try("m.room.member", sender, sender, map[string]any{"membership": "join", "n": tries}, prev)
		case 2:
			w.try("m.room.member", sender, sender, map[string]any{"membership": "leave"}, prev)
		case 3:
			w.try("m.room.member", sender, target, map[string]any{"membership": pickOne(w.dice, []string{"ban", "leave", "invite"})}, prev)
		case 4, 5:
			w.try("m.room.power_levels", sender, "", w.levels(), prev)
		case 6:
			w.try("m.room.join_rules", sender, "", map[string]any{"join_rule": pickOne(w.dice, []string{"public", "invite"})}, prev)
		default:
			w.try(pickOne(w.dice, []string{"m.room.topic", "m.room.name"}), sender, "", map[string]any{"n": tries}, prev)
		}
	}
}

func (w *world) levels() map[string]any {
	users := make(map[string]any)
	for i, name := range names {
		if i == 0 && w.v.PrivilegedCreators {
			continue
		}
		if level := pickOne(w.dice, []int{0, 50, 50, 100}); level > 0 {
			users[name] = level
		}
	}
	if !w.v.PrivilegedCreators {
		users[names[0]] = 100
	}
	return map[string]any{"users": users}
}

// someSets picks states to be resolved: those after some events, at times with older entries than they should have, as
// a server that was told a wrong state has them.
func (w *world) someSets() []stateres.StateSet {
	sets := make([]stateres.StateSet, 2+w.dice.IntN(3))
	for i := range sets {
		sets[i] = maps.Clone(w.after[pickOne(w.dice, w.order)])
		for range w.dice.IntN(4) {
			e := w.store.events[pickOne(w.dice, w.order)]
			key, _ := e.StateKey()
			stateKey := pdu.StateKey{Type: e.Type(), Key: key}
			switch {
			case w.wild && w.dice.IntN(3) == 0:
				delete(sets[i], stateKey)
			case w.wild && w.dice.IntN(6) == 0:
				sets[i][stateKey] = "$missing"
			case !w.store.rejected[e.ID()] || w.wild:
				sets[i][stateKey] = e.ID()
			}
		}
	}
	return sets
}

// checkAgainstReference resolves sets in several orders and compares with the reference.
func (w *world) checkAgainstReference(sets []stateres.StateSet) (conflicted bool) {
	w.t.Helper()
	want := reference.Resolver{Version: w.v, Sets: sets, Events: w.store.events, Rejected: w.store.rejected}.Resolve()
	given := make([]stateres.StateSet, len(sets))
	for i, set := range sets {
		given[i] = maps.Clone(set)
	}
	for turn := range sets {
		turned := slices.Concat(sets[turn:], sets[:turn])
		if turn == 1 {
			turned = append(turned, turned[0]) // a state given twice says nothing new
		}
		if got := w.resolve(turned); !maps.Equal(got, want) {
			w.t.Fatalf("version %s, order %d:\n%s", w.v.ID, turn, w.explain(sets, got, want))
		}
	}
	if !slices.EqualFunc(given, sets, maps.Equal) {
		w.t.Fatal("Resolve changed its input")
	}
	return !maps.Equal(sets[0], want)
}

func (w *world) explain(sets []stateres.StateSet, got, want stateres.StateSet) string {
	var b strings.Builder
	for _, eventID := range w.order {
		fmt.Fprintf(&b, "%s\n", w.store.events[eventID].JSON())
	}
	for _, set := range sets {
		fmt.Fprintf(&b, "set %v\n", set)
	}
	fmt.Fprintf(&b, "got  %v\nwant %v\nrejected %v", got, want, w.store.rejected)
	return b.String()
}

func TestRandomRoomsResolveLikeTheReference(t *testing.T) {
	rooms := 60
	if testing.Short() {
		rooms = 10
	}
	for _, name := range []id.RoomVersion{id.RoomV1, id.RoomV2, id.RoomV6, id.RoomV10, id.RoomV11, id.RoomV12} {
		t.Run("v"+string(name), func(t *testing.T) {
			v, _ := pdu.VersionOf(name)
			conflicts := 0
			for seed := range rooms {
				w := newWorld(t, v, rand.New(rand.NewPCG(uint64(seed), 3)), seed%3 == 2)
				w.grow(40)
				for range 10 {
					if w.checkAgainstReference(w.someSets()) {
						conflicts++
					}
				}
			}
			if conflicts < rooms {
				t.Errorf("only %d resolutions changed anything: the random rooms are too peaceful", conflicts)
			}
		})
	}
}

// byteDice takes its throws from bytes; at their end it throws 0.
type byteDice struct{ rest []byte }

func (d *byteDice) IntN(n int) int {
	if len(d.rest) == 0 {
		return 0
	}
	throw := int(d.rest[0])
	d.rest = d.rest[1:]
	return throw % n
}

// FuzzResolve builds a room from bytes and compares with the reference in every order of the states.
func FuzzResolve(f *testing.F) {
	for _, seed := range []string{"", "\x00\x01\x02\x03", "resolve these states, whatever the order they are given in, and all alike", "\xff\xfe\xfd\xfc\xfb\xfa"} {
		f.Add(uint8(12), true, []byte(seed))
		f.Add(uint8(11), false, []byte(seed))
		f.Add(uint8(1), true, []byte(seed))
	}
	f.Fuzz(func(t *testing.T, n uint8, wild bool, throws []byte) {
		all := pdu.Versions()
		v, _ := pdu.VersionOf(all[int(n)%len(all)])
		w := newWorld(t, v, &byteDice{throws[:min(len(throws), 600)]}, wild)
		w.grow(24)
		w.checkAgainstReference(w.someSets())
	})
}
