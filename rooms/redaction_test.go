package rooms

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/mxerr"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// redact builds a redaction by a user of the stranger.
func (s *siege) redact(target id.EventID, prev ...id.EventID) *pdu.Event {
	s.Helper()
	return s.evil.make(s.room, pdu.Proto{
		Type: typeRedaction, Sender: s.mallory, Redacts: target, PrevEvents: prev, Content: json.RawMessage(`{"reason":"because"}`),
	})
}

// shows reports whether alice's clients get an event, and checks that all ways of reading agree.
func (s *siege) shows(eventID id.EventID) bool {
	s.Helper()
	_, err := s.reads().GetEvent(s.Context(), s.room, eventID, s.alice)
	if err != nil && mxerr.Code(err) != mxerr.CodeNotFound {
		s.Fatal(err)
	}
	shown := err == nil
	chunk, _, err := s.reads().Messages(s.Context(), s.room, s.alice, "", 1000)
	s.ok(err)
	var listed int
	for _, raw := range chunk {
		if strings.Contains(string(raw), `"event_id":"`+string(eventID)+`"`) && !strings.Contains(string(raw), `"redacted_because"`) {
			listed++
		}
	}
	if inRing := slices.Contains(s.ring(s.room), eventID); (listed == 1) != shown || inRing != shown || listed > 1 {
		s.Fatalf("%s is shown: %t, %d times in /messages, %t to /sync", eventID, shown, listed, inRing)
	}
	return shown
}

// reopen restarts the server of the siege.
func (s *siege) reopen() { s.svc = s.open() }

var redactionVersions = []id.RoomVersion{id.RoomV1, id.RoomV3, id.RoomV10, id.RoomV11, id.RoomV12}

func TestRedactionWithoutPowerReachesNoClient(t *testing.T) {
	for _, v := range redactionVersions {
		s := besieged(t, v)
		s.svc.opts.Push = outcomes{s.alice.UserNID}
		mine := s.say(s.alice, s.room, "by alice")
		create := s.room0().ID()
		for _, target := range []id.EventID{mine, create, "", id.EventID("$" + strings.Repeat("A", 43))} {
			redaction := s.redact(target)
			s.evil.send(s.room, redaction)
			if s.shows(redaction.ID()) {
				t.Errorf("version %s: an invalid redaction of %q is shown to clients", v, target)
			}
		}
		if got := s.stored(s.room, mine); got.RedactedBy != 0 || !strings.Contains(string(got.JSON()), "by alice") {
			t.Errorf("version %s: a redaction by mallory took effect on %s", v, got.JSON())
		}
		if notify, highlight, err := s.reads().Unread(t.Context(), s.house.room(s.room).NID(), s.alice); err == nil && notify+highlight != 0 {
			t.Errorf("version %s: invalid redactions count as %d notifications and %d highlights", v, notify, highlight)
		}
		ends := s.ends()
		s.whole()
		s.reopen()
		for _, end := range ends {
			if e := s.stored(s.room, end); e.Type() == typeRedaction && s.shows(end) {
				t.Errorf("version %s: after a restart the invalid redaction %s is shown to clients", v, end)
			}
		}
	}
}

// room0 returns the room's create event.
func (s *siege) room0() *Event { return s.house.room(s.room).State(typeCreate, "") }

func TestRedactionIsWithheldUntilItsTargetArrives(t *testing.T) {
	for _, v := range redactionVersions {
		for _, together := range []bool{false, true} {
			s := besieged(t, v)
			head := s.ends()
			target := s.evil.say(s.room, s.mallory, "secret", head...)
			first, second := s.redact(target.ID(), head...), s.redact(target.ID())
			if together {
				s.evil.sendGood(s.room, first, second, target)
			} else {
				s.evil.sendGood(s.room, first)
				s.evil.sendGood(s.room, second)
				if s.shows(first.ID()) || s.shows(second.ID()) {
					t.Errorf("version %s: a redaction of an event that is not stored is shown to clients", v)
				}
				s.say(s.alice, s.room, "meanwhile")
				s.reopen()
				s.evil.sendGood(s.room, target)
			}
			got := s.stored(s.room, target.ID())
			if strings.Contains(string(got.JSON()), "secret") || got.RedactedBy != s.stored(s.room, first.ID()).Pos {
				t.Errorf("version %s: the target is stored as %s, redacted by the event at %d; want it redacted by the first redaction", v, got.JSON(), got.RedactedBy)
			}
			for _, redaction := range []*pdu.Event{first, second} {
				if !s.shows(redaction.ID()) || s.stored(s.room, redaction.ID()).Pos <= got.Pos {
					t.Errorf("version %s: the redaction does not arrive as a new event after its target", v)
				}
			}
			s.whole()
			s.say(s.alice, s.room, "and on")
			s.whole()
		}
	}
}

