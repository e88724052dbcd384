package rooms

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/pushrules"
	"ebb/rooms/expiry"
	"ebb/rooms/graph"
	"ebb/storage"
	"ebb/storage/pace"
	"ebb/storage/storagetest"
)

// keep sets the maximum lifetime of messages in a room.
func (h *house) keep(room id.RoomID, longest time.Duration) {
	h.Helper()
	h.ok(h.svc.SetRetentionOverride(h.Context(), room, &expiry.Policy{Max: &longest}))
}

// purge purges a room batch by batch, and returns the number of removed events.
func (h *house) purge(room id.RoomID) (purged int) {
	h.Helper()
	rule, expires := h.rule(room)
	for after, more := (PurgeCursor{}), expires; more; {
		p, err := h.svc.Purge(h.Context(), h.room(room), rule, after, pace.Fixed(PurgeBatch))
		h.ok(err)
		purged, after, more = purged+p.Events, p.Next, p.More
	}
	return purged
}

// rule returns the rule by which everything goes that has expired.
func (h *house) rule(room id.RoomID) (expiry.PurgeRule, bool) {
	policy := h.room(room).Retention()
	return expiry.Standing{Policy: policy, Before: policy}.Rule(h.svc.opts.Now())
}

// position returns the position of an event, or 0 if the event is not stored.
func (h *house) position(room id.RoomID, eventID id.EventID) (p storage.Pos) {
	h.Helper()
	h.ok(h.db.Read(h.Context(), func(tx *storage.Tx) (err error) {
		found, err := tx.EventPositions([]string{string(eventID)})
		p = found[storage.EventName{Room: h.room(room).NID(), ID: string(eventID)}]
		return err
	}))
	return p
}

func (h *house) ring(room id.RoomID) (out []id.EventID) {
	events, _ := h.room(room).Ring()
	for _, e := range events {
		out = append(out, e.ID())
	}
	return out
}

func TestPurgeRemovesOnlyExpiredMessages(t *testing.T) {
	eachHouse(t, func(h *house) {
		h.svc.opts.Push = outcomes{h.user("bob").UserNID}
		alice, bob := h.user("alice"), h.user("bob")
		room := h.public(alice, bob)
		topic := h.set(alice, room, "m.room.topic", "", `{"topic":"x"}`)
		root := h.say(alice, room, "root")
		rootPos := h.position(room, root)
		h.now = h.now.Add(time.Minute)
		reply := h.send(bob, room, "m.room.message", fmt.Sprintf(`{"body":"reply","m.relates_to":{"rel_type":"m.thread","event_id":%q}}`, root))
		reaction := h.send(alice, room, "m.reaction", fmt.Sprintf(`{"m.relates_to":{"rel_type":"m.annotation","event_id":%q,"key":"k"}}`, reply))
		h.keep(room, time.Minute)
		if n := h.purge(room); n != 1 {
			t.Fatalf("%d events were purged, want 1", n)
		}
		if h.position(room, root) != 0 || h.position(room, topic) == 0 || slices.Contains(h.ring(room), root) {
			t.Error("the thread root is not purged, or the topic is")
		}
		h.ok(h.db.Read(t.Context(), func(tx *storage.Tx) error {
			if latest, err := tx.ThreadLatest(rootPos); err != nil || latest != 0 {
				t.Errorf("the thread of the purged root is still stored: %d, %v", latest, err)
			}
			class, err := tx.EventPush(bob.UserNID, h.room(room).NID(), rootPos)
			if class != 0 {
				t.Errorf("a push class of the purged event is still stored: %d", class)
			}
			return err
		}))
		again := h.open()
		for _, svc := range []*Service{h.svc, again} {
			r, err := svc.Room(t.Context(), room)
			h.ok(err)
			for _, e := range []id.EventID{reply, reaction} {
				found, err := r.FindEvent(t.Context(), e)
				if h.ok(err); found == nil || found.ThreadRoot != 0 {
					t.Errorf("%s is stored as %+v, want it in no thread", e, found)
				}
			}
		}
		if found := must(h.room(room).FindEvent(t.Context(), reply)); found.Push != pushrules.Notify || !found.Built {
			t.Errorf("the reply in memory is %+v, want it with its push class", found)
		}
		if got := h.room(room).PurgedBefore(); got != h.now.UnixMilli()-time.Minute.Milliseconds() {
			t.Errorf("PurgedBefore is %d, want a minute ago", got)
		}
		h.matchesDisk(room)
		if n := h.purge(room); n != 0 {
			t.Errorf("a second purge purged %d events, want none", n)
		}
		_, err := h.svc.Send(t.Context(), NewEvent{Room: room, Sender: alice, Type: "m.room.message", Content: []byte(`{}`), Timestamp: h.room(room).PurgedBefore() - 1})
		h.refused(err, "M_FORBIDDEN")
		_, err = again.Send(t.Context(), NewEvent{Room: room, Sender: alice, Type: "m.room.message", Content: []byte(`{}`), Timestamp: h.room(room).PurgedBefore() - 1})
		h.refused(err, "M_FORBIDDEN")
	})
}

