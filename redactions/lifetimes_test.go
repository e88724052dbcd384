package redactions

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
	"ebb/storage/storagetest"
)

const day = 24 * time.Hour

func (h *house) setLifetime(who ident.Requester, room id.RoomID, d time.Duration) {
	h.t.Helper()
	h.ok(h.redactions.SetLifetime(h.t.Context(), who.UserNID, room, d))
}

func (h *house) dropLifetime(who ident.Requester, room id.RoomID) bool {
	h.t.Helper()
	found, err := h.redactions.DropLifetime(h.t.Context(), who.UserNID, room)
	h.ok(err)
	return found
}

// expectRedacted fails the test unless the given number of messages is redacted.
func (h *house) expectRedacted(what string, events []id.EventID, want int) {
	h.t.Helper()
	if got := h.redacted(events); got != want {
		h.t.Errorf("%s: %d of %d messages are redacted, want %d", what, got, len(events), want)
	}
}

func TestMessagesAreRedactedEveryDayOnceTheyReachTheirLifetime(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h := newHouse(t, db)
		old := append(h.messages(h.bob, 60), h.target)
		others := h.messages(h.alice, 3)
		h.clock = h.clock.Add(10 * day)
		recent := h.messages(h.bob, 3)
		h.setLifetime(h.bob, "", 2*day)
		h.finish()
		h.expectRedacted("at once", old, len(old))
		h.expectRedacted("young ones", recent, 0)
		h.clock = h.clock.Add(2 * day)
		h.start()
		h.finish()
		h.expectRedacted("exactly at their age", recent, 0)
		h.clock = h.clock.Add(day)
		h.finish()
		h.expectRedacted("a day later", recent, len(recent))
		h.expectRedacted("those of another user", others, 0)
		if r := h.request(h.bob); !r.Daily || r.Redacted != 3 || r.FinishedTS == 0 {
			t.Errorf("the last request is %+v", r)
		}
		h.clock = h.clock.Add(3 * day)
		h.finish()
		if r := h.request(h.bob); r.Redacted != 3 {
			t.Errorf("a request that finds nothing is listed: %+v", r)
		}
	})
}

func TestALifetimeIsCarriedOutOnceADay(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	h.clock = h.clock.Add(10 * day)
	h.setLifetime(h.bob, "", day)
	h.finish()
	late := h.messages(h.bob, 1)
	h.clock = h.clock.Add(day - time.Millisecond)
	h.finish()
	h.clock = h.clock.Add(time.Millisecond)
	h.finish()
	h.expectRedacted("at the age of a day", late, 0)
	h.clock = h.clock.Add(day - time.Millisecond)
	h.finish()
	h.expectRedacted("before the next day", late, 0)
	h.clock = h.clock.Add(time.Millisecond)
	h.finish()
	h.expectRedacted("on the next day", late, 1)
}

// history stores a copy of a message, with another ID, as history that was fetched from another server: directly below
// the message in the timeline, although it arrives now.
func (h *house) history(of id.EventID) id.EventID {
	h.t.Helper()
	room, err := h.rooms.Room(h.t.Context(), h.room)
	h.ok(err)
	e, err := room.FindEvent(h.t.Context(), of)
	h.ok(err)
	row := e.Row()
	row.EventID, row.RedactedBy, row.TxnID = fmt.Sprint("$history-of-", of), 0, ""
	h.ok(h.db.Write(h.t.Context(), func(tx *storage.Tx) error {
		row.Position, row.Order = tx.NextPos(), row.Order-1
		return tx.InsertEvent(&row)
	}))
	return id.EventID(row.EventID)
}

// A user's messages may arrive as history, for example after the server's database was restored from an older backup.
func TestMessagesThatArriveAsHistoryReachTheirLifetime(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h := newHouse(t, db)
		h.redactions = New(Options{DB: h.db, Rooms: h.rooms, Window: 2, Now: func() time.Time { return h.clock }})
		old := h.messages(h.bob, 60)
		h.clock = h.clock.Add(10 * day)
		h.setLifetime(h.bob, "", day)
		for redacted := 0; redacted == 0; {
			redacted, _ = h.stepOwn()
		}
		passed := []id.EventID{h.history(old[5]), h.history(old[3])} // the request that is under way has passed them
		h.finish()
		h.expectRedacted("those of the timeline", old, len(old))
		h.expectRedacted("those that arrived during the request", passed, 0)
		after := append(passed, h.history(old[20]))
		h.clock = h.clock.Add(day)
		h.finish()
		h.expectRedacted("a day later", after, len(after))
		last := []id.EventID{h.history(old[40])}
		h.clock = h.clock.Add(day)
		h.finish()
		h.expectRedacted("a day after that", last, 1)
		h.clock = h.clock.Add(day)
		h.finish()
		if r := h.request(h.bob); r.Redacted != 1 {
			t.Errorf("a request that finds nothing is listed: %+v", r)
		}
	})
}

