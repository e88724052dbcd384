package redactions

import (
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// messages sends n messages to the room.
func (h *house) messages(who ident.Requester, n int) (sent []id.EventID) {
	h.t.Helper()
	for i := range n {
		sent = append(sent, h.send(who, "m.room.message", fmt.Sprintf(`{"msgtype":"m.text","body":"note %d"}`, i)))
	}
	return sent
}

func (h *house) redactOwn(o Own) storage.Pos {
	h.t.Helper()
	request, err := h.redactions.RedactOwn(h.t.Context(), o)
	h.ok(err)
	return request
}

// stepOwn does one step, and returns how many messages it has redacted and whether there may be more to do.
func (h *house) stepOwn() (int, bool) {
	h.t.Helper()
	n, more, err := h.redactions.StepOwn(h.t.Context())
	h.ok(err)
	return n, more
}

// finish does all steps.
func (h *house) finish() {
	h.t.Helper()
	for range 1000 {
		if _, more := h.stepOwn(); !more {
			return
		}
	}
	h.t.Fatal("the requests are not finished after 1000 steps")
}

func (h *house) request(user ident.Requester) storage.OwnRedaction {
	h.t.Helper()
	list, err := h.redactions.OwnRequests(h.t.Context(), user.UserNID)
	h.ok(err)
	if len(list) == 0 {
		h.t.Fatal("there is no request")
	}
	return list[0]
}

// removed counts the events of a room that no client sees any more, and whose content is not stored.
func (h *house) removed(events []id.EventID) (n int) {
	h.t.Helper()
	room, err := h.rooms.Room(h.t.Context(), h.room)
	h.ok(err)
	for _, e := range events {
		found, err := room.FindEvent(h.t.Context(), e)
		h.ok(err)
		if found.Hidden() && found.Flags&storage.SkeletonEvent != 0 && string(found.Content()) == "{}" {
			n++
		}
	}
	return n
}

func TestAllMessagesOfAUserAreRedactedAcrossARestart(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h := newHouse(t, db)
		first, others := h.messages(h.bob, 60), h.messages(h.alice, 5)
		second := h.messages(h.bob, 30)
		reactions := h.relate(h.bob, 3, "m.reference")
		main := h.room
		elsewhere, err := h.rooms.Create(t.Context(), h.bob, rooms.CreateRoom{Preset: "public_chat", Name: "elsewhere"})
		h.ok(err)
		h.room = elsewhere
		more := h.messages(h.bob, 7)
		h.redactOwn(Own{User: h.bob.UserNID, Reason: "moving out"})
		late := h.messages(h.bob, 1)
		h.room = main

		for n := 0; n == 0; n, _ = h.stepOwn() {
		}
		mine := append(append(append(first, second...), reactions...), h.target)
		if got := h.redacted(mine); got != rooms.MaxOwnRedactions {
			t.Fatalf("after the first step %d messages are redacted", got)
		}
		if r := h.request(h.bob); r.Redacted != rooms.MaxOwnRedactions || r.Expected != int64(len(mine)+len(more)) || !r.Counted || r.FinishedTS != 0 {
			t.Errorf("the progress is %+v", r.OwnProgress)
		}
		h.start()
		h.finish()
		if got := h.redacted(mine); got != len(mine) || h.redacted(others) != 0 {
			t.Errorf("redacted are %d of %d, and %d of another user", got, len(mine), h.redacted(others))
		}
		h.room = elsewhere
		if h.redacted(more) != len(more) || h.redacted(late) != 0 {
			t.Errorf("in another room %d of %d, and %d later ones", h.redacted(more), len(more), h.redacted(late))
		}
		r := h.request(h.bob)
		if r.Redacted != r.Expected || r.Removed != 0 || r.FinishedTS == 0 {
			t.Errorf("at the end the progress is %+v", r.OwnProgress)
		}
		room, err := h.rooms.Room(t.Context(), elsewhere)
		h.ok(err)
		if e := room.State("m.room.name", ""); e.RedactedBy != 0 || e.ContentString("name") != "elsewhere" {
			t.Error("a state event was redacted")
		}
	})
}