// A redaction that is a forward extremity remains one when it arrives again.
func TestRedactionThatIsShownLateStaysAForwardExtremity(t *testing.T) {
	s := besieged(t, id.RoomV11)
	head := s.ends()
	target := s.evil.say(s.room, s.mallory, "secret", head...)
	redaction := s.redact(target.ID(), head...)
	s.evil.sendGood(s.room, redaction)
	s.evil.sendGood(s.room, target)
	if ends := s.ends(); !slices.Contains(ends, redaction.ID()) || !slices.Contains(ends, target.ID()) || len(ends) != 2 {
		t.Errorf("the forward extremities are %v, want the redaction and its target", ends)
	}
	s.matchesDisk(s.room)
	s.reopen()
	s.evil.sendGood(s.room, s.evil.say(s.room, s.mallory, "on both"))
	s.whole()
}

func TestRedactionByAnotherServerStaysWithheldWhenItsTargetArrives(t *testing.T) {
	s := besieged(t, id.RoomV11)
	other := s.n.stranger("other", s.peer)
	eve := other.user("eve")
	other.join(s.room, eve)
	head := s.ends()
	target := s.evil.say(s.room, s.mallory, "mine", head...)
	redaction := other.make(s.room, pdu.Proto{Type: typeRedaction, Sender: eve, Redacts: target.ID(), PrevEvents: head})
	other.sendGood(s.room, redaction)
	s.evil.sendGood(s.room, target)
	if got := s.stored(s.room, target.ID()); got.RedactedBy != 0 || !s.shows(target.ID()) || s.shows(redaction.ID()) {
		t.Errorf("the target is redacted by %d, the redaction shown: %t", got.RedactedBy, s.shows(redaction.ID()))
	}
	s.whole()
}

func TestInvalidRedactionsDoNotBlockAValidOne(t *testing.T) {
	s := besieged(t, id.RoomV11)
	other := s.n.stranger("other", s.peer)
	eve := other.user("eve")
	other.join(s.room, eve)
	target := s.evil.say(s.room, s.mallory, "secret")
	for range 25 {
		other.sendGood(s.room, other.make(s.room, pdu.Proto{Type: typeRedaction, Sender: eve, Redacts: target.ID()}))
	}
	s.evil.sendGood(s.room, s.redact(target.ID()))
	s.evil.sendGood(s.room, target)
	if s.stored(s.room, target.ID()).RedactedBy == 0 {
		t.Error("the redaction by the author did not take effect among the invalid ones")
	}
	s.whole()
}

// The power to redact is determined by the state before the redaction.
func TestRedactionStaysValidWhenItsSenderLosesPower(t *testing.T) {
	s := besieged(t, id.RoomV11)
	mine := s.say(s.alice, s.room, "spam")
	s.set(s.alice, s.room, typePowerLevels, "", `{"users":{"@alice:here":100,"@mallory:evil":50}}`)
	redaction := s.redact(mine)
	s.set(s.alice, s.room, typePowerLevels, "", `{"users":{"@alice:here":100}}`)
	tooLate := s.redact(mine)
	s.evil.sendGood(s.room, tooLate)
	if s.stored(s.room, mine).RedactedBy != 0 || s.shows(tooLate.ID()) {
		t.Error("a redaction takes effect although its sender had lost the power before")
	}
	s.evil.sendGood(s.room, redaction)
	if s.stored(s.room, mine).RedactedBy == 0 || !s.shows(redaction.ID()) {
		t.Error("a redaction does not take effect although its sender had the power")
	}
	s.whole()
}