// inAnotherRoom creates a second room, in which f is called.
func (h *house) inAnotherRoom(f func()) (second id.RoomID) {
	h.t.Helper()
	main := h.room
	var err error
	second, err = h.rooms.Create(h.t.Context(), h.bob, rooms.CreateRoom{Preset: "public_chat"})
	h.ok(err)
	h.room = second
	f()
	h.room = main
	return second
}

func TestALifetimeForARoomReplacesTheOneForAllRooms(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	here := h.messages(h.bob, 3)
	var there []id.EventID
	second := h.inAnotherRoom(func() { there = h.messages(h.bob, 2) })
	h.clock = h.clock.Add(10 * day)
	h.setLifetime(h.bob, h.room, 5*day)
	h.finish()
	h.expectRedacted("in the room", here, len(here))
	h.room, second = second, h.room
	h.expectRedacted("in a room without a lifetime", there, 0)
	h.setLifetime(h.bob, h.room, 20*day)
	h.setLifetime(h.bob, "", 5*day)
	h.finish()
	h.expectRedacted("in a room with a longer lifetime", there, 0)
	if !h.dropLifetime(h.bob, h.room) {
		t.Error("the lifetime of the room was not found")
	}
	h.finish()
	h.expectRedacted("after the room's lifetime was removed", there, len(there))
	h.room = second
}

// A user who changes their mind stops what is under way, and no redaction follows.
func TestWhoRemovesALifetimeLosesNoFurtherMessage(t *testing.T) {
	for name, stop := range map[string]func(*house){
		"removed":  func(h *house) { h.dropLifetime(h.bob, "") },
		"longer":   func(h *house) { h.setLifetime(h.bob, "", 30*day) },
		"the room": func(h *house) { h.setLifetime(h.bob, h.room, 30*day) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, storagetest.Open(t, storage.Config{}))
			mine := append([]id.EventID{h.target}, h.messages(h.bob, 2*rooms.MaxOwnRedactions)...)
			h.clock = h.clock.Add(10 * day)
			h.setLifetime(h.bob, "", day)
			for n := 0; n == 0; n, _ = h.stepOwn() {
			}
			h.expectRedacted("after a step", mine, rooms.MaxOwnRedactions)
			stop(h)
			h.clock = h.clock.Add(5 * day)
			h.finish()
			h.expectRedacted("after the end", mine, rooms.MaxOwnRedactions)
		})
	}
}

// The write that redacts messages finds that the request was cancelled after the messages were chosen.
func TestARequestThatIsCancelledDuringAStepRedactsNothing(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	mine := append(h.messages(h.bob, 3), h.target)
	h.redactOwn(Own{User: h.bob.UserNID})
	var row storage.OwnRedaction
	h.ok(h.db.Read(t.Context(), func(tx *storage.Tx) (err error) { row, _, err = tx.NextOwnRedaction(0); return err }))
	o := ownStep{s: h.redactions, row: &row, to: row.OwnProgress, before: row.Before}
	o.to.Counted = true
	h.ok(o.enter(t.Context()))
	w, err := o.look(t.Context())
	h.ok(err)
	if len(w.positions) != len(mine) {
		t.Fatalf("chosen are %d messages", len(w.positions))
	}
	_, err = h.redactions.CancelOwn(t.Context(), h.bob.UserNID)
	h.ok(err)
	if n, err := o.redact(t.Context(), &w); n != 0 || err != nil {
		t.Errorf("redacted: %d, %v", n, err)
	}
	h.expectRedacted("after it was cancelled", mine, 0)
	h.messages(h.bob, 1) // the room goes on
}

func TestLifetimesAreBounded(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	refused := func(why string, room id.RoomID, d time.Duration, code string) {
		t.Helper()
		if err := h.redactions.SetLifetime(t.Context(), h.bob.UserNID, room, d); mxerr.Code(err) != code {
			t.Errorf("%s: %v", why, err)
		}
	}
	refused("too short", "", minLifetime-1, mxerr.CodeInvalidParam)
	refused("too long", "", maxLifetime+1, mxerr.CodeInvalidParam)
	refused("negative", "", -1, mxerr.CodeInvalidParam)
	refused("an unknown room", "!none:here", day, mxerr.CodeForbidden)
	private, err := h.rooms.Create(t.Context(), h.alice, rooms.CreateRoom{Preset: "private_chat"})
	h.ok(err)
	refused("a room of others", private, day, mxerr.CodeForbidden)
	h.setLifetime(h.bob, "", maxLifetime)
	h.ok(h.db.Write(t.Context(), func(tx *storage.Tx) error {
		for n := range maxLifetimes - 1 {
			h.ok(tx.SetMessageLifetime(h.bob.UserNID, ident.RoomNID(1_000_000+n), day.Milliseconds()))
		}
		return nil
	}))
	refused("one more room", h.room, day, mxerr.CodeInvalidParam)
	h.setLifetime(h.bob, "", day)
	if l, err := h.redactions.Lifetimes(t.Context(), h.bob.UserNID); err != nil || l.All != day {
		t.Errorf("chosen are %+v, %v", l, err)
	}
	if h.dropLifetime(h.bob, "!none:here") || h.dropLifetime(h.alice, "") {
		t.Error("a lifetime was found that nobody has chosen")
	}
}

