package rooms

import (
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

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// A server joins a room of two honest servers and a hostile one. It cannot get the key of one of the honest servers.
// All servers ignore min_depth. The hostile server sends the create event and others from before the join again, sends
// broken copies of valid events, events that the auth rules reject and events from the next month, builds on those, and
// returns them in responses. Everything that the honest servers have sent since the join must be shown all the same,
// except for events that cite an undecided event; these must be shown once the key is available. All servers must agree
// on the state.
func TestEventsOfHonestServersAreShownDespiteHostileOnes(t *testing.T) {
	seeds := 1 // 12 covers all room versions
	if os.Getenv("EBB_TEST_LONG") != "" {
		seeds = 7
	}
	var all crowd
	for i, version := range pdu.Versions() {
		t.Run("v"+string(version), func(t *testing.T) {
			for seed := i; seed < i+seeds; seed++ {
				c := newCrowd(t, version, uint64(seed))
				for range 60 {
					c.something()
				}
				c.settle()
				c.judge(seed)
				all.undecided, all.citing, all.rejected = all.undecided+c.undecided, all.citing+c.citing, all.rejected+c.rejected
				all.compared += c.compared
			}
		})
	}
	t.Logf("%d undecided events, %d that cite them, %d rejected; %d rooms compared with the reference", all.undecided, all.citing, all.rejected, all.compared)
	if all.undecided == 0 || all.citing == 0 || all.rejected == 0 || all.compared == 0 {
		t.Error("the hostile server and the one without a key did no harm: the test proves nothing")
	}
}

type crowd struct {
	testing.TB
	dice *rand.Rand
	n    *network
	room id.RoomID

	a, b, c *peer // honest servers: a created the room, b joins late, and b lacks the key of c
	evil    *stranger
	users   map[string][]ident.Requester // by server
	mallory id.UserID
	old     []id.EventID // events from before b joined
	join    id.EventID

	undecided, citing, rejected, compared int
}

func newCrowd(t *testing.T, version id.RoomVersion, seed uint64) *crowd {
	n := newNetwork(t)
	n.heedless, n.keyLife = true, 7*24*time.Hour
	c := &crowd{TB: t, dice: rand.New(rand.NewPCG(seed, 13)), n: n, a: n.add("a"), b: n.add("b"), c: n.add("c"), users: map[string][]ident.Requester{}}
	for _, p := range []*peer{c.a, c.b, c.c} {
		c.users[p.name] = []ident.Requester{p.user("u"), p.user("v")}
	}
	levels := map[id.UserID]int{c.users["a"][1].UserID: 60, c.users["b"][0].UserID: 60, c.users["c"][0].UserID: 100}
	if v, _ := pdu.VersionOf(version); !v.PrivilegedCreators {
		levels[c.users["a"][0].UserID] = 100
	}
	raw, err := json.Marshal(map[string]any{"users": levels, "state_default": 50, "invite": 50, "kick": 50, "ban": 50})
	c.a.ok(err)
	c.room = c.a.create(c.users["a"][0], CreateRoom{Preset: "public_chat", RoomVersion: version, PowerLevelOverride: raw})
	c.a.ok(c.a.svc.Join(t.Context(), c.users["a"][1], c.room, ""))
	c.c.joinVia(c.users["c"][0], c.room, "a")
	n.deliver()
	c.evil = n.stranger("evil", c.a)
	c.mallory = c.evil.user("mallory")
	c.evil.join(c.room, c.mallory)
	n.deliver()
	for range 5 + c.dice.IntN(60) {
		c.tick()
		c.a.say(c.users["a"][c.dice.IntN(2)], c.room, "before the join")
	}
	n.deliver()
	for _, e := range c.a.timeline(c.room) {
		c.old = append(c.old, e.ID())
	}
	if c.dice.IntN(2) == 0 { // c forks the room just before b joins
		n.split([]string{"a", "b"}, []string{"c"})
		c.c.say(c.users["c"][0], c.room, "beside the join")
	}
	n.onJoin = func() { c.a.say(c.users["a"][0], c.room, "while b joins") }
	c.b.joinVia(c.users["b"][0], c.room, "a")
	n.onJoin = nil
	n.split()
	n.deliver()
	c.join = c.b.house.room(c.room).State(typeMember, string(c.users["b"][0].UserID)).ID()
	n.blind["b c"] = true
	c.remembers()
	return c
}

// tick advances the clocks.
func (c *crowd) tick() {
	for _, p := range []*peer{c.a, c.b, c.c} {
		p.now = p.now.Add(time.Duration(1+c.dice.IntN(5)) * time.Second)
	}
}

// remembers makes the hostile server respond with its own events, and with others that were not requested.
func (c *crowd) remembers() {
	c.evil.remembers()
	honest := c.evil.missing
	c.evil.missing = func(latest []id.EventID) ([]json.RawMessage, error) {
		raws, err := honest(latest)
		for range c.dice.IntN(3) {
			raws = append(raws, c.a.stored(c.room, c.old[c.dice.IntN(len(c.old))]).JSON())
		}
		for _, e := range c.evil.made {
			if len(raws) < usualMissingPage && c.dice.IntN(10) == 0 {
				raws = append(raws, e.JSON())
			}
		}
		return raws, err
	}
}

// push makes the hostile server send events to the honest servers that it knows.
func (c *crowd) push(raws ...json.RawMessage) {
	c.Helper()
	for _, p := range []*peer{c.a, c.b} {
		if _, err := p.svc.Receive(c.Context(), "evil", c.room, raws); err != nil && !errors.Is(err, ErrLater) {
			c.Fatalf("%s: %v", p.name, err)
		}
	}
}

// something makes a random server do something.
func (c *crowd) something() {
	c.tick()
	switch c.dice.IntN(10) {
	case 0, 1, 2:
		c.mischief()
	case 3:
		names := []string{"a", "b", "c"}
		c.dice.Shuffle(3, func(i, j int) { names[i], names[j] = names[j], names[i] })
		c.n.split(names[:1], names[1:])
	case 4:
		c.n.split()
	default:
		c.write([]*peer{c.a, c.a, c.b, c.c}[c.dice.IntN(4)])
	}
	for c.dice.IntN(3) > 0 && c.n.deliverSome(c.dice.IntN, c.dice.IntN(8) == 0) {
	}
}

// write makes an honest server perform a random action that the rules allow.
func (c *crowd) write(p *peer) {
	u := c.users[p.name][0]
	var err error
	switch c.dice.IntN(8) {
	case 0:
		_, err = p.trySet(u, c.room, typeTopic, "", fmt.Sprintf(`{"topic":"%d"}`, c.dice.IntN(1000)))
	case 1:
		_, err = p.trySet(u, c.room, typeName, "", fmt.Sprintf(`{"name":"%d"}`, c.dice.IntN(1000)))
	case 2:
		if p == c.c && c.dice.IntN(3) == 0 { // what the others send afterwards cites it
			levels := p.content(c.room, typePowerLevels, "")
			_, err = p.trySet(u, c.room, typePowerLevels, "", strings.Replace(levels, `"state_default":50`, `"state_default":51`, 1))
		}
	default:
		_, err = p.trySend(u, c.room, "m.room.message", `{"body":"hello"}`)
	}
	if err != nil && mxerr.Code(err) != mxerr.CodeForbidden {
		c.Fatalf("%s: %v", u.UserID, err)
	}
}

// mischief makes the hostile server perform a random attack.
func (c *crowd) mischief() {
	raw := func(eventID id.EventID) json.RawMessage { return c.a.stored(c.room, eventID).JSON() }
	switch c.dice.IntN(6) {
	case 0:
		c.push(raw(c.old[0]))
	case 1:
		from := c.dice.IntN(len(c.old))
		var raws []json.RawMessage
		for _, eventID := range c.old[from:min(len(c.old), from+1+c.dice.IntN(20))] {
			raws = append(raws, raw(eventID))
		}
		c.push(raws...)
	case 2: // a rejected event, and one that follows it
		bad := c.evil.make(c.room, pdu.Proto{Type: typePowerLevels, StateKey: new(string), Sender: c.mallory, Content: json.RawMessage(`{"users":{"@mallory:evil":100}}`)})
		good := c.evil.say(c.room, c.mallory, "on top of what is rejected", bad.ID())
		if c.dice.IntN(2) == 0 {
			c.push(bad.JSON(), good.JSON())
		} else {
			c.push(good.JSON())
		}
	case 3: // an event from the next month
		e := c.evil.make(c.room, pdu.Proto{Type: "m.room.message", Sender: c.mallory, OriginServerTS: c.a.now.Add(30 * 24 * time.Hour).UnixMilli()})
		c.push(e.JSON(), c.evil.say(c.room, c.mallory, "on top of the future", e.ID()).JSON())
	case 4: // a broken copy of a valid event that may not have arrived yet
		tips := c.a.house.room(c.room).extremityIDs()
		broken := strings.Replace(string(raw(tips[0])), `"ed25519:1":"`, []string{`"ed25519:1":"AAAA`, `"ed25519:2":"`}[c.dice.IntN(2)], 1)
		c.push(json.RawMessage(broken))
	default:
		c.push(c.evil.say(c.room, c.mallory, "quite harmless").JSON())
	}
}

// settle reconnects all servers and delivers all events.
func (c *crowd) settle() {
	c.n.split()
	c.n.deliver()
	c.n.resend()
	c.n.deliver()
	for range 3 {
		for _, p := range []*peer{c.a, c.c, c.b} {
			c.tick()
			p.say(c.users[p.name][0], c.room, "here I am")
			c.n.deliver()
		}
	}
}

// before returns the ancestors of an event that a server has.
func (c *crowd) before(p *peer, eventID id.EventID) map[id.EventID]bool {
	seen := map[id.EventID]bool{}
	for todo := p.stored(c.room, eventID).PrevEvents(); len(todo) > 0; {
		next := todo[0]
		todo = todo[1:]
		if e := p.stored(c.room, next); e != nil && !seen[next] {
			seen[next] = true
			todo = append(todo, e.PrevEvents()...)
		}
	}
	return seen
}

// judge checks that everything that the honest servers have sent since the join is shown.
func (c *crowd) judge(seed int) {
	c.Helper()
	history := c.before(c.a, c.join)
	undecided := map[id.EventID]bool{} // and events that cite such an event
	var since []*Event
	for _, e := range c.a.timeline(c.room) {
		if e.Hidden() || history[e.ID()] {
			continue
		}
		since = append(since, e)
		if ident.ServerOf(e.Sender()) == "c" && !c.b.sees(c.room, e.ID()) {
			undecided[e.ID()] = true
			c.undecided++
		} else if slices.ContainsFunc(e.AuthEvents(), func(a id.EventID) bool { return undecided[a] }) {
			undecided[e.ID()] = true
			c.citing++
		}
	}
	shown := c.b.shown(c.room)
	for _, e := range since {
		if server := ident.ServerOf(e.Sender()); server != "evil" && !undecided[e.ID()] && !slices.Contains(shown, e.ID()) {
			c.Fatalf("seed %d: not shown: %s (as %+v)", seed, e.JSON(), c.b.stored(c.room, e.ID()))
		}
	}
	for _, eventID := range shown {
		if history[eventID] && slices.Contains(c.old[:max(0, len(c.old)-100)], eventID) {
			c.Fatalf("seed %d: of the history, %s is shown as new", seed, eventID)
		}
	}
	delete(c.n.blind, "b c")
	c.b.ok(c.b.svc.decideAll(c.Context()))
	c.settle()
	shown = c.b.shown(c.room)
	for _, e := range since {
		if !slices.Contains(shown, e.ID()) {
			c.Fatalf("seed %d: with all keys, not shown: %s (as %+v)", seed, e.JSON(), c.b.stored(c.room, e.ID()))
		}
	}
	c.agree(seed)
}

// agree checks that all three servers have the same state. If the server of the creator has the whole graph, the state
// must also be the one that the specification prescribes. It does not have the whole graph if it lacks a rejected event
// that no server returns.
func (c *crowd) agree(seed int) {
	c.Helper()
	want := stateIDs(c.a.house, c.room)
	g := &wholeGraph{version: c.a.house.room(c.room).version}
	if c.a.hasWholeGraph(c.room) {
		g = readGraph(c.a.house, c.room)
		g.resolver = g.byTheBook
		g.undecided = undecidedAt(c.a, c.room)
		want = g.run(c.TB.(*testing.T))
		c.compared++
	}
	for _, p := range []*peer{c.a, c.b, c.c} {
		if got := stateIDs(p.house, c.room); !maps.Equal(got, want) {
			c.Fatalf("seed %d: %s has another state:\n%s", seed, p.name, g.differences(got, want))
		}
		p.matchesDisk(c.room)
	}
	for _, refused := range g.rejected {
		if refused {
			c.rejected++
		}
	}
	for _, e := range c.evil.made {
		if s := c.b.stored(c.room, e.ID()); s != nil && s.Flags&(storage.RejectedEvent|storage.UndecidedEvent) == storage.RejectedEvent {
			c.rejected++
		}
	}
}

// hasWholeGraph reports whether all events are stored that the room's events follow or cite.
func (p *peer) hasWholeGraph(room id.RoomID) bool {
	p.Helper()
	seen := map[id.EventID]bool{}
	for todo := p.room(room).extremityIDs(); len(todo) > 0; {
		eventID := todo[0]
		todo = todo[1:]
		if seen[eventID] {
			continue
		}
		seen[eventID] = true
		e := p.stored(room, eventID)
		if e == nil || !e.InGraph() {
			return false
		}
		todo = append(append(todo, e.PrevEvents()...), e.AuthEvents()...)
	}
	return true
}

// undecidedAt returns the undecided events of a server, which the reference implementation treats as rejected.
func undecidedAt(p *peer, room id.RoomID) map[id.EventID]bool {
	p.Helper()
	events, err := p.svc.undecided(p.Context(), p.room(room))
	p.ok(err)
	out := map[id.EventID]bool{}
	for _, e := range events {
		out[e.ID()] = true
	}
	return out
}