func TestARedactionOfOwnMessagesHasTheReason(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	h.redactOwn(Own{User: h.bob.UserNID, Reason: "moving out"})
	h.finish()
	room, err := h.rooms.Room(t.Context(), h.room)
	h.ok(err)
	target, err := room.FindEvent(t.Context(), h.target)
	h.ok(err)
	h.ok(h.db.Read(t.Context(), func(tx *storage.Tx) error {
		all, err := room.EventsAt(tx, []storage.Pos{target.RedactedBy})
		by := all[target.RedactedBy]
		if by == nil || by.ContentString("reason") != "moving out" || by.Sender() != h.bob.UserID || by.Redacts() != h.target {
			t.Errorf("the redaction is %v", by)
		}
		return err
	}))
}

// Where a user cannot send redactions any more, the messages are removed from the server.
func TestMessagesThatTheirUserCannotRedactAreRemovedFromTheServer(t *testing.T) {
	for name, change := range map[string]func(*house){
		"left":   func(h *house) { h.ok(h.rooms.Leave(h.t.Context(), h.bob, h.room, "")) },
		"banned": func(h *house) { h.ok(h.rooms.Ban(h.t.Context(), h.alice, h.room, h.bob.UserID, "")) },
		"forgotten": func(h *house) {
			h.ok(h.rooms.Leave(h.t.Context(), h.bob, h.room, ""))
			h.ok(h.rooms.Forget(h.t.Context(), h.bob, h.room))
		},
		"silenced": func(h *house) {
			key := ""
			_, err := h.rooms.Send(h.t.Context(), rooms.NewEvent{Room: h.room, Sender: h.alice, Type: "m.room.power_levels", StateKey: &key, Content: []byte(`{"events_default":50}`)})
			h.ok(err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, storagetest.Open(t, storage.Config{}))
			mine, others := append(h.messages(h.bob, 60), h.target), h.messages(h.alice, 3)
			change(h)
			h.redactOwn(Own{User: h.bob.UserNID})
			h.finish()
			if got := h.removed(mine); got != len(mine) || h.redacted(mine) != 0 || h.removed(others) != 0 {
				t.Errorf("removed are %d of %d, redacted %d; of others %d", got, len(mine), h.redacted(mine), h.removed(others))
			}
			if r := h.request(h.bob); r.Removed != int64(len(mine)) || r.Redacted != 0 || r.FinishedTS == 0 {
				t.Errorf("the progress is %+v", r.OwnProgress)
			}
			h.send(h.alice, "m.room.message", `{"msgtype":"m.text","body":"the room goes on"}`)
		})
	}
}

// A legal hold keeps the content of messages that would be removed, but nobody sees them.
func TestMessagesUnderALegalHoldAreHiddenInsteadOfRemoved(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h := newHouse(t, db)
		mine := h.messages(h.bob, 3)
		h.ok(db.Write(t.Context(), func(tx *storage.Tx) error {
			_, err := tx.AddLegalHold(storage.LegalHold{User: h.bob.UserNID, Reason: "case 7"})
			return err
		}))
		h.start() // reads the hold
		h.ok(h.rooms.Leave(t.Context(), h.bob, h.room, ""))
		h.redactOwn(Own{User: h.bob.UserNID})
		h.finish()
		room, err := h.rooms.Room(t.Context(), h.room)
		h.ok(err)
		for _, e := range mine {
			found, err := room.FindEvent(t.Context(), e)
			h.ok(err)
			if !found.Hidden() || found.Flags&storage.KeptEvent == 0 || string(found.Content()) == "{}" {
				t.Errorf("%s: hidden: %v, content %s", e, found.Hidden(), found.Content())
			}
		}
	})
}