func TestForwardExtremityIsASkeletonUntilTheNextEvent(t *testing.T) {
	eachHouse(t, func(h *house) {
		alice := h.user("alice")
		room := h.public(alice)
		last := h.say(alice, room, "secret")
		h.keep(room, time.Minute)
		h.now = h.now.Add(time.Hour)
		if n := h.purge(room); n != 1 {
			t.Fatalf("%d events were purged, want 1", n)
		}
		row := func(svc *Service) *Event {
			r, err := svc.Room(t.Context(), room)
			h.ok(err)
			e, err := r.FindEvent(t.Context(), last)
			h.ok(err)
			return e
		}
		for _, svc := range []*Service{h.svc, h.open()} {
			if e := row(svc); e == nil || !e.Hidden() || strings.Contains(string(e.JSON()), "secret") || e.TxnID != "" || e.DeviceNID != 0 {
				t.Errorf("the forward extremity is stored as %+v, want a skeleton without content, transaction ID and device", e)
			}
			ring, _ := must(svc.Room(t.Context(), room)).Ring()
			if slices.ContainsFunc(ring, func(e *Event) bool { return e.ID() == last }) {
				t.Error("the skeleton is in the ring")
			}
		}
		if _, err := h.reads().GetEvent(t.Context(), room, last, alice); err == nil {
			t.Error("a client gets the skeleton")
		}
		h.refused(h.reads().SetReceipts(t.Context(), room, alice, last, ReadReceipt), "M_NOT_FOUND")
		if n := h.purge(room); n != 0 || row(h.svc) == nil {
			t.Error("the skeleton was deleted while the graph needs it")
		}
		next := h.say(alice, room, "goes on")
		if e := must(h.room(room).FindEvent(t.Context(), next)); !slices.Equal(e.PrevEvents(), []id.EventID{last}) {
			t.Errorf("the prev_events of the next event are %v, want the skeleton", e.PrevEvents())
		}
		h.matchesDisk(room)
		if n := h.purge(room); n != 0 || row(h.svc) != nil {
			t.Errorf("%d events were purged, want none; the skeleton is %v, want it deleted", n, row(h.svc))
		}
		h.say(alice, room, "and on")
	})
}

func TestThreadOnAStateEventEndsWithItsReplies(t *testing.T) {
	h := oneHouse(t)
	alice := h.user("alice")
	room := h.public(alice)
	topic := h.set(alice, room, "m.room.topic", "", `{"topic":"x"}`)
	relate := fmt.Sprintf(`{"body":"x","m.relates_to":{"rel_type":"m.thread","event_id":%q}}`, topic)
	h.send(alice, room, "m.room.message", relate)
	h.now = h.now.Add(time.Minute)
	second := h.send(alice, room, "m.room.message", relate)
	latest := func() (n ident.Order) {
		h.ok(h.db.Read(t.Context(), func(tx *storage.Tx) (err error) {
			n, err = tx.ThreadLatest(h.position(room, topic))
			return err
		}))
		return n
	}
	h.keep(room, time.Minute)
	if h.purge(room) != 1 || latest() != ident.Order(h.position(room, second))*graph.OrderStep {
		t.Errorf("after the purge of the first reply the latest reply has order %d, want that of the second", latest())
	}
	h.now = h.now.Add(time.Minute)
	if h.purge(room) != 1 || latest() != 0 {
		t.Errorf("after the purge of all replies the latest reply has order %d, want 0", latest())
	}
}

func TestPurgeContinuesWhereItStopped(t *testing.T) {
	h := oneHouse(t)
	alice := h.user("alice")
	room := h.public(alice)
	const messages = PurgeBatch + 50
	h.ok(h.svc.change(t.Context(), room, func(b *batch) error {
		for i := range messages {
			if _, err := b.add(proto{typ: "m.room.message", sender: alice, content: fmt.Appendf(nil, `{"body":"%d"}`, i)}); err != nil {
				return err
			}
		}
		return nil
	}))
	before := len(h.timeline(room)) - messages // the state events
	h.keep(room, time.Minute)
	h.now = h.now.Add(time.Hour)
	rule, _ := h.rule(room)
	p, err := h.svc.Purge(t.Context(), h.room(room), rule, PurgeCursor{}, pace.Fixed(PurgeBatch))
	if h.ok(err); p.Events != PurgeBatch-before || !p.More || p.Next.order == 0 {
		t.Fatalf("the first purge: %+v, want a full batch", p)
	}
	h.svc = h.open() // simulates a restart at this point
	if rest := h.purge(room); rest != messages-p.Events {
		t.Errorf("the first purge purged %d events and the second %d, want %d in total", p.Events, rest, messages)
	}
	if left := h.timeline(room); len(left) != before+1 { // one event remains as a skeleton
		t.Errorf("the timeline has %d events, want %d", len(left), before+1)
	}
}

