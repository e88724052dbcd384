package rooms

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"
	"ebb/rooms/stateres"
	"ebb/rooms/stateres/reference"
	"ebb/storage"
)

// Three servers share a room. While they are disconnected, each changes who has power, who is banned and who may join.
// When they are connected again they must agree, and the result must be the one that the specification prescribes.
func TestDisconnectedServersAgreeAfterReconnecting(t *testing.T) {
	seeds := 17 // 51 covers three room versions
	if os.Getenv("EBB_TEST_LONG") != "" {
		seeds = 334
	}
	for _, version := range []id.RoomVersion{id.RoomV6, id.RoomV11, id.RoomV12} {
		t.Run("v"+string(version), func(t *testing.T) {
			var w war
			for seed := range seeds {
				w.wage(t, version, uint64(seed))
			}
			t.Logf("%d rooms: power events in conflict in %d, last write wins differs in %d; %d events, %d refused, %d soft-failed, %d times completed",
				w.rooms, w.powerful, w.otherwise, w.events, w.rejected, w.softFailed, w.completed)
			if w.powerful*10 < w.rooms*7 {
				t.Errorf("power events were in conflict in only %d of %d rooms: the test proves too little", w.powerful, w.rooms)
			}
			if w.completed == 0 {
				t.Error("no server had partial state: the test proves too little")
			}
			if w.otherwise == 0 {
				t.Error("a rule by which the last write wins would lead to the same states: the test proves nothing")
			}
		})
	}
}

// war records what happened in some random rooms.
type war struct {
	rooms, powerful, otherwise   int
	events, rejected, softFailed int
	completed                    int // rooms that were partial-state rooms for some time

	t     *testing.T
	dice  *rand.Rand
	n     *network
	sides []*side
	room  id.RoomID
	clock time.Time
}

// side is a server with its users, the most powerful first.
type side struct {
	*peer
	users []ident.Requester
}

func (w *war) wage(t *testing.T, version id.RoomVersion, seed uint64) {
	w.t, w.dice = t, rand.New(rand.NewPCG(seed, 7))
	if w.n == nil {
		w.n = newNetwork(t)
		w.n.page = 7
		for _, name := range []string{"a", "b", "c"} {
			w.sides = append(w.sides, &side{peer: w.n.add(name)})
		}
		w.clock = w.sides[0].now
	}
	w.n.omit = seed%3 == 1
	w.found(version, seed)
	for range 3 {
		w.part()
		for range 10 + w.dice.IntN(10) {
			w.something()
		}
		w.heal()
	}
	if w.n.omit {
		w.completeAll(seed)
	}
	w.judge(seed)
	if seed%4 == 0 {
		w.lookBack(seed)
	}
	w.rooms++
}

// found creates the room and joins all users.
func (w *war) found(version id.RoomVersion, seed uint64) {
	for _, s := range w.sides {
		s.users = []ident.Requester{s.user(fmt.Sprint("u", seed)), s.user(fmt.Sprint("v", seed)), s.user(fmt.Sprint("w", seed))}
	}
	a, b, c := w.sides[0], w.sides[1], w.sides[2]
	levels := map[id.UserID]int{a.users[1].UserID: 60, b.users[0].UserID: 100, b.users[1].UserID: 50, c.users[0].UserID: 60, c.users[1].UserID: 50}
	if v, _ := pdu.VersionOf(version); !v.PrivilegedCreators {
		levels[a.users[0].UserID] = 100
	}
	raw, err := json.Marshal(map[string]any{"users": levels, "invite": 50, "kick": 50, "ban": 50, "state_default": 50})
	a.ok(err)
	w.tick()
	w.room = a.create(a.users[0], CreateRoom{Preset: "public_chat", RoomVersion: version, PowerLevelOverride: raw})
	for _, s := range w.sides {
		for _, u := range s.users {
			w.tick()
			s.joinVia(u, w.room, "a")
		}
		w.n.deliver()
	}
}

