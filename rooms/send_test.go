package rooms

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/pdu"
	"ebb/rooms/txns"
	"ebb/storage"
)

func TestConcurrentSendersProduceOneChain(t *testing.T) {
	eachHouse(t, func(h *house) {
		alice, bob := h.user("alice"), h.user("bob")
		room := h.public(alice, bob)
		sent := make([][]id.EventID, 16)
		var wg sync.WaitGroup
		for i := range sent {
			wg.Go(func() {
				who := alice
				if i%2 == 1 {
					who = bob
				}
				for n := range 20 {
					e, err := h.trySend(who, room, "m.room.message", fmt.Sprintf(`{"body":"%d of %d"}`, n, i))
					if err != nil {
						h.Error(err)
						return
					}
					sent[i] = append(sent[i], e)
				}
			})
		}
		wg.Wait()
		stored := map[id.EventID]int{}
		for _, e := range h.chained(room) {
			stored[e.ID()]++
		}
		for _, mine := range sent {
			for _, e := range mine {
				if stored[e] != 1 {
					h.Fatalf("%s is stored %d times", e, stored[e])
				}
			}
		}
		h.matchesDisk(room)
	})
}

func TestLockIsNotHeldOverCommit(t *testing.T) {
	h := oneHouse(t)
	alice := h.user("alice")
	room := h.public(alice)
	r := h.room(room)
	depth := r.queuedDepth()
	release := h.hold()
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if _, err := h.trySend(alice, room, "m.room.message", `{"body":"hi"}`); err != nil {
				h.Error(err)
			}
		})
	}
	h.until("queueing five messages behind one commit", func() bool { return r.queuedDepth() == depth+5 })
	if r.LastOrder() != h.timeline(room)[len(h.timeline(room))-1].Order {
		t.Error("readers see an event that is not committed")
	}
	release()
	wg.Wait()
	h.chained(room)
}

func TestWritesAfterAFailedOneAreBuiltAgain(t *testing.T) {
	eachHouse(t, func(h *house) {
		alice, bob := h.user("alice"), h.user("bob")
		room := h.public(alice)
		r := h.room(room)
		depth := r.queuedDepth()
		release := h.hold()
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := h.sendFailing(h.Context(), alice, room); !errors.Is(err, errInjected) {
				h.Errorf("the failing write got %v", err)
			}
		})
		h.until("queueing the failing write", func() bool { return r.queuedDepth() == depth+1 })
		var mu sync.Mutex
		sent := map[id.EventID]bool{}
		for i := range 8 {
			wg.Go(func() {
				e, err := h.trySend(alice, room, "m.room.message", fmt.Sprintf(`{"body":"%d"}`, i))
				if err != nil {
					h.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				sent[e] = true
			})
		}
		wg.Go(func() {
			if err := h.svc.Join(h.Context(), bob, room, ""); err != nil {
				h.Error(err)
			}
		})
		h.until("queueing behind it", func() bool { return r.queuedDepth() == depth+10 })
		release()
		wg.Wait()
		stored := 0
		for _, e := range h.chained(room) {
			if sent[e.ID()] {
				stored++
			}
			if strings.Contains(string(e.Content()), "lost") {
				h.Error("the failed event is stored")
			}
		}
		if len(sent) != 8 || stored != 8 {
			h.Errorf("%d events answered, %d of them stored; want 8", len(sent), stored)
		}
		h.membership(room, bob, Join)
		h.matchesDisk(room)
		h.say(bob, room, "still here")
	})
}