func TestOverrideIsSetAndRemoved(t *testing.T) {
	h := oneHouse(t)
	alice := h.user("alice")
	room := h.public(alice)
	h.set(alice, room, "m.room.retention", "", `{"max_lifetime":3600000}`)
	lifetime := func(want time.Duration) {
		t.Helper()
		for _, svc := range []*Service{h.svc, h.open()} {
			r, err := svc.Room(t.Context(), room)
			h.ok(err)
			got := time.Duration(0)
			if p := r.Retention(); p.Max != nil {
				got = *p.Max
			}
			if got != want {
				t.Errorf("messages are kept for %v, want %v", got, want)
			}
		}
	}
	lifetime(time.Hour)
	h.keep(room, time.Minute)
	lifetime(time.Minute)
	h.ok(h.svc.SetRetentionOverride(t.Context(), room, &expiry.Policy{})) // keeps messages forever, whatever the room's policy is
	lifetime(0)
	h.say(alice, room, "x")
	h.now = h.now.Add(2 * time.Hour)
	if n := h.purge(room); n != 0 {
		t.Errorf("%d events were purged although they are kept for ever", n)
	}
	h.ok(h.svc.SetRetentionOverride(t.Context(), room, nil))
	lifetime(time.Hour)
	if o := h.room(room).Override(); o != nil {
		t.Errorf("the policy of the administrator is %+v, want none", o)
	}
	short, long := time.Second, time.Minute
	h.refused(h.svc.SetRetentionOverride(t.Context(), room, &expiry.Policy{Min: &long, Max: &short}), "M_INVALID_PARAM")
	h.refused(h.svc.SetRetentionOverride(t.Context(), "!none:here", nil), "M_NOT_FOUND")
}

func TestAnOverrideAlsoAppliesToTheRoomThatReplacesTheRoom(t *testing.T) {
	eachHouse(t, func(h *house) {
		alice, bob, carol := h.user("alice"), h.user("bob"), h.user("carol")
		old := h.public(alice, bob, carol)
		h.keep(old, time.Hour)
		room, err := h.svc.Upgrade(t.Context(), alice, old, id.RoomV11, nil)
		h.ok(err)
		if p := h.room(room).Override(); p == nil || p.Min != nil || p.Max == nil || *p.Max != time.Hour || *h.room(room).Retention().Max != time.Hour {
			t.Fatalf("after the upgrade the policy of the administrator is %v", p)
		}
		h.keep(room, 2*time.Hour)
		h.ok(h.svc.Join(t.Context(), bob, room, ""))
		if p := h.room(room).Override(); p == nil || *p.Max != 2*time.Hour {
			t.Errorf("somebody who follows replaces the administrator's policy for the new room by %v", p)
		}
		h.ok(h.svc.SetRetentionOverride(t.Context(), room, nil))
		h.ok(h.svc.Join(t.Context(), carol, room, ""))
		if p := h.room(room).Override(); p != nil {
			t.Errorf("somebody who follows brings the policy back that the administrator has removed: %v", p)
		}
	})
}

func TestPurgedTextIsInNoFile(t *testing.T) {
	const marker = "heliotrope-49152"
	dsn := storagetest.SQLite(t)
	db, err := storage.Open(t.Context(), storage.Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	h := newHouse(t, db)
	alice := h.user("alice")
	room := h.public(alice)
	for i := range 20 {
		h.say(alice, room, fmt.Sprint(strings.Repeat("x", 3000*i), marker)) // long messages are stored in database pages of their own
	}
	files := func() (with []string) {
		list, err := filepath.Glob(strings.TrimPrefix(dsn, "sqlite:") + "*")
		h.ok(err)
		for _, name := range list {
			raw, err := os.ReadFile(name)
			if h.ok(err); bytes.Contains(raw, []byte(marker)) {
				with = append(with, filepath.Base(name))
			}
		}
		return with
	}
	if len(files()) == 0 {
		t.Fatal("no file has the marker before the purge: the search proves nothing")
	}
	h.keep(room, time.Minute)
	h.now = h.now.Add(time.Hour)
	if n := h.purge(room); n != 20 {
		t.Fatalf("%d events were purged, want 20", n)
	}
	h.ok(db.Maintain(t.Context()))
	if with := files(); len(with) > 0 {
		t.Errorf("after the purge the files %v still have the text", with)
	}
}