// lookBack joins a user of a fourth server, who reads the room back to its beginning. Everything that the founder can
// read must appear once, after the events that it follows.
func (w *war) lookBack(seed uint64) {
	w.t.Helper()
	a, founder := w.sides[0], w.sides[0].users[0]
	if a.content(w.room, typeJoinRules, "") != `{"join_rule":"public"}` {
		a.set(founder, w.room, typeJoinRules, "", `{"join_rule":"public"}`)
	}
	late := w.n.peers["late"]
	if late == nil {
		late = w.n.add("late")
	}
	late.now = w.clock
	reader := late.user(fmt.Sprint("u", seed))
	late.joinVia(reader, w.room, "a")
	w.n.deliver()
	got := late.pages(reader, w.room, 5+w.dice.IntN(50))
	place := map[id.EventID]int{}
	for i, eventID := range got {
		if _, twice := place[eventID]; twice {
			w.t.Fatalf("seed %d: %s is in the pages twice", seed, eventID)
		}
		place[eventID] = i
	}
	for _, eventID := range a.pages(founder, w.room, 1000) {
		at, found := place[eventID]
		if !found {
			w.t.Fatalf("seed %d: the pages have %d events, but not %s: %s", seed, len(got), eventID, a.stored(w.room, eventID).JSON())
		}
		for _, prev := range a.stored(w.room, eventID).PrevEvents() {
			if before, shown := place[prev]; shown && before < at {
				w.t.Fatalf("seed %d: in pages from new to old, %s comes after %s, although it follows that event", seed, eventID, prev)
			}
		}
	}
	late.matchesDisk(w.room)
}

// completeAll completes the partial-state rooms that are not complete yet. Verdicts that were made with incomplete
// state must then equal those of the founder.
func (w *war) completeAll(seed uint64) {
	w.t.Helper()
	a := w.sides[0]
	for _, s := range w.sides[1:] {
		if s.room(w.room).Partial() {
			s.complete(w.room)
			w.completed++
		}
	}
	w.heal()
	for _, s := range w.sides[1:] {
		if !s.room(w.room).Resident() {
			continue
		}
		for eventID := range readGraph(a.house, w.room).events {
			mine, theirs := a.stored(w.room, eventID), s.stored(w.room, eventID)
			if theirs == nil || theirs.Flags&storage.OutlierEvent != 0 {
				continue
			}
			if (mine.Flags^theirs.Flags)&storage.RejectedEvent != 0 {
				w.t.Fatalf("seed %d: server a has the flags %d, and %s the flags %d for %s", seed, mine.Flags, s.name, theirs.Flags, mine.JSON())
			}
		}
	}
}

// tick advances the clocks. The clocks of the servers differ slightly.
func (w *war) tick() {
	w.clock = w.clock.Add(time.Duration(w.dice.IntN(20)) * time.Second)
	for i, s := range w.sides {
		s.now = w.clock.Add(time.Duration(i*7) * time.Second)
	}
}

// part disconnects all servers from each other, or one from the others.
func (w *war) part() {
	names := []string{"a", "b", "c"}
	w.dice.Shuffle(3, func(i, j int) { names[i], names[j] = names[j], names[i] })
	if w.dice.IntN(3) == 0 {
		w.n.split(names[:1], names[1:])
	} else {
		w.n.split(names[:1], names[1:2], names[2:])
	}
}

// heal reconnects all servers. Some events are lost and arrive later, so servers have to request them.
func (w *war) heal() {
	w.n.split()
	for w.n.deliverSome(w.dice.IntN, w.dice.IntN(4) == 0) {
	}
	w.n.resend()
	for range 3 {
		for _, s := range w.sides {
			w.tick()
			for _, u := range s.users {
				if _, err := s.trySend(u, w.room, "m.room.message", `{"body":"here I am"}`); err == nil {
					break
				}
			}
			w.n.deliver()
		}
	}
}