func TestRepeatedTransactionIsOneEvent(t *testing.T) {
	eachHouse(t, func(h *house) {
		alice, bob := h.user("alice"), h.user("bob")
		room := h.public(alice, bob)
		send := func(svc *Service, s ident.Requester, path, txn string) id.EventID {
			e, err := svc.Send(h.Context(), NewEvent{
				Room: room, Sender: s, Type: "m.room.message", Content: json.RawMessage(`{"body":"once"}`), Txn: &txns.Txn{Path: path, ID: txn},
			})
			if err != nil {
				h.Error(err)
			}
			return e
		}
		answers := make([]id.EventID, 10)
		var wg sync.WaitGroup
		for i := range answers {
			wg.Go(func() { answers[i] = send(h.svc, alice, "/send", "1") })
		}
		wg.Wait()
		for _, a := range answers {
			if a != answers[0] || a == "" {
				h.Fatalf("answers differ: %v", answers)
			}
		}
		if again := send(h.open(), alice, "/send", "1"); again != answers[0] {
			h.Error("another answer after a restart")
		}
		// Memory may have forgotten it, but the database has not.
		h.svc.txns = txns.New(h.db, func() time.Time { return h.now })
		after := send(h.svc, alice, "/send", "2")
		if again := send(h.svc, alice, "/send", "1"); again != answers[0] {
			h.Error("another answer once memory has forgotten")
		}
		others := map[id.EventID]bool{answers[0]: true, after: true, send(h.svc, alice, "/other", "1"): true, send(h.svc, bob, "/send", "1"): true}
		if len(others) != 4 {
			h.Error("another id, path or device is another transaction")
		}
		h.chained(room)
		h.matchesDisk(room)
		for _, e := range h.timeline(room) {
			if e.ID() == answers[0] && (e.TxnID != "1" || e.DeviceNID != alice.DeviceNID) {
				h.Errorf("stored with transaction %q of device %d", e.TxnID, e.DeviceNID)
			}
		}
	})
}

func TestFailedTransactionMayBeRepeated(t *testing.T) {
	h := oneHouse(t)
	alice, bob := h.user("alice"), h.user("bob")
	room := h.public(alice)
	n := NewEvent{Room: room, Sender: bob, Type: "m.room.message", Content: json.RawMessage(`{}`), Txn: &txns.Txn{Path: "/", ID: "1"}}
	_, err := h.svc.Send(h.Context(), n)
	h.refused(err, "M_FORBIDDEN")
	h.ok(h.svc.Join(h.Context(), bob, room, ""))
	_, err = h.svc.Send(h.Context(), n)
	h.ok(err)
}

func TestTransactionsAreForgottenAfterTwoDays(t *testing.T) {
	h := oneHouse(t)
	alice := h.user("alice")
	room := h.public(alice)
	n := NewEvent{Room: room, Sender: alice, Type: "m.room.message", Content: json.RawMessage(`{}`), Txn: &txns.Txn{Path: "/", ID: "1"}}
	first, err := h.svc.Send(h.Context(), n)
	h.ok(err)
	h.ok(h.svc.PruneTxns(h.Context()))
	h.svc = h.open()
	if again, err := h.svc.Send(h.Context(), n); err != nil || again != first {
		t.Fatalf("repeated too early to be forgotten, the request has a new answer: %v", err)
	}
	h.now = h.now.Add(1000 * 1000 * 3600 * 1e9) // the timestamps of rows come from the clock of the database
	h.ok(h.svc.PruneTxns(h.Context()))
	h.svc = h.open()
	if again, err := h.svc.Send(h.Context(), n); err != nil || again == first {
		t.Fatalf("repeated after the lifetime of its transaction ID, the request has the old answer: %v", err)
	}
}

func TestEventLimits(t *testing.T) {
	h := oneHouse(t)
	alice := h.user("alice")
	room := h.public(alice)
	_, err := h.trySend(alice, room, "m.room.message", `{"body":"`+strings.Repeat("x", 66_000)+`"}`)
	h.refused(err, "M_TOO_LARGE")
	for content, code := range map[string]string{
		`{"a":1.5}`: "M_BAD_JSON", `[]`: "M_BAD_JSON", `"x"`: "M_BAD_JSON", `{"a":1,"a":2}`: "M_BAD_JSON", `{"a":9007199254740993}`: "M_BAD_JSON", ``: "M_BAD_JSON", `{`: "M_BAD_JSON",
	} {
		_, err := h.trySend(alice, room, "m.room.message", content)
		h.refused(err, code)
	}
	_, err = h.trySend(alice, room, strings.Repeat("t", 256), `{}`)
	h.refused(err, "M_TOO_LARGE")
	_, err = h.trySet(alice, room, "t", strings.Repeat("k", 256), `{}`)
	h.refused(err, "M_TOO_LARGE")
	_, err = h.trySend(alice, "!nowhere:here", "m.room.message", `{}`)
	h.refused(err, "M_FORBIDDEN")
	h.say(alice, room, "after all that")
	h.chained(room)
}

