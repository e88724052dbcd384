package rooms

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/storage"
	"ebb/storage/storagetest"
	"ebb/wake"
)

// house is a rooms service on a real database.
type house struct {
	testing.TB
	db   *storage.DB
	svc  *Service
	now  time.Time
	with []func(*Options)

	listener atomic.Pointer[Listener] // set by listen
	readers  sync.Map                 // *Service to Readers
}

// eachHouse runs a test on every kind of database.
func eachHouse(t *testing.T, f func(h *house)) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) { f(newHouse(t, db)) })
}

// oneHouse returns a house on SQLite, for tests that do not depend on the database.
func oneHouse(t testing.TB, with ...func(*Options)) *house {
	return newHouse(t, storagetest.Open(t, storage.Config{}), with...)
}

func newHouse(t testing.TB, db *storage.DB, with ...func(*Options)) *house {
	h := &house{TB: t, db: db, now: time.UnixMilli(1_750_000_000_000), with: with}
	h.svc = h.open()
	return h
}

// open opens the service again, with empty caches.
func (h *house) open() *Service {
	h.Helper()
	o := Options{
		DB: h.db, Server: "here", Hub: wake.New(), Now: func() time.Time { return h.now },
		Signer: pdu.Signer{Server: "here", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))},
	}
	for _, f := range h.with {
		f(&o)
	}
	if o.Commits == nil {
		o.Commits = NewCommits()
	}
	o.Commits.Subscribe(func(c *Commit) {
		if l := h.listener.Load(); l != nil {
			(*l)(c)
		}
	})
	svc, err := New(h.Context(), o)
	h.ok(err)
	h.readers.Store(svc, OpenReaders(svc, o))
	svc.briefWait = 0 // rooms are completed only by the test
	return svc
}

// listen calls f with every commit from now on, in the committer.
func (h *house) listen(f Listener) { h.listener.Store(&f) }