func TestRedactionOfAPurgedEventIsJudgedByItsSender(t *testing.T) {
	s := besieged(t, id.RoomV11)
	other := s.n.stranger("other", s.peer)
	eve := other.user("eve")
	other.join(s.room, eve)
	theirs := s.evil.say(s.room, s.mallory, "short-lived")
	s.evil.sendGood(s.room, theirs)
	mine := s.say(s.alice, s.room, "short-lived too")
	s.keep(s.room, time.Hour)
	s.now = s.now.Add(2 * time.Hour)
	s.say(s.alice, s.room, "newer")
	if s.purge(s.room); s.stored(s.room, theirs.ID()) != nil || s.stored(s.room, mine) != nil {
		t.Fatal("the events are not purged: the test proves nothing")
	}
	elsewhere := s.create(s.alice, CreateRoom{Preset: "public_chat", RoomVersion: id.RoomV11})
	other.join(elsewhere, eve)
	redact := func(from *stranger, user id.UserID, target id.EventID) id.EventID {
		e := from.make(s.room, pdu.Proto{Type: typeRedaction, Sender: user, Redacts: target})
		from.sendGood(s.room, e)
		return e.ID()
	}
	if !s.shows(redact(s.evil, s.mallory, theirs.ID())) {
		t.Error("the redaction of a purged event by its author is withheld")
	}
	if s.shows(redact(other, eve, theirs.ID())) || s.shows(redact(s.evil, s.mallory, mine)) {
		t.Error("a redaction of a purged event by another user is shown")
	}
	for _, target := range []id.EventID{theirs.ID(), mine} { // alice has the power to redact both
		e, err := s.svc.Redact(t.Context(), s.alice, s.room, target, "", nil)
		s.ok(err)
		if !s.shows(e) {
			t.Errorf("the redaction of the purged %s by a moderator is withheld", target)
		}
	}
	if _, err := s.svc.Redact(t.Context(), s.alice, elsewhere, mine, "", nil); err == nil {
		if e := s.timeline(elsewhere); e[len(e)-1].Type() == typeRedaction && !e[len(e)-1].Hidden() {
			t.Error("an event of this room redacts one that was purged in another room")
		}
	}
	bob := s.user("bob")
	s.ok(s.svc.Join(t.Context(), bob, s.room, ""))
	_, err := s.svc.Redact(t.Context(), bob, s.room, mine, "", nil)
	s.refused(err, mxerr.CodeForbidden)
	s.now = time.Now().Add(rememberPurged + time.Hour) // the timestamps of rows come from the clock of the database
	s.ok(s.svc.ForgetPurged(t.Context()))
	if s.shows(redact(s.evil, s.mallory, theirs.ID())) {
		t.Error("the sender of a purged event is still stored after the time for which it should be")
	}
	s.whole()
}

// The newest message of a room remains as a skeleton when it is purged.
func TestRedactionOfASkeletonIsJudgedByItsSender(t *testing.T) {
	s := besieged(t, id.RoomV11)
	bob := s.user("bob")
	s.ok(s.svc.Join(t.Context(), bob, s.room, ""))
	mine := s.say(s.alice, s.room, "short-lived")
	s.keep(s.room, time.Hour)
	s.now = s.now.Add(2 * time.Hour)
	if s.purge(s.room); s.stored(s.room, mine).Flags&storage.SkeletonEvent == 0 {
		t.Fatal("the purged event is not a skeleton: the test proves nothing")
	}
	theirs := s.redact(mine)
	s.evil.sendGood(s.room, theirs)
	_, err := s.svc.Redact(t.Context(), bob, s.room, mine, "", nil)
	s.refused(err, mxerr.CodeForbidden)
	own, err := s.svc.Redact(t.Context(), s.alice, s.room, mine, "", nil)
	s.ok(err)
	if s.shows(theirs.ID()) || !s.shows(own) {
		t.Error("the redaction of a skeleton by its author is withheld, or one by another user is shown")
	}
	s.whole()
}

