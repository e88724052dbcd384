package rooms

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// A hostile server builds on any events: on rejected ones, on old ones, on several at once, with auth events of its
// choice. The verdict on each event and the state of the room must be those that the specification prescribes.
func TestWildGraphIsJudgedLikeTheReference(t *testing.T) {
	seeds := 5
	if os.Getenv("EBB_TEST_LONG") != "" {
		seeds = 100
	}
	for _, version := range []id.RoomVersion{id.RoomV2, id.RoomV6, id.RoomV11, id.RoomV12} {
		t.Run("v"+string(version), func(t *testing.T) {
			events, refused := 0, 0
			for seed := range seeds {
				w := &wilderness{siege: besieged(t, version), t: t, dice: rand.New(rand.NewPCG(uint64(seed), 11))}
				w.settle()
				for range 60 {
					w.grow()
				}
				w.judge(seed)
				events, refused = events+len(w.made), refused+w.refused
			}
			t.Logf("%d events, %d refused", events, refused)
			if refused*20 < events || refused*10 > events*9 {
				t.Errorf("%d of %d events were rejected, want between a twentieth and nine tenths", refused, events)
			}
		})
	}
}

type wilderness struct {
	*siege
	t       *testing.T
	dice    *rand.Rand
	users   []id.UserID
	made    []*pdu.Event
	refused int
}

// settle gives the users of the hostile server some power.
func (w *wilderness) settle() {
	w.users = []id.UserID{w.mallory, w.evil.user("mary"), w.evil.user("max")}
	for _, u := range w.users[1:] {
		w.evil.join(w.room, u)
	}
	var levels map[string]json.RawMessage
	w.ok(json.Unmarshal([]byte(w.content(w.room, typePowerLevels, "")), &levels))
	users := map[id.UserID]int64{w.users[0]: 100, w.users[1]: 60}
	if !w.house.room(w.room).version.PrivilegedCreators {
		users[w.alice.UserID] = 100
	}
	raw, err := json.Marshal(users)
	w.ok(err)
	levels["users"] = raw
	content, err := json.Marshal(levels)
	w.ok(err)
	w.set(w.alice, w.room, typePowerLevels, "", string(content))
}

// grow sends some events, and occasionally makes a local user do something.
func (w *wilderness) grow() {
	w.now = w.now.Add(time.Second)
	if w.dice.IntN(6) == 0 {
		w.say(w.alice, w.room, "in between")
		return
	}
	var batch []*pdu.Event
	for range 1 + w.dice.IntN(3) {
		e := w.event()
		batch, w.made = append(batch, e), append(w.made, e)
	}
	w.dice.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })
	w.evil.send(w.room, batch...)
}

func (w *wilderness) event() *pdu.Event {
	sender := w.users[w.dice.IntN(3)]
	p := pdu.Proto{Sender: sender, PrevEvents: w.prev(), OriginServerTS: w.now.UnixMilli() + int64(w.dice.IntN(5000)), Depth: 1 + int64(w.dice.IntN(100))}
	key := ""
	switch w.dice.IntN(8) {
	case 0:
		p.Type, p.Content = typePowerLevels, json.RawMessage(fmt.Sprintf(`{"users":{%q:100,%q:%d}}`, w.users[0], w.users[1], 10*w.dice.IntN(11)))
	case 1:
		p.Type, p.Content = typeJoinRules, json.RawMessage(fmt.Sprintf(`{"join_rule":%q}`, []string{"public", "invite"}[w.dice.IntN(2)]))
	case 2, 3:
		key = string(w.users[w.dice.IntN(3)])
		p.Type, p.Content = typeMember, json.RawMessage(fmt.Sprintf(`{"membership":%q}`, []Membership{Join, Join, Join, Leave, Ban, Invite}[w.dice.IntN(6)]))
	case 4, 5:
		p.Type, p.Content = typeName, json.RawMessage(fmt.Sprintf(`{"name":"%d"}`, w.dice.IntN(1000)))
	default:
		p.Type, p.Content = "m.room.message", json.RawMessage(`{"body":"wild"}`)
	}
	if p.Type != "m.room.message" {
		p.StateKey = &key
	}
	if w.dice.IntN(8) > 0 {
		p.AuthEvents = w.authAt(&p)
	}
	return w.evil.make(w.room, p)
}

