package rooms

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ebb/storage"
	"ebb/storage/pace"
)

// legalHold adds a legal hold, or lifts the one with the given number.
func (h *house) legalHold(c CommittedHold, nid int64) int64 {
	h.Helper()
	h.ok(h.db.Enqueue(storage.Write{
		Do: func(tx *storage.Tx) (err error) {
			if c.Lifted = nid != 0; c.Lifted {
				_, err = tx.LiftLegalHold(nid, "@a:x", 1)
				return err
			}
			nid, err = tx.AddLegalHold(storage.LegalHold{Room: c.Room, User: c.User, Reason: "case 7"})
			return err
		},
		Committed: func() { h.svc.opts.Commits.Deliver(&Commit{Holds: []CommittedHold{c}}) },
	}).Wait(h.Context()))
	return nid
}

// released purges what holds kept that were lifted, as the purge job does.
func (h *house) released() (events int) {
	h.Helper()
	var page []storage.KeptBy
	h.ok(h.db.Read(h.Context(), func(tx *storage.Tx) (err error) {
		page, err = tx.KeptEvents(storage.KeptBy{}, 100)
		return err
	}))
	for _, of := range page {
		r, err := h.svc.RoomByNID(h.Context(), of.Room)
		h.ok(err)
		p, _, err := h.svc.PurgeReleased(h.Context(), r, of, 0, h.svc.opts.Now(), pace.Fixed(PurgeBatch))
		h.ok(err)
		events += p.Events
	}
	return events
}

func TestHeldMessagesAreHiddenAndNotPurged(t *testing.T) {
	eachHouse(t, func(h *house) {
		alice, bob := h.user("alice"), h.user("bob")
		room, other := h.public(alice, bob), h.public(bob)
		of := map[string]CommittedHold{"room": {Room: h.room(room).NID()}, "user": {User: alice.UserNID}}
		for _, kind := range []string{"room", "user"} {
			hold := of[kind]
			first := h.say(alice, room, "held")
			h.say(bob, room, "bob's")
			outside := h.say(bob, other, "elsewhere")
			nid := h.legalHold(hold, 0)
			h.now = h.now.Add(time.Hour)
			h.keep(room, time.Minute)
			h.keep(other, time.Minute)
			want := 1 // bob's last event remains as a skeleton, or goes
			if kind == "room" {
				want = 0
			}
			if n := h.purge(room); n != want {
				t.Fatalf("hold on a %s: %d messages were purged, want %d", kind, n, want)
			}
			h.purge(room) // finds nothing to do with what it has kept
			if h.purge(other) == 0 {
				t.Fatalf("hold on a %s: the hold protects another room", kind)
			}
			row, found := h.row(string(first))
			if !found || row.Flags&storage.KeptEvent == 0 || row.Flags&storage.SkeletonEvent != 0 || !strings.Contains(string(row.JSON), `"held"`) {
				t.Fatalf("hold on a %s: %+v", kind, row)
			}
			if slices.Contains(h.ring(room), first) || slices.Contains(h.ring(other), outside) {
				t.Fatalf("hold on a %s: readers see the message", kind)
			}
			// A longer policy does not bring the message back.
			h.keep(room, 1000*time.Hour)
			if e, err := h.room(room).FindEvent(h.Context(), first); err != nil || e == nil || !e.Hidden() {
				t.Fatalf("hold on a %s: after a longer policy: %+v, %v", kind, e, err)
			}
			if h.released() != 0 {
				t.Fatalf("hold on a %s: messages were purged under the hold", kind)
			}
			h.legalHold(hold, nid)
			if h.released() == 0 {
				t.Fatalf("hold on a %s: nothing was purged after the hold was lifted", kind)
			}
			if row, found := h.row(string(first)); found && row.Flags&storage.SkeletonEvent == 0 {
				t.Fatalf("hold on a %s: after it was lifted: %+v", kind, row)
			}
		}
	})
}

// row returns the row of an event.
func (h *house) row(eventID string) (row storage.EventRow, found bool) {
	h.Helper()
	h.ok(h.db.Read(h.Context(), func(tx *storage.Tx) (err error) {
		row, found, err = tx.EventAnywhere(eventID)
		return err
	}))
	return row, found
}

// A hold that is added while a purge runs counts from the next transaction on.
func TestAHoldThatIsAddedDuringAPurgeKeepsTheRest(t *testing.T) {
	eachHouse(t, func(h *house) {
		alice := h.user("alice")
		room := h.public(alice)
		var sent []string
		for range 9 {
			sent = append(sent, string(h.say(alice, room, "said")))
		}
		h.keep(room, time.Minute)
		h.now = h.now.Add(time.Hour)
		rule, _ := h.rule(room)
		nid, purged, kept := int64(0), 0, 0
		for after, more := (PurgeCursor{}), true; more; {
			p, err := h.svc.Purge(h.Context(), h.room(room), rule, after, pace.Fixed(3))
			h.ok(err)
			purged, kept, after, more = purged+p.Events, kept+p.Kept, p.Next, p.More
			if purged == 0 || nid != 0 {
				continue // there are no messages among the first events
			}
			if kept != 0 {
				t.Fatalf("%d messages were kept before there was a hold", kept)
			}
			nid = h.legalHold(CommittedHold{Room: h.room(room).NID()}, 0)
		}
		if purged == 0 || purged > 3 || purged+kept != len(sent) {
			t.Fatalf("%d messages were purged and %d kept, want all from the next transaction on", purged, kept)
		}
		for i, e := range sent {
			row, found := h.row(e)
			if want := i >= purged; found != want || found && (row.Flags != storage.KeptEvent || !strings.Contains(string(row.JSON), "said")) {
				t.Errorf("message %d: %v, %+v", i, found, row)
			}
		}
		h.svc = h.open()
		if n := h.purge(room); n != 0 {
			t.Errorf("after a restart, %d held messages are purged", n)
		}
		h.legalHold(CommittedHold{Room: h.room(room).NID()}, nid)
		if n := h.released(); n != kept {
			t.Errorf("after the hold was lifted, %d messages are purged, want %d", n, kept)
		}
	})
}