// A user who reads back finds the redaction first and its target later.
func TestRedactionIsShownInOrderWhenItsTargetIsBackfilled(t *testing.T) {
	n := newNetwork(t)
	n.page = 1
	a, b := n.add("a"), n.add("b")
	alice, bob := a.user("alice"), b.user("bob")
	room := a.create(alice, CreateRoom{Preset: "public_chat"})
	target := a.say(alice, room, "secret")
	redaction, err := a.svc.Redact(t.Context(), alice, room, target, "", nil)
	a.ok(err)
	b.joinVia(bob, room, "a")
	b.say(bob, room, "hello")
	var found []string
	for from, pages := "", 0; pages < 20; pages++ {
		chunk, end, err := b.reads().Messages(t.Context(), room, bob, from, 1)
		b.ok(err)
		for _, raw := range chunk {
			found = append(found, string(raw))
		}
		if from = end; from == "" {
			break
		}
	}
	all := strings.Join(found, "\n")
	if strings.Contains(all, "secret") || !strings.Contains(all, `"redacted_because"`) {
		t.Errorf("bob gets %s, want the redacted event with redacted_because", all)
	}
	for _, eventID := range []id.EventID{target, redaction} {
		if e := b.stored(room, eventID); e == nil || e.Hidden() {
			t.Errorf("%s is not in bob's timeline: %v", eventID, e)
		}
	}
	b.matchesDisk(room)
}

// Some clients treat any event of this type as a redaction.
func TestStateEventRedactsNothing(t *testing.T) {
	for _, v := range redactionVersions {
		s := besieged(t, v)
		levels := `{"users":{"@alice:here":100},"state_default":0}`
		if v == id.RoomV12 { // in this version the creator has no power level in the event
			levels = `{"state_default":0}`
		}
		s.set(s.alice, s.room, typePowerLevels, "", levels)
		mine := s.say(s.alice, s.room, "by alice")
		key := ""
		e := s.evil.make(s.room, pdu.Proto{Type: typeRedaction, StateKey: &key, Sender: s.mallory, Redacts: mine, Content: json.RawMessage(`{"redacts":"` + string(mine) + `"}`)})
		s.evil.send(s.room, e)
		if v == id.RoomV1 { // in this version redactions have an authorisation rule
			continue
		}
		form, err := s.reads().GetEvent(t.Context(), s.room, e.ID(), s.alice)
		s.ok(err)
		if strings.Contains(string(form), string(mine)) {
			t.Errorf("version %s: clients get %s; a state event must not seem to redact anything", v, form)
		}
	}
}

func TestMessagesWithTimesBeforeTheEpochKeepTheirContent(t *testing.T) {
	for _, v := range redactionVersions {
		s := besieged(t, v)
		for _, ts := range []int64{-1, -1 << 53 >> 1, 1, 1<<53 - 1} {
			e := s.evil.make(s.room, pdu.Proto{Type: "m.room.message", Sender: s.mallory, Content: json.RawMessage(`{"body":"at an odd time"}`), OriginServerTS: ts})
			s.evil.sendGood(s.room, e)
			if got := s.stored(s.room, e.ID()); !strings.Contains(string(got.JSON()), "at an odd time") || !s.shows(e.ID()) {
				t.Errorf("version %s, time %d: the event is stored as %s, want it with its content", v, ts, got.JSON())
			}
		}
		s.whole()
	}
}

func TestWithheldRedactionExpires(t *testing.T) {
	s := besieged(t, id.RoomV11)
	head := s.ends()
	target := s.evil.say(s.room, s.mallory, "secret", head...)
	redaction := s.redact(target.ID(), head...)
	s.evil.sendGood(s.room, redaction)
	s.evil.sendGood(s.room, target)
	s.keep(s.room, time.Hour)
	s.now = s.now.Add(2 * time.Hour)
	s.say(s.alice, s.room, "newer")
	s.purge(s.room)
	s.ok(s.db.Read(t.Context(), func(tx *storage.Tx) error {
		rows, err := tx.EventsByID(s.house.room(s.room).NID(), []string{string(redaction.ID())})
		if len(rows) != 0 {
			t.Errorf("the database still has %d rows of the expired redaction", len(rows))
		}
		return err
	}))
	s.whole()
}