// prev returns the prev_events of a new event: usually recent events, occasionally arbitrary ones.
func (w *wilderness) prev() (prev []id.EventID) {
	prev = w.ends()
	switch {
	case len(w.made) == 0 || w.dice.IntN(3) == 0:
		return prev[:min(len(prev), pdu.MaxPrevEvents)]
	case w.dice.IntN(2) == 0:
		prev = prev[:0:0]
	}
	recent := w.made[max(0, len(w.made)-12):]
	for range 1 + w.dice.IntN(2) {
		prev = append(prev, recent[w.dice.IntN(len(recent))].ID())
	}
	slices.Sort(prev)
	prev = slices.Compact(prev)
	return prev[:min(len(prev), pdu.MaxPrevEvents)]
}

// authAt returns the auth events of p in the state after its first prev_event, if that event is stored.
func (w *wilderness) authAt(p *pdu.Proto) (auth []id.EventID) {
	e := w.stored(w.room, p.PrevEvents[0])
	if e == nil {
		return nil
	}
	r := w.house.room(w.room)
	w.ok(w.db.Read(w.Context(), func(tx *storage.Tx) error {
		for _, k := range eventauth.AuthKeysFor(r.version, p.Type, p.StateKey, p.Sender, p.Content) {
			pos, err := tx.StateKeyOf(e.Snapshot, k.Type, k.Key)
			if err != nil {
				return err
			}
			if key, isState := e.StateKey(); isState && e.Type() == k.Type && key == k.Key {
				pos = e.Pos
			}
			events, err := r.EventsAt(tx, []storage.Pos{pos})
			if err != nil {
				return err
			}
			if found := events[pos]; found != nil {
				auth = append(auth, found.ID())
			}
		}
		return nil
	}))
	return auth
}

func (w *wilderness) judge(seed int) {
	w.t.Helper()
	var also []id.EventID
	for _, e := range w.made {
		if s := w.stored(w.room, e.ID()); s != nil {
			also = append(also, e.ID())
		} else {
			w.t.Fatalf("seed %d: not stored: %s", seed, e.JSON())
		}
	}
	g := readGraph(w.house, w.room, also...)
	g.resolver = g.byTheBook
	want := g.run(w.t)
	if got := stateIDs(w.house, w.room); !maps.Equal(got, want) {
		w.t.Fatalf("seed %d: the state is not what the specification says:\n%s", seed, g.differences(got, want))
	}
	w.refused += len(g.rejected)
	w.matchesDisk(w.room)
	w.say(w.alice, w.room, strings.Repeat("still here ", 2))
}

// An event follows both an old branch and a long branch that is known. The old branch must be fetched to its end, and
// neither server may spend its effort on the branch that both have.
func TestOldBranchIsFetchedBesideAKnownLongOne(t *testing.T) {
	n := newNetwork(t)
	a, b, c := n.add("a"), n.add("b"), n.add("c")
	alice, bob, carol := a.user("alice"), b.user("bob"), c.user("carol")
	room := a.create(alice, CreateRoom{Preset: "public_chat"})
	b.joinVia(bob, room, "a")
	c.joinVia(carol, room, "a")
	n.deliver()
	n.split([]string{"a", "c"}, []string{"b"})
	for i := range 150 {
		a.say(alice, room, fmt.Sprint("long ", i))
	}
	n.deliver()
	n.split([]string{"a", "b"}, []string{"c"})
	c.say(carol, room, "on top of the long one") // now the end of the long branch is no forward extremity there
	old := b.say(bob, room, "beside the long one")
	n.deliver()
	merged := a.say(alice, room, "after both")
	n.split([]string{"a", "c"}, []string{"b"})
	n.deliver()
	for _, eventID := range []id.EventID{old, merged} {
		if c.stored(room, eventID) == nil {
			t.Errorf("%s was not fetched", eventID)
		}
	}
}
