package retention

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/expiry"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// redaction says whether a message is redacted, and whether the time is over for which its original is kept.
type redaction int

const (
	notRedacted redaction = iota
	originalKept
	originalOver
)

// fateCase is a combination of reasons for and against removing a message.
type fateCase struct {
	held, withinMin, erased, expired bool
	removed                          bool // by RemoveMessages, since its sender, who had left the room, asked for everything to be erased
	redaction                        redaction
}

func (c fateCase) String() string {
	return fmt.Sprintf("held %v, within min_lifetime %v, erased %v, removed %v, redaction %d, past max_lifetime %v", c.held, c.withinMin, c.erased, c.removed, c.redaction, c.expired)
}

// stays reports whether the content of the message stays on disk. It spells out the precedence: a legal hold, then
// min_lifetime, then erasure and redaction, then max_lifetime.
func (c fateCase) stays() bool {
	switch {
	case c.held, c.withinMin:
		return true
	case c.removed, c.redaction == originalOver, c.redaction == originalKept && c.erased:
		return false
	}
	return !c.expired
}

// fateCases returns all combinations.
func fateCases() (all []fateCase) {
	for n := range 32 {
		for _, r := range []redaction{notRedacted, originalKept, originalOver} {
			all = append(all, fateCase{held: n&1 != 0, withinMin: n&2 != 0, erased: n&4 != 0, expired: n&8 != 0, removed: n&16 != 0, redaction: r})
		}
	}
	return all
}

// holdRoom adds a legal hold on a room.
func (f *fixture) holdRoom(room ident.RoomNID) {
	f.Helper()
	f.ok(f.opts.DB.Enqueue(storage.Write{
		Do: func(tx *storage.Tx) error {
			_, err := tx.AddLegalHold(storage.LegalHold{Room: room, Reason: "case 7"})
			return err
		},
		Committed: func() { f.opts.Commits.Deliver(&rooms.Commit{Holds: []rooms.CommittedHold{{Room: room}}}) },
	}).Wait(f.Context()))
}

// told is a message of a case.
type told struct {
	fateCase
	room   id.RoomID
	sender ident.Requester
	event  id.EventID
	pos    storage.Pos
}

// tell sends the message of a case to a room of its own. If it is to expire although its min_lifetime is not over, it
// claims to be old, as only other servers and application services can: max_lifetime counts from then.
func (f *fixture) tell(c fateCase, sender ident.Requester) *told {
	f.Helper()
	room, err := f.opts.Rooms.Create(f.Context(), sender, rooms.CreateRoom{Preset: "public_chat"})
	f.ok(err)
	n := rooms.NewEvent{Room: room, Sender: sender, Type: "m.room.message", Content: json.RawMessage(`{"body":"marker"}`)}
	if c.expired {
		n.Timestamp = f.now.Add(-100 * time.Hour).UnixMilli()
	}
	m := &told{fateCase: c, room: room, sender: sender}
	m.event, err = f.opts.Rooms.Send(f.Context(), n)
	f.ok(err)
	m.pos = f.rowOf(m.event).Position
	f.redact(m, originalOver)
	_, err = f.opts.Rooms.Send(f.Context(), rooms.NewEvent{Room: room, Sender: sender, Type: "m.room.message", Content: json.RawMessage(`{"body":"later"}`)})
	f.ok(err) // so that the graph does not need the message
	return m
}

// redact redacts the message of a case, if it is the time for that.
func (f *fixture) redact(m *told, when redaction) {
	f.Helper()
	if m.redaction == when {
		_, err := f.opts.Rooms.Send(f.Context(), rooms.NewEvent{Room: m.room, Sender: m.sender, Type: "m.room.redaction", Redacts: m.event, Content: json.RawMessage(`{}`)})
		f.ok(err)
	}
}

// rowOf returns the row of an event, which is empty if there is none.
func (f *fixture) rowOf(event id.EventID) (row storage.EventRow) {
	f.Helper()
	f.ok(f.opts.DB.Read(f.Context(), func(tx *storage.Tx) (err error) {
		row, _, err = tx.EventAnywhere(string(event))
		return err
	}))
	return row
}

// onDisk reports whether the database has the content of a message, in its row or in that of its original.
func (f *fixture) onDisk(m *told) bool {
	f.Helper()
	var original storage.Original
	f.ok(f.opts.DB.Read(f.Context(), func(tx *storage.Tx) (err error) {
		original, _, err = tx.OriginalOf(m.pos)
		return err
	}))
	return strings.Contains(string(f.rowOf(m.event).JSON)+string(original.JSON), "marker")
}

// gone reports whether readers are shown nothing of a message, not even that it was redacted.
func (f *fixture) gone(m *told) (gone bool) {
	f.Helper()
	r, err := f.opts.Rooms.Room(f.Context(), m.room)
	f.ok(err)
	ref := storage.EventRef{Room: r.NID(), EventID: string(m.event)}
	f.ok(f.opts.DB.Read(f.Context(), func(tx *storage.Tx) error {
		all, err := f.opts.Rooms.GoneEvents(f.Context(), tx, []storage.EventRef{ref})
		gone = all[ref]
		return err
	}))
	return gone
}

// TestPrecedenceOfWhatKeepsAndRemovesMessages purges messages for which all combinations of reasons hold. What stays on
// disk follows the precedence, and what readers see depends on the times, and on what was removed, only.
func TestPrecedenceOfWhatKeepsAndRemovesMessages(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		f := newFixture(t, db, rooms.Retention{Redacted: 2 * time.Hour})
		eve := f.user("@eve:here")
		var all []*told
		for _, c := range fateCases() {
			sender := f.alice
			if c.erased {
				sender = eve
			}
			all = append(all, f.tell(c, sender))
		}
		f.now = f.now.Add(9 * time.Hour)
		for _, m := range all {
			f.redact(m, originalKept)
			r, err := f.opts.Rooms.Room(t.Context(), m.room)
			f.ok(err)
			longest, shortest := 50*time.Hour, 20*time.Hour
			policy := expiry.Policy{Max: &longest}
			if m.withinMin {
				policy.Min = &shortest
			}
			f.ok(f.opts.Rooms.SetRetentionOverride(t.Context(), m.room, &policy))
			if m.held {
				f.holdRoom(r.NID())
			}
			if m.removed {
				f.ok(f.opts.Rooms.RemoveMessages(t.Context(), r, m.sender.UserNID, []storage.Pos{m.pos}, func(*storage.Tx, int) error { return nil }))
			}
		}
		f.ok(f.opts.Rooms.Erase(t.Context(), eve.UserNID))
		f.now = f.now.Add(time.Hour)
		for round := range 2 {
			_, err := f.Purge(t.Context(), true)
			f.ok(err)
			for _, m := range all {
				if got := f.onDisk(m); got != m.stays() {
					t.Errorf("round %d: %v: on disk is %v", round, m.fateCase, got)
				}
				if got, want := f.gone(m), m.removed || m.expired && !m.withinMin; got != want {
					t.Errorf("round %d: %v: gone is %v, want %v", round, m.fateCase, got, want)
				}
			}
		}
	})
}