func TestOnlyMessagesFromBeforeATimeAndInARoomAreRedacted(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	old := h.messages(h.bob, 3)
	h.clock = h.clock.Add(time.Hour)
	before := h.clock
	recent := h.messages(h.bob, 3)
	main := h.room
	elsewhere, err := h.rooms.Create(t.Context(), h.bob, rooms.CreateRoom{Preset: "public_chat"})
	h.ok(err)
	h.room = elsewhere
	other := h.messages(h.bob, 2)
	h.room = main
	room, err := h.rooms.Room(t.Context(), main)
	h.ok(err)

	h.redactOwn(Own{User: h.bob.UserNID, Before: before})
	h.finish()
	if h.redacted(old) != len(old) || h.redacted(recent) != 0 {
		t.Errorf("redacted are %d of %d old ones, and %d recent ones", h.redacted(old), len(old), h.redacted(recent))
	}
	h.redactOwn(Own{User: h.bob.UserNID, Room: room.NID()})
	h.finish()
	if h.redacted(recent) != len(recent) {
		t.Errorf("then %d of %d recent ones", h.redacted(recent), len(recent))
	}
	h.room = elsewhere
	if h.redacted(other) != 0 {
		t.Errorf("%d messages in another room are redacted", h.redacted(other))
	}
}

// A later request need not examine again what an earlier one has done.
func TestALaterRequestContinuesWhereTheTimelineIsDone(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	h.redactions = New(Options{DB: h.db, Rooms: h.rooms, Window: 10, Now: func() time.Time { return h.clock }})
	h.messages(h.bob, 25)
	h.clock = h.clock.Add(time.Hour)
	before := h.clock
	recent := h.messages(h.bob, 25)
	room, err := h.rooms.Room(t.Context(), h.room)
	h.ok(err)
	mark := func() (m ident.Order) {
		h.ok(h.db.Read(t.Context(), func(tx *storage.Tx) (err error) {
			m, _, err = tx.OwnMark(h.bob.UserNID, room.NID())
			return err
		}))
		return m
	}
	orderOf := func(e id.EventID) ident.Order {
		found, err := room.FindEvent(t.Context(), e)
		h.ok(err)
		return found.Order
	}
	h.redactOwn(Own{User: h.bob.UserNID, Before: before})
	h.finish()
	if m := mark(); m >= orderOf(recent[0]) || m < orderOf(recent[0])-20<<16 {
		t.Errorf("the mark is %d, the first recent message at %d", m, orderOf(recent[0]))
	}
	h.redactOwn(Own{User: h.bob.UserNID})
	h.finish()
	if m := mark(); h.redacted(recent) != len(recent) || m < orderOf(recent[24]) {
		t.Errorf("redacted are %d of %d; the mark is %d, the last message at %d", h.redacted(recent), len(recent), m, orderOf(recent[24]))
	}
}

func TestRequestsTakeTurnsAndThoseOfLockedAccountsWait(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	h.messages(h.alice, 110)
	h.messages(h.bob, 110)
	h.redactOwn(Own{User: h.alice.UserNID})
	h.redactOwn(Own{User: h.bob.UserNID})
	for h.request(h.alice).Redacted < 100 || h.request(h.bob).Redacted < 50 {
		h.stepOwn()
		if a, b := h.request(h.alice).Redacted, h.request(h.bob).Redacted; a > b+rooms.MaxOwnRedactions || b > a+rooms.MaxOwnRedactions {
			t.Fatalf("redacted are %d of one and %d of the other user", a, b)
		}
	}
	h.ok(h.db.Write(t.Context(), func(tx *storage.Tx) error { return tx.SetLocked(h.bob.UserNID, true) }))
	before := h.request(h.bob).Redacted
	h.finish()
	if a, b := h.request(h.alice), h.request(h.bob); a.FinishedTS == 0 || b.Redacted != before {
		t.Errorf("alice's request: %+v; the one of the locked account: %+v", a.OwnProgress, b.OwnProgress)
	}
	h.ok(h.db.Write(t.Context(), func(tx *storage.Tx) error { return tx.SetLocked(h.bob.UserNID, false) }))
	h.finish()
	if b := h.request(h.bob); b.FinishedTS == 0 || b.Redacted != b.Expected {
		t.Errorf("after the lock: %+v", b.OwnProgress)
	}
}