// TestStateBeforeEveryEvent compares the stored state before each event with a model.
func TestStateBeforeEveryEvent(t *testing.T) {
	eachHouse(t, func(h *house) {
		alice := h.user("alice")
		room := h.public(alice)
		r := rand.New(rand.NewPCG(1, 2))
		for i := range 250 {
			if r.IntN(4) == 0 {
				h.say(alice, room, "between")
			}
			h.set(alice, room, "x.state", fmt.Sprint(r.IntN(40)), fmt.Sprintf(`{"n":%d}`, i))
		}
		type key = pdu.StateKey
		state := map[key]storage.Pos{}
		snapshots := map[int64]bool{}
		for i, e := range h.timeline(room) {
			snapshots[e.Snapshot] = true
			if i%7 == 0 {
				h.ok(h.db.Read(h.Context(), func(tx *storage.Tx) error {
					got, err := tx.StateOf(e.Snapshot)
					if len(got) != len(state) {
						h.Fatalf("state before event %d has %d entries, want %d", i, len(got), len(state))
					}
					for _, s := range got {
						if state[key{Type: s.Type, Key: s.Key}] != s.Position {
							h.Fatalf("state before event %d: %+v", i, s)
						}
					}
					p, err2 := tx.StateKeyOf(e.Snapshot, "x.state", "3")
					if p != state[key{Type: "x.state", Key: "3"}] {
						h.Fatalf("x.state 3 before event %d is at %d", i, p)
					}
					n, err3 := tx.SnapshotLength(e.Snapshot)
					if n > 64 {
						h.Fatalf("a chain of %d snapshots", n)
					}
					return errors.Join(err, err2, err3)
				}))
			}
			if k, ok := e.StateKey(); ok {
				state[key{Type: e.Type(), Key: k}] = e.Pos
			}
		}
		if len(snapshots) > 260 {
			h.Errorf("%d snapshots: messages make some too", len(snapshots))
		}
		h.matchesDisk(room)
	})
}

func TestRoomsNotInUseLeaveMemory(t *testing.T) {
	h := oneHouse(t, func(o *Options) { o.CacheBytes = 200 << 10 })
	alice := h.user("alice")
	var rooms []id.RoomID
	for i := range 30 {
		rooms = append(rooms, h.public(alice))
		h.now = h.now.Add(1e9)
		h.say(alice, rooms[i], "hello")
	}
	n, bytes := h.svc.cache.Size()
	if n >= 20 || bytes > 200<<10 {
		t.Errorf("%d rooms with %d bytes are in memory, want fewer than 20 and at most 200 KiB", n, bytes)
	}
	for _, room := range rooms {
		h.say(alice, room, "back")
		h.chained(room)
		h.matchesDisk(room)
	}
}

// What counts is the size of events, not their number.
func TestRoomsWithLongMessagesLeaveMemory(t *testing.T) {
	const budget = 1 << 20
	h := oneHouse(t, func(o *Options) { o.CacheBytes = budget })
	alice := h.user("alice")
	rooms := []id.RoomID{h.public(alice), h.public(alice), h.public(alice)}
	text := strings.Repeat("long ", 8<<10)
	for range 10 {
		for _, room := range rooms {
			h.now = h.now.Add(1e9)
			h.say(alice, room, text)
		}
	}
	if n, bytes := h.svc.cache.Size(); n == len(rooms) || bytes > budget {
		t.Errorf("%d rooms with %d bytes are in memory, want at most %d", n, bytes, budget)
	}
	for _, room := range rooms {
		h.matchesDisk(room)
	}
}

