package rooms

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/storage"
)

// original returns the original of an event.
func (h *house) original(eventID id.EventID) (o storage.Original, found bool) {
	h.Helper()
	row, stored := h.row(string(eventID))
	if !stored || strings.Contains(string(row.JSON), "secret") {
		h.Errorf("%s is stored as %s", eventID, row.JSON)
	}
	h.ok(h.db.Read(h.Context(), func(tx *storage.Tx) (err error) {
		o, found, err = tx.OriginalOf(row.Position)
		return err
	}))
	return o, found
}

// The time of an original counts from when the redaction arrived, also if that was before its target.
func TestTheOriginalOfAnEventThatWasRedactedBeforeItArrivedIsKept(t *testing.T) {
	for _, v := range redactionVersions {
		for late, want := range map[time.Duration]bool{0: true, time.Minute: true, time.Hour: false} {
			s := besieged(t, v)
			s.svc.opts.Retention.Redacted = time.Hour
			head := s.ends()
			target := s.evil.say(s.room, s.mallory, "secret", head...)
			s.evil.sendGood(s.room, s.redact(target.ID(), head...))
			redacted := s.svc.nowMS()
			s.now = s.now.Add(late)
			s.evil.sendGood(s.room, target)
			o, found := s.original(target.ID())
			if found != want || found && (o.RedactedTS != redacted || !o.Readable || !strings.Contains(string(o.JSON), "secret")) {
				t.Errorf("version %s, %v late: %+v, kept %v", v, late, o, found)
			}
		}
	}
}

// An event can be fetched as history after its redaction has arrived.
func TestTheOriginalOfARedactedEventOfTheHistoryIsKept(t *testing.T) {
	n := newNetwork(t)
	n.page = 1
	a, b := n.add("a"), n.add("b")
	alice, bob := a.user("alice"), b.user("bob")
	b.svc.opts.Retention.Redacted = time.Hour
	room := a.create(alice, CreateRoom{Preset: "public_chat"})
	target := a.say(alice, room, "secret")
	before := a.stored(room, target).JSON()
	hashes, _ := canonjson.Get(before, "hashes")
	n.spoil = func(raw json.RawMessage) json.RawMessage { // a server that ignores the redaction
		if got, _ := canonjson.Get(raw, "hashes"); string(got) == string(hashes) {
			return before
		}
		return raw
	}
	_, err := a.svc.Redact(t.Context(), alice, room, target, "", nil)
	a.ok(err)
	b.joinVia(bob, room, "a")
	b.say(bob, room, "hello")
	for from, pages := "", 0; pages < 20; pages++ {
		_, end, err := b.reads().Messages(t.Context(), room, bob, from, 1)
		b.ok(err)
		if from = end; from == "" {
			break
		}
	}
	if o, found := b.original(target); !found || !o.Readable || !strings.Contains(string(o.JSON), "secret") {
		t.Errorf("the original is %s, kept %v", o.JSON, found)
	}
	if _, found := a.original(target); found {
		t.Error("a server without retention.redacted keeps an original")
	}
}