func TestRequestsAreBoundedAndCanBeCancelled(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	mine := h.messages(h.bob, 5)
	for range maxOwnRequests {
		h.redactOwn(Own{User: h.bob.UserNID})
	}
	if _, err := h.redactions.RedactOwn(t.Context(), Own{User: h.bob.UserNID}); mxerr.Code(err) != mxerr.CodeLimitExceeded {
		t.Errorf("one more request: %v", err)
	}
	if _, err := h.redactions.RedactOwn(t.Context(), Own{User: h.alice.UserNID, Reason: string(make([]byte, maxReason+1))}); mxerr.Code(err) != mxerr.CodeInvalidParam {
		t.Errorf("a long reason: %v", err)
	}
	if n, err := h.redactions.CancelOwn(t.Context(), h.bob.UserNID); n != maxOwnRequests || err != nil {
		t.Errorf("cancelled: %d, %v", n, err)
	}
	h.finish()
	if n := h.redacted(mine); n != 0 {
		t.Errorf("%d messages are redacted after the request was cancelled", n)
	}
}

func TestFinishedRequestsAreForgotten(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	h.redactOwn(Own{User: h.bob.UserNID})
	h.finish()
	h.clock = h.clock.Add(keepOwn - time.Second)
	h.ok(h.redactions.pruneOwn(t.Context()))
	h.request(h.bob)
	h.clock = h.clock.Add(2 * time.Second)
	h.ok(h.redactions.pruneOwn(t.Context()))
	if list, err := h.redactions.OwnRequests(t.Context(), h.bob.UserNID); len(list) != 0 || err != nil {
		t.Errorf("listed are %v, %v", list, err)
	}
}

// A request of an erasure covers messages that arrive after it, and state about the user, whatever earlier requests
// have redacted. Nobody can cancel it, and a lock on the account does not delay it.
func TestARequestOfAnErasureCoversEverythingOfTheUser(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h := newHouse(t, db)
		h.ok(h.rooms.ProfileChanged(t.Context(), h.bob, rooms.Profile{DisplayName: "Bob"}))
		key, topic := string(h.bob.UserID), ""
		state := func(who ident.Requester, typ string, key *string, content string) id.EventID {
			sent, err := h.rooms.Send(t.Context(), rooms.NewEvent{Room: h.room, Sender: who, Type: typ, StateKey: key, Content: []byte(content)})
			h.ok(err)
			return sent
		}
		state(h.alice, "m.room.power_levels", &topic, `{"users":{"@bob:here":50},"state_default":0}`)
		mine := append(h.messages(h.bob, 60), h.target, state(h.bob, "org.example.status", &key, `{"status":"here"}`))
		others := append(h.messages(h.alice, 3), state(h.bob, "m.room.topic", &topic, `{"topic":"flowers"}`))
		h.redactOwn(Own{User: h.bob.UserNID})
		h.finish()
		h.redactOwn(Own{User: h.bob.UserNID})
		h.ok(db.Write(t.Context(), func(tx *storage.Tx) error {
			h.ok(h.redactions.RedactEverything(tx, h.bob.UserNID))
			_, err := tx.Deactivate(h.bob.UserNID, storage.NotErased)
			h.ok(err)
			return tx.SetLocked(h.bob.UserNID, true)
		}))
		if n, err := h.redactions.CancelOwn(t.Context(), h.bob.UserNID); n != 0 || err != nil {
			t.Errorf("%d requests were cancelled, %v", n, err)
		}
		mine = append(mine, h.messages(h.bob, 2)...)
		h.start()
		h.finish()
		if got := h.redacted(mine); got != len(mine) || h.redacted(others) != 0 {
			t.Errorf("redacted are %d of %d, and %d of what stays", got, len(mine), h.redacted(others))
		}
		if r := h.request(h.bob); r.FinishedTS == 0 || r.Redacted != r.Expected || !r.Everything {
			t.Errorf("at the end: %+v", r)
		}
		room, err := h.rooms.Room(t.Context(), h.room)
		h.ok(err)
		for _, opened := range []bool{false, true} {
			if opened {
				h.start()
				room, err = h.rooms.Room(t.Context(), h.room)
				h.ok(err)
			}
			h.ok(db.Read(t.Context(), func(tx *storage.Tx) error {
				at := room.MemberOf(h.bob.UserID).Pos
				stored, err := room.EventsAt(tx, []storage.Pos{at})
				if err == nil && string(stored[at].Content()) != `{"membership":"join"}` {
					t.Errorf("the member event is %s", stored[at].Content())
				}
				return err
			}))
		}
	})
}