func TestSettingTheSameStateCreatesNoEvent(t *testing.T) {
	h := oneHouse(t)
	alice := h.user("alice")
	room := h.public(alice)
	first := h.set(alice, room, "m.room.name", "", `{"name":"a"}`)
	if again := h.set(alice, room, "m.room.name", "", `{ "name": "a" }`); again != first {
		t.Error("setting the same name again creates an event")
	}
	if other := h.set(alice, room, "m.room.name", "", `{"name":"b"}`); other == first {
		t.Error("setting another name creates no event")
	}
	h.ok(h.svc.Join(h.Context(), alice, room, ""))
	h.ok(h.svc.Join(h.Context(), alice, room, ""))
	if n := len(h.timeline(room)); n != 7 {
		t.Errorf("%d events, want 7", n)
	}
}

func TestUnchangedStateWaitsForQueuedWrites(t *testing.T) {
	h := oneHouse(t)
	alice, bob := h.user("alice"), h.user("bob")
	room := h.public(alice)
	r := h.room(room)
	depth := r.queuedDepth()
	release := h.hold()
	var wg sync.WaitGroup
	wg.Go(func() {
		err := h.svc.change(h.Context(), room, func(b *batch) error {
			b.extra = func(*storage.Tx, ident.RoomNID) error { return errInjected }
			return b.setMember(bob, bob.UserID, bob.UserNID, memberContent{Membership: Join})
		})
		if !errors.Is(err, errInjected) {
			t.Errorf("the failing join returned %v, want the injected error", err)
		}
	})
	h.until("queueing a join that will fail", func() bool { return r.queuedDepth() == depth+1 })
	done := make(chan error)
	go func() { done <- h.svc.Join(h.Context(), bob, room, "") }()
	select {
	case <-done:
		t.Error("the second join was answered before the first was stored")
	default:
	}
	release()
	h.ok(<-done)
	wg.Wait()
	h.membership(room, bob, Join)
	h.chained(room)
	h.matchesDisk(room)
}

func TestFailedBatchLeavesNothingBehind(t *testing.T) {
	eachHouse(t, func(h *house) {
		alice, bob := h.user("alice"), h.user("bob")
		room := h.public(alice)
		r := h.room(room)
		depth, stored := r.queuedDepth(), len(h.timeline(room))
		release := h.hold()
		var wg sync.WaitGroup
		send := func() error {
			_, err := h.svc.Send(h.Context(), NewEvent{
				Room: room, Sender: alice, Type: "m.room.message", Content: json.RawMessage(`{}`), Txn: &txns.Txn{Path: "/", ID: "1"},
			})
			return err
		}
		for i, do := range []func() error{send, func() error { return h.svc.Join(h.Context(), bob, room, "") }} {
			wg.Go(func() {
				if err := do(); err == nil {
					h.Error("a write of a failed batch was answered OK")
				}
			})
			h.until("queueing", func() bool { return r.queuedDepth() == depth+int64(i)+1 })
		}
		// A function that ends its goroutine ends the batch.
		p := h.db.Enqueue(storage.Write{Do: func(*storage.Tx) error { runtime.Goexit(); return nil }})
		release()
		wg.Wait()
		if p.Wait(h.Context()) == nil {
			h.Error("the batch did not fail")
		}
		if n := len(h.timeline(room)); n != stored {
			h.Errorf("%d events are stored, want %d", n, stored)
		}
		h.ok(send())
		h.ok(h.svc.Join(h.Context(), bob, room, ""))
		h.membership(room, bob, Join)
		h.chained(room)
		h.matchesDisk(room)
	})
}

func TestDuplicateMembershipKeysHaveOneMeaning(t *testing.T) {
	eachHouse(t, func(h *house) {
		alice, bob := h.user("alice"), h.user("bob")
		room := h.create(alice, CreateRoom{Preset: "public_chat", RoomVersion: "5"})
		h.ok(h.svc.Join(h.Context(), bob, room, ""))
		h.set(bob, room, typeMember, string(bob.UserID), `{"membership":"join","membership":"leave"}`)
		if got := h.content(room, typeMember, string(bob.UserID)); got != `{"membership":"leave"}` {
			h.Errorf("the event says %s", got)
		}
		h.membership(room, bob, Leave)
		_, err := h.trySet(alice, room, typeMember, "@eve:elsewhere", `{"membership":"leave","membership":"invite"}`)
		h.refused(err, "M_FORBIDDEN")
	})
}