// something makes a random user perform a random action, if that is allowed.
func (w *war) something() {
	w.tick()
	s := w.sides[w.dice.IntN(3)]
	u := s.users[w.dice.IntN(len(s.users))]
	other := w.anybody()
	if r := s.room(w.room); r.Partial() && (w.dice.IntN(8) == 0 || !s.svc.KnowsMember(s.Context(), w.room, other)) && w.n.reach(s.name, "a") {
		s.complete(w.room)
		w.completed++
	} else if r.Partial() && !s.svc.KnowsMember(s.Context(), w.room, other) { // this would wait for the members
		return
	}
	if u.UserID == s.users[0].UserID && other == u.UserID { // the most powerful users do not leave
		return
	}
	ctx := s.Context()
	var err error
	switch w.dice.IntN(12) {
	case 0, 1, 2:
		err = w.setLevels(s, u)
	case 3, 4:
		_, err = s.trySet(u, w.room, typeJoinRules, "", fmt.Sprintf(`{"join_rule":%q}`, []string{"public", "invite", "knock"}[w.dice.IntN(3)]))
	case 5:
		err = s.svc.Ban(ctx, u, w.room, other, "")
	case 6:
		err = s.svc.Kick(ctx, u, w.room, other, "")
	case 7:
		err = s.svc.Unban(ctx, u, w.room, other, "")
	case 8:
		err = s.svc.JoinWith(ctx, u, w.room, []string{"a"}, nil)
	case 9:
		if u.UserID != s.users[0].UserID { // the most powerful users stay
			err = s.svc.Leave(ctx, u, w.room, "")
		}
	case 10:
		_, err = s.trySet(u, w.room, typeTopic, "", fmt.Sprintf(`{"topic":"%d"}`, w.dice.IntN(1000)))
	default:
		_, err = s.trySend(u, w.room, "m.room.message", `{"body":"hello"}`)
	}
	var known *mxerr.Error
	if err != nil && (!errors.As(err, &known) || known.Status >= 500) && !errors.Is(err, errUnreachable) {
		w.t.Fatalf("%s on %s: %v", u.UserID, s.name, err)
	}
	if w.dice.IntN(3) == 0 {
		w.n.deliverSome(w.dice.IntN, false)
	}
}

func (w *war) anybody() id.UserID {
	s := w.sides[w.dice.IntN(3)]
	return s.users[w.dice.IntN(len(s.users))].UserID
}

// setLevels changes the power level of a user, or the one that a ban requires.
func (w *war) setLevels(s *side, u ident.Requester) error {
	var levels map[string]json.RawMessage
	s.ok(json.Unmarshal([]byte(s.content(w.room, typePowerLevels, "")), &levels))
	users := map[id.UserID]int64{}
	s.ok(json.Unmarshal(levels["users"], &users))
	whom := w.anybody()
	if whom == w.sides[0].users[0].UserID { // the founder's power level stays
		levels["ban"] = json.RawMessage([]string{"50", "60", "100"}[w.dice.IntN(3)])
	} else {
		users[whom] = []int64{0, 50, 60, 60, 100, 100}[w.dice.IntN(6)]
	}
	raw, err := json.Marshal(users)
	s.ok(err)
	levels["users"] = raw
	content, err := json.Marshal(levels)
	s.ok(err)
	_, err = s.trySet(u, w.room, typePowerLevels, "", string(content))
	return err
}

// judge compares the servers with each other and with the reference implementation.
func (w *war) judge(seed uint64) {
	w.t.Helper()
	a := w.sides[0]
	g := readGraph(a.house, w.room)
	g.resolver = g.byTheBook
	want := g.run(w.t)
	if got := stateIDs(a.house, w.room); !maps.Equal(got, want) {
		w.t.Fatalf("seed %d: the state is not what the specification says:\n%s", seed, g.differences(got, want))
	}
	for _, s := range w.sides {
		s.matchesDisk(w.room)
		if !s.room(w.room).Resident() {
			continue
		}
		if got := stateIDs(s.house, w.room); !maps.Equal(got, want) {
			w.t.Fatalf("seed %d: the state of %s differs from that of a:\n%s", seed, s.name, g.differences(got, want))
		}
	}
	if g.powerful {
		w.powerful++
	}
	w.events, w.rejected, w.softFailed = w.events+len(g.events), w.rejected+len(g.rejected), w.softFailed+g.softFailed
	g.resolver, g.compares = g.lastWriteWins, false
	if !maps.Equal(g.run(w.t), want) {
		w.otherwise++
	}
}

