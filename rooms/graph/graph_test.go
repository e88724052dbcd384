package graph_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/storage"
	"ebb/storage/storagetest"
)

const room ident.RoomNID = 1

var version = func() *pdu.Version {
	v, _ := pdu.VersionOf("10")
	return v
}()

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write runs f in a write with a reader that has read nothing.
func write(t *testing.T, db *storage.DB, f func(tx *storage.Tx, p *graph.Reader)) {
	t.Helper()
	ok(t, db.Write(context.Background(), func(tx *storage.Tx) error {
		f(tx, graph.NewReader(graph.Room{NID: room, ID: "!room:domain", Version: version}, tx, nil))
		return nil
	}))
}

// model is a room state as a plain map from state keys to positions.
type model map[pdu.StateKey]storage.Pos

// change changes a few random entries and returns them.
func (m model) change(r *rand.Rand) (own []graph.Entry) {
	for range r.IntN(4) {
		key := pdu.StateKey{Type: fmt.Sprintf("t%d", r.IntN(3)), Key: fmt.Sprintf("k%d", r.IntN(3))}
		if slices.ContainsFunc(own, func(e graph.Entry) bool { return e.Key == key }) {
			continue
		}
		pos := storage.Pos(r.IntN(4)) // 0: the key is removed
		own = append(own, graph.Entry{Key: key, Pos: pos})
		if m[key] = pos; pos == 0 {
			delete(m, key)
		}
	}
	return own
}

func (m model) state() graph.State {
	s := graph.State{}
	for key, pos := range m {
		s[key] = graph.Entry{Key: key, Pos: pos}
	}
	return s
}

// check compares a snapshot with the state that it must have, read as a whole and entry by entry.
func (m model) check(t *testing.T, p *graph.Reader, s *graph.Snapshot) {
	t.Helper()
	all, err := p.All(s)
	ok(t, err)
	if !maps.Equal(all, m.state()) {
		t.Fatalf("All: %v, want %v", all, m)
	}
	for typ := range 3 {
		for k := range 3 {
			key := pdu.StateKey{Type: fmt.Sprintf("t%d", typ), Key: fmt.Sprintf("k%d", k)}
			ref, found, err := p.Find(s, key)
			ok(t, err)
			if want := m[key]; found != (want != 0) || ref.Pos != want {
				t.Fatalf("Find %v: %v, %t; want position %d", key, ref, found, want)
			}
		}
	}
}

// Snapshots that build on one another, fork, and are written at random moments have the states of plain maps.
func TestSnapshotsHaveTheStatesThatTheyWereMadeWith(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		r := rand.New(rand.NewPCG(1, 2))
		type made struct {
			snapshot *graph.Snapshot
			model    model
		}
		all := []made{{&graph.Snapshot{}, model{}}}
		for range 300 {
			write(t, db, func(tx *storage.Tx, p *graph.Reader) {
				from := all[max(0, len(all)-1-r.IntN(5))] // near the end, so that chains become long
				m := maps.Clone(from.model)
				own := m.change(r)
				s := from.snapshot.Over(own...)
				if r.IntN(3) == 0 {
					var err error
					s, err = p.SnapshotOf(all[r.IntN(len(all))].snapshot, m.state()) // from an unrelated one
					ok(t, err)
				}
				m.check(t, p, s)
				if r.IntN(2) == 0 {
					ok(t, s.Write(tx, room))
				}
				all = append(all, made{s, m})
			})
		}
		write(t, db, func(tx *storage.Tx, p *graph.Reader) {
			for _, one := range all {
				one.model.check(t, p, one.snapshot)
				ok(t, one.snapshot.Write(tx, room))
				again, err := p.Snapshot(one.snapshot.NID)
				ok(t, err)
				one.model.check(t, p, again)
				if again.Chain() != one.snapshot.Chain() {
					t.Errorf("the chain of a stored snapshot is %d long, was %d", again.Chain(), one.snapshot.Chain())
				}
			}
		})
	})
}

func TestChainsOfSnapshotsAreBounded(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		write(t, db, func(_ *storage.Tx, p *graph.Reader) {
			s, m := &graph.Snapshot{}, model{}
			for i := range 1000 {
				key := pdu.StateKey{Type: "t0", Key: fmt.Sprintf("k%d", i%3)}
				m[key] = storage.Pos(i + 1)
				s = s.Over(graph.Entry{Key: key, Pos: m[key]})
				var err error
				s, err = p.Shortened(s)
				ok(t, err)
				if s.Chain() > 256 {
					t.Fatalf("after %d changes the chain is %d long", i+1, s.Chain())
				}
			}
			m.check(t, p, s)
		})
	})
}

// stored adds an event with the given prev_events to the room, and returns its position.
func stored(t *testing.T, tx *storage.Tx, name id.EventID, flags storage.EventFlags, prev ...id.EventID) storage.Pos {
	t.Helper()
	raw, err := json.Marshal(map[string]any{
		"type": "m.room.message", "sender": "@a:domain", "room_id": "!room:domain", "content": map[string]any{}, "depth": 1, "origin_server_ts": 1,
		"prev_events": append([]id.EventID{}, prev...), "auth_events": []id.EventID{}, "hashes": map[string]any{}, "signatures": map[string]any{},
	})
	ok(t, err)
	pos := tx.NextPos()
	ok(t, tx.InsertEvent(&storage.EventRow{
		Position: pos, Room: room, Order: ident.Order(pos) * graph.OrderStep, EventID: string(name), Type: "m.room.message", Flags: flags, JSON: raw,
	}))
	return pos
}

