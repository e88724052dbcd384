package rooms

import (
	"encoding/json"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/pdu"
	"ebb/storage"
)

// Messages that were never shown are no exception from the time for which the room keeps messages.
func TestPurgeRemovesSoftFailedMessages(t *testing.T) {
	s := besieged(t, id.RoomV11)
	head, auth := s.ends(), s.authBefore("")
	s.ok(s.svc.Ban(t.Context(), s.alice, s.room, s.mallory, ""))
	e := s.evil.make(s.room, pdu.Proto{Type: "m.room.message", Sender: s.mallory, PrevEvents: head, AuthEvents: auth, Content: json.RawMessage(`{"body":"soft"}`)})
	s.ok(s.send1(e))
	if got := s.stored(s.room, e.ID()); got == nil || got.Flags&storage.SoftFailedEvent == 0 {
		t.Fatalf("the event is stored as %+v, want it soft-failed", got)
	}
	s.keep(s.room, time.Minute)
	s.now = s.now.Add(time.Hour)
	s.purge(s.room)
	if got := s.stored(s.room, e.ID()); got != nil {
		t.Errorf("the purge left %+v", got)
	}
	s.whole()
}

func TestPurgeRemovesRejectedAndUndecidedMessages(t *testing.T) {
	l := withoutKey(t, id.RoomV11)
	undecided := l.dead.say(l.carol, l.room, "nobody can tell")
	l.n.deliver()
	l.good.say(l.alice, l.room, "follows it")
	l.n.deliver()
	if got := l.stored(l.room, undecided); got == nil || !got.Undecided() || got.Order != 0 {
		t.Fatalf("the event is stored as %+v, want it undecided", got)
	}
	l.keep(l.room, time.Minute)
	l.purge(l.room)
	if l.stored(l.room, undecided) == nil {
		t.Error("the purge removed a message that has not expired")
	}
	l.now = l.now.Add(time.Hour)
	l.purge(l.room)
	if got := l.stored(l.room, undecided); got != nil {
		t.Errorf("the purge left %+v", got)
	}
	l.say(l.bob, l.room, "later")
	l.matchesDisk(l.room)
}