// stateIDs returns the event IDs of a room's current state.
func stateIDs(h *house, room id.RoomID) stateres.StateSet {
	h.Helper()
	r := h.room(room)
	positions := map[pdu.StateKey]storage.Pos{}
	var all []storage.Pos
	r.EachState(func(key pdu.StateKey, pos, _ storage.Pos, _ *Event) bool {
		positions[key] = pos
		all = append(all, pos)
		return true
	})
	out := stateres.StateSet{}
	h.ok(h.db.Read(h.Context(), func(tx *storage.Tx) error {
		events, err := r.EventsAt(tx, all)
		for key, pos := range positions {
			out[key] = events[pos].ID()
		}
		return err
	}))
	return out
}

// wholeGraph contains all events of a room that a server has, to authorise them again.
type wholeGraph struct {
	version    *pdu.Version
	events     map[id.EventID]*pdu.Event
	heads      []id.EventID
	refused    map[id.EventID]bool // events that the server refused
	softFailed int
	compares   bool                // whether to compare the verdicts with the server's
	undecided  map[id.EventID]bool // events that are undecided at the server

	resolver func(sets []stateres.StateSet) stateres.StateSet
	rejected map[id.EventID]bool
	after    map[id.EventID]stateres.StateSet
	powerful bool // whether there was a conflict between power events
}

// readGraph reads the ancestors of a room's forward extremities and of the events in also.
func readGraph(h *house, room id.RoomID, also ...id.EventID) *wholeGraph {
	h.Helper()
	r := h.room(room)
	g := &wholeGraph{version: r.version, heads: r.extremityIDs(), events: map[id.EventID]*pdu.Event{}, refused: map[id.EventID]bool{}, compares: true}
	for todo := append(also, g.heads...); len(todo) > 0; {
		slices.Sort(todo)
		todo = slices.DeleteFunc(slices.Compact(todo), func(eventID id.EventID) bool { return g.events[eventID] != nil })
		found, err := h.svc.stored(h.Context(), r, todo)
		h.ok(err)
		var next []id.EventID
		for _, eventID := range todo {
			e := found[eventID]
			if e == nil || e.Flags&storage.OutlierEvent != 0 {
				h.Fatalf("%s is not part of the graph", eventID)
			}
			g.events[eventID], g.refused[eventID] = e.Event, e.Flags&storage.RejectedEvent != 0
			if e.Flags&storage.SoftFailedEvent != 0 {
				g.softFailed++
			}
			next = append(append(next, e.PrevEvents()...), e.AuthEvents()...)
		}
		todo = next
	}
	return g
}

// run judges every event by its auth events and by the state before it, and returns the state at the end.
func (g *wholeGraph) run(t *testing.T) stateres.StateSet {
	t.Helper()
	g.rejected, g.after = map[id.EventID]bool{}, map[id.EventID]stateres.StateSet{}
	for _, e := range g.sorted() {
		before := g.meet(e.PrevEvents())
		auth := stateres.StateSet{}
		var list []*pdu.Event
		bad := false
		for _, a := range e.AuthEvents() {
			key, _ := g.events[a].StateKey()
			auth[pdu.StateKey{Type: g.events[a].Type(), Key: key}] = a
			list, bad = append(list, g.events[a]), bad || g.rejected[a]
		}
		if g.version.RoomIDIsCreateHash && e.Type() != typeCreate {
			auth[pdu.StateKey{Type: typeCreate}] = id.EventID("$" + strings.TrimPrefix(string(e.RoomID()), "!"))
		}
		bad = bad || g.undecided[e.ID()] || eventauth.CheckAuthEvents(e, list) != nil || g.check(e, auth) != nil || g.check(e, before) != nil
		if bad {
			g.rejected[e.ID()] = true
		}
		if g.compares && bad != g.refused[e.ID()] {
			t.Fatalf("rejected by the server: %v, by the reference: %v: %s", g.refused[e.ID()], bad, e.JSON())
		}
		if key, isState := e.StateKey(); isState && !bad {
			before = maps.Clone(before)
			before[pdu.StateKey{Type: e.Type(), Key: key}] = e.ID()
		}
		g.after[e.ID()] = before
	}
	return g.meet(g.heads)
}

