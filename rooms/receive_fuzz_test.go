package rooms

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/pdu"
)

// script is a source of random numbers that come from the fuzzer's input.
type script struct {
	data   []byte
	throws uint64
}

// Uint64 consumes two bytes. They become the upper bits, which determine the throw; dice throw again if all bits are
// the same.
func (s *script) Uint64() uint64 {
	var b [8]byte
	s.data = s.data[copy(b[:], s.data[:min(len(s.data), 2)]):]
	s.throws++
	return (binary.LittleEndian.Uint64(b[:]) + s.throws<<16) * 0x9e3779b97f4a7c15
}

// maxFuzzSteps bounds the number of events in one graph.
const maxFuzzSteps = 60

// FuzzReceive lets servers build a graph that the fuzzer's input determines. Events follow old, rejected and
// unverifiable events and have auth events of any kind, and the room's first events are sent again. The verdict on each
// event and the state of the room must be those of the simple reference implementation, both before and after the
// missing key is available.
func FuzzReceive(f *testing.F) {
	for seed := range uint64(6) {
		dice := rand.New(rand.NewPCG(seed, 17))
		data := make([]byte, 400)
		for i := range data {
			data[i] = byte(dice.Uint32())
		}
		f.Add(byte(seed*2), data)
	}
	versions := pdu.Versions()
	var a arena
	f.Cleanup(a.close)
	f.Fuzz(func(t *testing.T, version byte, data []byte) {
		w := a.fuzzedRoom(t, versions[int(version)%len(versions)], data)
		for steps := 0; steps < maxFuzzSteps && len(w.script.data) > 0; steps++ {
			w.step()
		}
		w.compare("without the key")
		clear(w.n.blind)
		w.ok(w.svc.decideIn(t.Context(), w.house.room(w.room).nid, true))
		w.compare("with the key")
		w.whole()
	})
}

// arena is a server that one process uses for many graphs, each in a room of its own: opening a database takes longer
// than judging a graph.
type arena struct {
	tb   arenaTB
	n    *network
	here *peer
	uses int
}

// maxArenaUses bounds the rooms in one database, which would otherwise grow for as long as the fuzzing takes.
const maxArenaUses = 500

// enter prepares the server for another graph.
func (a *arena) enter(t *testing.T) {
	a.tb.TB = t
	if a.uses%maxArenaUses == 0 {
		a.close()
		a.n = newNetwork(&a.tb)
		a.here = a.n.add("here")
	}
	a.uses++
	clear(a.n.strangers)
	clear(a.n.blind)
	a.n.sent = nil
}

func (a *arena) close() {
	for _, f := range slices.Backward(a.tb.cleanups) {
		f()
	}
	a.tb.cleanups = nil
}

// arenaTB is the testing.TB of the test that runs now, except that its folders and cleanups outlive the test.
type arenaTB struct {
	testing.TB
	cleanups []func()
}

func (tb *arenaTB) Cleanup(f func()) { tb.cleanups = append(tb.cleanups, f) }

// TempDir returns a folder in memory if possible, because the committer waits for the disk after each event.
func (tb *arenaTB) TempDir() string {
	parent := "/dev/shm"
	if _, err := os.Stat(parent); err != nil {
		parent = ""
	}
	dir, err := os.MkdirTemp(parent, "ebb-fuzz-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// fuzzed is a wilderness with a second hostile server, whose key cannot be fetched.
type fuzzed struct {
	*wilderness
	script *script
	dead   *stranger
	dora   id.UserID
	before []json.RawMessage // the first events of the room
}

func (a *arena) fuzzedRoom(t *testing.T, version id.RoomVersion, data []byte) *fuzzed {
	a.enter(t)
	s := &script{data: data}
	w := &fuzzed{wilderness: &wilderness{siege: besiegedOn(a.n, a.here, version, fmt.Sprint("alice", a.uses)), t: t, dice: rand.New(s)}, script: s}
	w.dead = w.n.stranger("dead", w.peer)
	w.dora = w.dead.user("dora")
	w.dead.join(w.room, w.dora)
	w.settle()
	for _, e := range w.timeline(w.room) {
		w.before = append(w.before, e.JSON())
	}
	w.n.blind["here dead"] = true
	w.evil.remembers()
	return w
}

func (w *fuzzed) step() {
	switch w.dice.IntN(6) {
	case 0:
		e := w.unverifiable()
		w.made = append(w.made, e)
	case 1:
		if _, err := w.svc.Receive(w.Context(), "evil", w.room, []json.RawMessage{w.before[w.dice.IntN(len(w.before))]}); err != nil && !errors.Is(err, ErrLater) {
			w.t.Fatal(err)
		}
	default:
		w.grow()
	}
}

// unverifiable creates an event of the server whose key cannot be fetched. The other hostile server returns the event
// on request.
func (w *fuzzed) unverifiable() *pdu.Event {
	key := ""
	p := pdu.Proto{Sender: w.dora, PrevEvents: w.prev(), OriginServerTS: w.now.UnixMilli(), Depth: 1 + int64(w.dice.IntN(100)), StateKey: &key}
	switch w.dice.IntN(4) {
	case 0:
		p.Type, p.Content = typeName, json.RawMessage(fmt.Sprintf(`{"name":"%d"}`, w.dice.IntN(1000)))
	case 1:
		p.Type, p.Content = typeJoinRules, json.RawMessage(`{"join_rule":"invite"}`)
	case 2:
		key = string(w.dora)
		p.Type, p.Content = typeMember, json.RawMessage(`{"membership":"leave"}`)
	default:
		p.Type, p.Content, p.StateKey = "m.room.message", json.RawMessage(`{"body":"wild"}`), nil
	}
	e := w.dead.make(w.room, p)
	w.evil.made[e.ID()] = e
	return e
}

// compare checks that verdicts and state equal those of the reference implementation. Undecided events have no effect
// there either.
func (w *fuzzed) compare(when string) {
	w.t.Helper()
	var made, also []id.EventID
	for _, e := range w.made {
		made = append(made, e.ID())
	}
	stored, err := w.svc.stored(w.Context(), w.house.room(w.room), made)
	w.ok(err)
	for eventID, e := range stored {
		if e.InGraph() {
			also = append(also, eventID)
		}
	}
	g := readGraph(w.house, w.room, also...)
	g.resolver, g.undecided = g.byTheBook, undecidedAt(w.peer, w.room)
	want := g.run(w.t)
	if got := stateIDs(w.house, w.room); !maps.Equal(got, want) {
		w.t.Fatalf("%s, the state is not what the specification says:\n%s", when, g.differences(got, want))
	}
	w.matchesDisk(w.room)
}