func TestLifetimesOfLockedAndClosedAccounts(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	mine := append(h.messages(h.bob, 2), h.target)
	h.clock = h.clock.Add(10 * day)
	h.ok(h.db.Write(t.Context(), func(tx *storage.Tx) error { return tx.SetLocked(h.bob.UserNID, true) }))
	h.setLifetime(h.bob, "", day)
	h.finish()
	h.expectRedacted("while the account is locked", mine, 0)
	h.ok(h.db.Write(t.Context(), func(tx *storage.Tx) error { return tx.SetLocked(h.bob.UserNID, false) }))
	h.finish()
	h.expectRedacted("after the lock", mine, len(mine))
	more := h.messages(h.bob, 2)
	h.clock = h.clock.Add(10 * day)
	h.ok(h.db.Write(t.Context(), func(tx *storage.Tx) error {
		_, err := tx.Deactivate(h.bob.UserNID, storage.NotErased)
		return err
	}))
	h.finish()
	h.expectRedacted("after the account was closed", more, 0)
}

// A jump of the clock must not redact messages that nobody would have redacted otherwise.
func TestMessagesReachTheirLifetimeByTheTimeOfThePurge(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	mine := append(h.messages(h.bob, 2), h.target)
	var by time.Time
	var failed error
	h.redactions = New(Options{
		DB: h.db, Rooms: h.rooms, Now: func() time.Time { return h.clock },
		Time: func(context.Context) (time.Time, error) { return by, failed },
	})
	h.setLifetime(h.bob, "", day)
	failed = errors.New("no time")
	if _, _, err := h.redactions.StepOwn(t.Context()); !errors.Is(err, failed) {
		t.Errorf("without a time: %v", err)
	}
	by, failed = h.clock, nil
	h.clock = h.clock.Add(365 * day)
	h.finish()
	h.expectRedacted("after a jump", mine, 0)
	by = h.clock
	h.clock = h.clock.Add(day)
	h.finish()
	h.expectRedacted("when the time is certain", mine, len(mine))
}

func TestALifetimeFollowsARoomToItsReplacement(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	h.setLifetime(h.bob, h.room, 3*day)
	upgraded, err := h.rooms.Upgrade(t.Context(), h.alice, h.room, "11", nil)
	h.ok(err)
	h.ok(h.rooms.Join(t.Context(), h.bob, upgraded, ""))
	if l, err := h.redactions.Lifetimes(t.Context(), h.bob.UserNID); err != nil || l.Rooms[upgraded] != 3*day || l.Rooms[h.room] != 3*day {
		t.Errorf("chosen are %+v, %v", l, err)
	}
}

func TestLifetimesOfMessagesAreAppliedAgainFromTheLedger(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	room, err := h.rooms.Room(t.Context(), h.room)
	h.ok(err)
	h.setLifetime(h.bob, "", 5*day)
	again := func(lifetime time.Duration, room string, want bool) {
		t.Helper()
		var done bool
		err := h.db.Write(t.Context(), func(tx *storage.Tx) (err error) {
			done, err = SetLifetimeAgain(tx, storage.LedgerEntry{Kind: storage.LedgerLifetime, Ref: int64(h.bob.UserNID), Value: lifetime.Milliseconds(), Name: room})
			return err
		})
		if done != want || (err != nil) != (room == "x") {
			t.Errorf("%v in %s: %v, %v", lifetime, room, done, err)
		}
	}
	again(2*day, strconv.FormatInt(int64(room.NID()), 10), true)
	again(0, "0", true)
	again(0, "0", false)
	again(3*day, "999999", false) // a room that is not in the backup
	again(3*day, "x", false)
	if l, err := h.redactions.Lifetimes(t.Context(), h.bob.UserNID); err != nil || l.All != 0 || len(l.Rooms) != 1 || l.Rooms[h.room] != 2*day {
		t.Errorf("chosen are %+v, %v", l, err)
	}
}