func (g *wholeGraph) check(e *pdu.Event, state stateres.StateSet) error {
	events := eventauth.StateMap{}
	for key, eventID := range state {
		events[key] = g.events[eventID]
	}
	return eventauth.Check(g.version, e, events)
}

// sorted returns the events, each after its prev_events.
func (g *wholeGraph) sorted() (out []*pdu.Event) {
	done := map[id.EventID]bool{}
	var visit func(e *pdu.Event)
	visit = func(e *pdu.Event) {
		if done[e.ID()] {
			return
		}
		done[e.ID()] = true
		for _, before := range append(slices.Clone(e.PrevEvents()), e.AuthEvents()...) {
			visit(g.events[before])
		}
		out = append(out, e)
	}
	for _, e := range g.events {
		visit(e)
	}
	return out
}

// meet returns the resolved state after some events.
func (g *wholeGraph) meet(events []id.EventID) stateres.StateSet {
	var sets []stateres.StateSet
	for _, eventID := range events {
		set := g.after[eventID]
		if !slices.ContainsFunc(sets, func(o stateres.StateSet) bool { return maps.Equal(o, set) }) {
			sets = append(sets, set)
		}
	}
	switch len(sets) {
	case 0:
		return stateres.StateSet{}
	case 1:
		return sets[0]
	}
	return g.resolver(sets)
}

func (g *wholeGraph) byTheBook(sets []stateres.StateSet) stateres.StateSet {
	for key, events := range conflicts(sets) {
		for eventID := range events {
			e := g.events[eventID]
			switch m := pdu.Membership(e.Content()); key.Type {
			case typePowerLevels, typeJoinRules:
				g.powerful = true
			case typeMember:
				g.powerful = g.powerful || (m == Leave || m == Ban) && string(e.Sender()) != key.Key
			}
		}
	}
	return reference.Resolver{Version: g.version, Sets: sets, Events: g.events, Rejected: g.rejected}.Resolve()
}

// lastWriteWins resolves state by the latest timestamp, which a server must not do.
func (g *wholeGraph) lastWriteWins(sets []stateres.StateSet) stateres.StateSet {
	out := stateres.StateSet{}
	for _, set := range sets {
		for key, eventID := range set {
			if old := out[key]; old == "" || g.newer(eventID, old) {
				out[key] = eventID
			}
		}
	}
	return out
}

func (g *wholeGraph) newer(a, b id.EventID) bool {
	return cmp.Or(cmp.Compare(g.events[a].OriginServerTS(), g.events[b].OriginServerTS()), cmp.Compare(a, b)) > 0
}

func conflicts(sets []stateres.StateSet) map[pdu.StateKey]map[id.EventID]bool {
	out := map[pdu.StateKey]map[id.EventID]bool{}
	for _, set := range sets {
		for key, eventID := range set {
			if slices.ContainsFunc(sets, func(o stateres.StateSet) bool { return o[key] != eventID }) {
				if out[key] == nil {
					out[key] = map[id.EventID]bool{}
				}
				out[key][eventID] = true
			}
		}
	}
	return out
}

func (g *wholeGraph) differences(got, want stateres.StateSet) string {
	var b strings.Builder
	for key := range conflicts([]stateres.StateSet{got, want}) {
		fmt.Fprintf(&b, "%v: got %s, want %s\n", key, g.describe(got[key]), g.describe(want[key]))
	}
	return b.String()
}

func (g *wholeGraph) describe(eventID id.EventID) string {
	e := g.events[eventID]
	if e == nil {
		return string(eventID)
	}
	canonical, err := canonjson.Canonical(e.Content(), false)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s by %s: %s", eventID, e.Sender(), canonical)
}