// An event may be stored as an outlier and, later, as part of the graph. Event returns the latter; where the event is
// cited as an auth event, the outlier counts unless it was rejected itself.
func TestOutlierThatWasAcceptedAuthorisesAfterTheEventIsRejected(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		write(t, db, func(tx *storage.Tx, p *graph.Reader) {
			outlier := stored(t, tx, "$both", storage.OutlierEvent)
			inGraph := stored(t, tx, "$both", storage.RejectedEvent)
			stored(t, tx, "$bad", storage.OutlierEvent|storage.RejectedEvent)
			bad := stored(t, tx, "$bad", storage.RejectedEvent)
			ok(t, p.Load([]id.EventID{"$both", "$bad", "$none"}))
			for name, want := range map[id.EventID]struct{ pos, auth storage.Pos }{"$both": {inGraph, outlier}, "$bad": {bad, bad}} {
				e, err := p.Event(name)
				ok(t, err)
				if e.Pos != want.pos || e.AsAuth().Pos != want.auth || !e.InGraph() {
					t.Errorf("%s is at %d and authorises from %d, want %d and %d", name, e.Pos, e.AsAuth().Pos, want.pos, want.auth)
				}
			}
			if e, err := p.Event("$none"); e != nil || err != nil {
				t.Errorf("an event that is not stored: %v, %v", e, err)
			}
		})
	})
}

func TestWalksBackGoThroughRejectedEvents(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		write(t, db, func(tx *storage.Tx, p *graph.Reader) {
			stored(t, tx, "$good", 0, "$unseen")
			stored(t, tx, "$soft", storage.SoftFailedEvent, "$good", "$missing1")
			stored(t, tx, "$rejected", storage.RejectedEvent, "$soft", "$missing2", "$outlier")
			stored(t, tx, "$outlier", storage.OutlierEvent, "$missing3")
			stored(t, tx, "$loop", storage.RejectedEvent, "$loop", "$rejected")
			for _, c := range []struct {
				from   []id.EventID
				direct bool
				gaps   []id.EventID
			}{
				{[]id.EventID{"$good"}, true, nil},                                             // accepted, so what precedes it does not matter
				{[]id.EventID{"$soft"}, true, nil},                                             // its state is known
				{[]id.EventID{"$rejected"}, false, []id.EventID{"$missing2", "$outlier"}},      // an outlier has no place in the graph
				{[]id.EventID{"$loop", "$loop"}, false, []id.EventID{"$missing2", "$outlier"}}, // each event once
				{[]id.EventID{"$missing0", "$rejected"}, false, []id.EventID{"$missing2", "$outlier"}},
				{[]id.EventID{"$missing0", "$good"}, true, []id.EventID{"$missing0"}},
			} {
				got, err := p.Gaps(c.from, c.direct)
				ok(t, err)
				if !slices.Equal(got, c.gaps) {
					t.Errorf("Gaps(%v, %t): %v, want %v", c.from, c.direct, got, c.gaps)
				}
			}
			for from, want := range map[id.EventID][]id.EventID{
				"$good":     {"$good"},
				"$soft":     {"$good", "$missing1", "$soft"},
				"$rejected": {"$good", "$missing1", "$missing2", "$outlier", "$rejected", "$soft"},
				"$nowhere":  {"$nowhere"},
			} {
				got, err := p.Superseded([]id.EventID{from})
				ok(t, err)
				if ids := slices.Sorted(maps.Keys(got)); !slices.Equal(ids, want) {
					t.Errorf("Superseded(%s): %v, want %v", from, ids, want)
				}
			}
		})
	})
}

// Another server can send any number of rejected events that follow one another.
func TestWalksThroughRejectedEventsAreBounded(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		write(t, db, func(tx *storage.Tx, p *graph.Reader) {
			for i := range 300 {
				stored(t, tx, id.EventID(fmt.Sprintf("$r%d", i)), storage.RejectedEvent, id.EventID(fmt.Sprintf("$r%d", i+1)))
			}
			if got, err := p.Gaps([]id.EventID{"$r0"}, true); len(got) != 0 || err != nil {
				t.Errorf("Gaps found %v behind 300 rejected events (%v)", got, err)
			}
			if got, err := p.Superseded([]id.EventID{"$r0"}); len(got) != 200 || err != nil {
				t.Errorf("Superseded has %d events, want 200 (%v)", len(got), err)
			}
			if got, err := p.Gaps([]id.EventID{"$r150"}, true); !slices.Equal(got, []id.EventID{"$r300"}) || err != nil {
				t.Errorf("Gaps found %v behind 150 rejected events (%v)", got, err)
			}
		})
	})
}

func TestStateAfterAnEventIncludesIt(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		write(t, db, func(tx *storage.Tx, p *graph.Reader) {
			stored(t, tx, "$outlier", storage.OutlierEvent)
			message := stored(t, tx, "$message", 0)
			if s, err := p.After("$outlier"); s != nil || err != nil {
				t.Errorf("the state after an outlier: %v (%v)", s, err)
			}
			if s, err := p.After("$none"); s != nil || err != nil {
				t.Errorf("the state after an event that is not stored: %v (%v)", s, err)
			}
			s, err := p.After("$message")
			ok(t, err)
			model{}.check(t, p, s)
			key := pdu.StateKey{Type: "t0", Key: "k0"}
			head := (&graph.Snapshot{}).Over(graph.Entry{Key: key, Pos: message})
			p.Forget()
			p.SetAfter("$message", head)
			if s, err = p.After("$message"); !s.Same(head) || err != nil {
				t.Errorf("the state after an event is not the one that was set (%v)", err)
			}
			model{key: message}.check(t, p, s)
		})
	})
}
