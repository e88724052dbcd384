package server_test

import (
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"testing"
	"time"

	"ebb/config"
	"ebb/ident"
	"ebb/internal/testserver"
	"ebb/storage"
)

// forkedWorld is a room of two servers whose graph forks again and again, and in which messages expire.
type forkedWorld struct {
	*testing.T
	net        *testserver.Network
	alice, bob *testserver.Client
	room       string
	base       string
	n          int
}

func newForkedWorld(t *testing.T, postgres bool) *forkedWorld {
	w := &forkedWorld{T: t}
	w.net = testserver.Federation(t, 2, func(_ int, c *config.Config) {
		if postgres {
			testserver.OnPostgres(t, c)
		}
	})
	w.alice, w.bob = w.net.Servers[0].Register("alice"), w.net.Servers[1].Register("bob")
	w.room = w.alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat", "initial_state": []obj{{"type": "m.room.retention", "state_key": "", "content": obj{"max_lifetime": 600_000}}},
		"power_level_content_override": obj{"state_default": 0, "events": obj{"m.room.topic": 0}}})["room_id"].(string)
	w.base = "/v3/rooms/" + url.PathEscape(w.room)
	w.bob.Do("POST", "/v3/join/"+url.PathEscape(w.room)+"?server_name=hs1.test", obj{})
	return w
}

// set changes the state of the room, and sends messages after that.
func (w *forkedWorld) set(c *testserver.Client) {
	w.Helper()
	for range 3 {
		w.n++
		c.Do("PUT", fmt.Sprintf("%s/state/m.room.topic/", w.base), obj{"topic": fmt.Sprint("topic ", w.n)})
		c.Do("PUT", fmt.Sprintf("%s/state/org.example.note/%d", w.base, w.n%4), obj{"n": w.n})
		c.Do("PUT", fmt.Sprintf("%s/send/m.room.message/%d", w.base, w.n), obj{"msgtype": "m.text", "body": "x"})
	}
}

// fork lets both servers change the state while they cannot reach each other, and waits until they agree again.
func (w *forkedWorld) fork() {
	w.Helper()
	w.net.Cut("hs1.test", "hs2.test")
	w.set(w.alice)
	w.set(w.bob)
	w.net.Heal()
	for i, s := range w.net.Servers {
		s.Heard(w.net.Name(1 - i))
	}
	for _, c := range []*testserver.Client{w.alice, w.bob} {
		w.n++
		c.Do("PUT", fmt.Sprintf("%s/send/m.room.message/%d", w.base, w.n), obj{"msgtype": "m.text", "body": "x"})
	}
	eventually(w.T, 60*time.Second, "both servers have the same state", func() bool {
		return maps.Equal(w.current(0), w.current(1))
	})
}

func (w *forkedWorld) read(i int, f func(tx *storage.Tx, row storage.RoomRow) error) {
	w.Helper()
	err := w.net.Servers[i].DB().Read(w.Context(), func(tx *storage.Tx) error {
		row, found, err := tx.RoomByID(w.room)
		if err != nil || !found {
			return fmt.Errorf("the room is stored: %v, %w", found, err)
		}
		return f(tx, row)
	})
	if err != nil {
		w.Fatal(err)
	}
}

// current returns the IDs of the current state events of a server.
func (w *forkedWorld) current(i int) (ids map[string]bool) {
	w.Helper()
	w.read(i, func(tx *storage.Tx, row storage.RoomRow) error {
		state, err := tx.StateOf(row.Snapshot)
		ids = map[string]bool{}
		for _, e := range state {
			if err == nil {
				var stored storage.EventRow
				stored, _, err = tx.EventAt(e.Position)
				ids[stored.EventID] = true
			}
		}
		return err
	})
	return ids
}

// storedStates is what a server has stored of the states of the room.
type storedStates struct {
	all    []int64
	unused []int64                              // to which nothing refers
	before map[storage.Pos][]storage.StateEntry // by event
	events map[storage.Pos]int64                // the number of its state
}

func (w *forkedWorld) states(i int) (s storedStates) {
	w.Helper()
	w.read(i, func(tx *storage.Tx, row storage.RoomRow) error {
		s = storedStates{before: map[storage.Pos][]storage.StateEntry{}, events: map[storage.Pos]int64{}}
		states, err := tx.RoomStates(row.NID, 0, math.MaxInt32)
		if err != nil {
			return err
		}
		refs, _, err := tx.StatesReferredTo(row.NID, storage.FirstStateRefs, math.MaxInt32)
		if err != nil {
			return err
		}
		prev := map[int64]int64{}
		for _, at := range states {
			prev[at.NID] = at.Prev
			s.all = append(s.all, at.NID)
		}
		used := map[int64]bool{}
		for _, nid := range append(refs, row.Snapshot) {
			for ; nid != 0; nid = prev[nid] {
				if _, stored := prev[nid]; !stored {
					w.Errorf("server %d: the state %d is referred to, but not stored", i+1, nid)
				}
				used[nid] = true
			}
		}
		for _, nid := range s.all {
			if !used[nid] {
				s.unused = append(s.unused, nid)
			}
		}
		rows, err := tx.Timeline(row.NID, 0, ident.Order(math.MaxInt64), false, math.MaxInt32)
		for _, e := range rows {
			if err == nil {
				s.before[e.Position], err = tx.StateOf(e.Snapshot)
				slices.SortFunc(s.before[e.Position], func(a, b storage.StateEntry) int { return int(a.Position - b.Position) })
			}
		}
		return err
	})
	return s
}

// unchanged fails the test if the state before an event that is still stored is not the same as before.
func (w *forkedWorld) unchanged(was, is storedStates) {
	w.Helper()
	for p, state := range is.before {
		if old, known := was.before[p]; known && !slices.Equal(old, state) {
			w.Errorf("the state before the event at %d is %v, was %v", p, state, old)
		}
	}
}

func (w *forkedWorld) purge() {
	w.Helper()
	for _, s := range w.net.Servers {
		if _, err := s.Control(w.Context(), "purge now", []byte(`{"all":true}`)); err != nil {
			w.Fatal(err)
		}
	}
}

// States that only purged messages, former heads of a forked graph or a partial state needed are deleted, and no other,
// across restarts and while the graph goes on forking.
func TestStatesThatNothingNeedsAreDeleted(t *testing.T) { deleteStates(t, false) }

func TestStatesThatNothingNeedsAreDeletedOnPostgreSQL(t *testing.T) { deleteStates(t, true) }

func deleteStates(t *testing.T, postgres bool) {
	t.Helper()
	w := newForkedWorld(t, postgres)
	unused := 0
	for round := range 3 {
		for range 3 {
			w.fork()
		}
		before := []storedStates{w.states(0), w.states(1)}
		for _, s := range w.net.Servers {
			s.Advance(time.Hour)
		}
		w.purge()
		for i := range before {
			after := w.states(i)
			w.unchanged(before[i], after)
			if len(after.unused) > 0 {
				t.Errorf("round %d: server %d has %d states, and nothing refers to %v", round, i+1, len(after.all), after.unused)
			}
			t.Logf("round %d: server %d had %d states, of which nothing referred to %d, and now has %d", round, i+1, len(before[i].all), len(before[i].unused), len(after.all))
			unused += len(before[i].all) - len(after.all)
		}
		w.net.Stop(round % 2)
		w.net.Start(round % 2)
	}
	if unused == 0 {
		t.Error("no state was unneeded: the test proves nothing")
	}
	w.fork()
}