func (h *house) ok(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// refused checks that err has the given error code.
func (h *house) refused(err error, code string) {
	h.Helper()
	if mxerr.Code(err) != code {
		h.Fatalf("got %v, want %s", err, code)
	}
}

func (h *house) user(name string) ident.Requester {
	h.Helper()
	user := id.UserID("@" + name + ":here")
	nid, err := h.svc.UserNID(h.Context(), user)
	h.ok(err)
	return ident.Requester{UserNID: nid, UserID: user, DeviceNID: ident.DeviceNID(nid) + 1_000_000}
}

func (h *house) create(s ident.Requester, req CreateRoom) id.RoomID {
	h.Helper()
	room, err := h.svc.Create(h.Context(), s, req)
	h.ok(err)
	return room
}

// public creates a public room and joins the members.
func (h *house) public(s ident.Requester, members ...ident.Requester) id.RoomID {
	h.Helper()
	room := h.create(s, CreateRoom{Preset: "public_chat"})
	for _, m := range members {
		h.ok(h.svc.Join(h.Context(), m, room, ""))
	}
	return room
}

func (h *house) room(roomID id.RoomID) *Room {
	h.Helper()
	r, err := h.svc.Room(h.Context(), roomID)
	h.ok(err)
	return r
}

func (h *house) trySend(s ident.Requester, room id.RoomID, typ, content string) (id.EventID, error) {
	return h.svc.Send(h.Context(), NewEvent{Room: room, Sender: s, Type: typ, Content: json.RawMessage(content)})
}

func (h *house) send(s ident.Requester, room id.RoomID, typ, content string) id.EventID {
	h.Helper()
	e, err := h.trySend(s, room, typ, content)
	h.ok(err)
	return e
}

func (h *house) say(s ident.Requester, room id.RoomID, text string) id.EventID {
	h.Helper()
	return h.send(s, room, "m.room.message", `{"msgtype":"m.text","body":"`+text+`"}`)
}

func (h *house) trySet(s ident.Requester, room id.RoomID, typ, key, content string) (id.EventID, error) {
	return h.svc.Send(h.Context(), NewEvent{Room: room, Sender: s, Type: typ, StateKey: &key, Content: json.RawMessage(content)})
}

func (h *house) set(s ident.Requester, room id.RoomID, typ, key, content string) id.EventID {
	h.Helper()
	e, err := h.trySet(s, room, typ, key, content)
	h.ok(err)
	return e
}

func (h *house) content(room id.RoomID, typ, key string) string {
	h.Helper()
	e := h.room(room).State(typ, key)
	if e == nil {
		return ""
	}
	return string(e.Content())
}

func (h *house) membership(room id.RoomID, s ident.Requester, want Membership) {
	h.Helper()
	if got := h.room(room).Membership(s.UserID); got != want {
		h.Fatalf("%s is %q in the room, want %q", s.UserID, got, want)
	}
	list, err := h.svc.Memberships(h.Context(), s.UserNID)
	h.ok(err)
	for _, m := range list {
		if m.Room == h.room(room).NID() && m.Membership == want {
			return
		}
	}
	h.Fatalf("the memberships of %s are %+v, want %q in the room", s.UserID, list, want)
}

// timeline reads all events of a room from the database, oldest first.
func (h *house) timeline(room id.RoomID) []*Event {
	h.Helper()
	r := h.room(room)
	var out []*Event
	h.ok(h.db.Read(h.Context(), func(tx *storage.Tx) error {
		rows, err := tx.RecentEvents([]ident.RoomNID{r.nid}, 1_000_000)
		if err != nil {
			return err
		}
		slices.SortFunc(rows, func(a, b storage.EventRow) int { return cmp.Compare(a.Order, b.Order) })
		for i := range rows {
			e, err := graph.LoadEvent(r.version, &rows[i])
			if err != nil {
				return err
			}
			out = append(out, e)
		}
		return nil
	}))
	return out
}

// chained checks that the events of a room form a single chain in the order of the timeline, and returns them.
func (h *house) chained(room id.RoomID) []*Event {
	h.Helper()
	events := h.timeline(room)
	for i, e := range events {
		prev := e.PrevEvents()
		switch {
		case i == 0 && len(prev) == 0:
		case i > 0 && len(prev) == 1 && prev[0] == events[i-1].ID() && e.Depth() == events[i-1].Depth()+1 && e.Pos > events[i-1].Pos:
		default:
			h.Fatalf("event %d (%s) comes after %v at depth %d", i, e.ID(), prev, e.Depth())
		}
	}
	return events
}

// matchesDisk checks that the head in memory equals the one that would be read after a restart.
func (h *house) matchesDisk(room id.RoomID) {
	h.Helper()
	live := h.room(room)
	h.db.Flush(h.Context())
	again, err := h.open().Room(h.Context(), room)
	h.ok(err)
	if a, b := describeHead(live), describeHead(again); a != b {
		h.Fatalf("in memory and on disk differ:\n%s", differingLines(a, b))
	}
	if len(live.pending.state) != 0 || live.pending.joined != 0 {
		h.Fatalf("%d entries are still queued", len(live.pending.state))
	}
}

// differingLines returns the lines that occur in only one of two texts.
func differingLines(a, b string) string {
	var out strings.Builder
	in := func(line, text string) bool { return slices.Contains(strings.Split(text, "\n"), line) }
	for _, side := range []struct{ name, text, other string }{{"memory", a, b}, {"disk", b, a}} {
		for line := range strings.SplitSeq(side.text, "\n") {
			if !in(line, side.other) {
				fmt.Fprintf(&out, "%s: %s\n", side.name, line)
			}
		}
	}
	return out.String()
}

func describeHead(r *Room) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	h := &r.head
	state := map[string]string{}
	for k, e := range h.state {
		state[k.Type+"|"+k.Key] = fmt.Sprint(e.Pos, e.ID(), e.RedactedBy, string(e.JSON()))
	}
	members := map[string]string{}
	for u, m := range h.members {
		members[string(u)] = fmt.Sprint(m.Pos, m.NID, m.Membership)
	}
	counts := map[string]int{}
	for m, n := range h.counts {
		if n != 0 {
			counts[m] = n
		}
	}
	var extremities []string
	for _, x := range h.extremities {
		extremities = append(extremities, fmt.Sprint(x.ID, x.Position()))
	}
	raw, err := json.MarshalIndent(map[string]any{
		"state": state, "members": members, "counts": counts, "local": len(h.local), "invited": len(h.invited),
		"extremities": extremities, "depth": h.depth, "order": h.order, "generation": h.generation,
		"snapshot": fmt.Sprint(h.snapshot.NID, h.snapshot.Chain()), "servers": h.servers, "last": h.last, "published": h.published, "policy": h.policy,
	}, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// hold blocks the committer until the returned function is called. Writes queue up meanwhile.
func (h *house) hold() (release func()) {
	started, done := make(chan struct{}), make(chan struct{})
	h.db.Enqueue(storage.Write{Do: func(*storage.Tx) error {
		close(started)
		<-done
		return nil
	}})
	<-started
	return func() { close(done) }
}

// until waits until holds returns true, which other goroutines bring about.
func (h *house) until(what string, holds func() bool) {
	h.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			h.Fatalf("%s did not happen", what)
		}
	}
}

// queuedDepth returns the depth of the provisional head.
func (r *Room) queuedDepth() int64 {
	r.writer.Lock()
	defer r.writer.Unlock()
	return r.next.depth
}

var errInjected = errors.New("injected")

// sendFailing sends a message whose write to the database fails.
func (h *house) sendFailing(ctx context.Context, s ident.Requester, room id.RoomID) error {
	return h.svc.change(ctx, room, func(b *batch) error {
		b.extra = func(*storage.Tx, ident.RoomNID) error { return errInjected }
		_, err := b.add(proto{typ: "m.room.message", sender: s, content: []byte(`{"body":"lost"}`)})
		return err
	})
}
