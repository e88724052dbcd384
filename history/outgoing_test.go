package history

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/rooms"
	"ebb/storage"
)

func TestExpiredMessagesAreSentToOtherServersAsSkeletons(t *testing.T) {
	l := newLibrary(t)
	alice := l.user("alice")
	room := l.room(alice, "shared", rooms.InitialState{Type: "m.room.retention", Content: json.RawMessage(`{"max_lifetime":3600000}`)})
	message := l.send(alice, room, "m.room.message", `{"body":"gone after an hour"}`)
	redaction := l.send(alice, room, typeRedaction, `{"redacts":"`+string(l.send(alice, room, "m.room.message", `{"body":"a slip"}`))+`"}`)
	topic := l.state(alice, room, "m.room.topic", "", `{"topic":"stays"}`)
	l.now = l.now.Add(2 * time.Hour)
	late := l.send(alice, room, "m.room.message", `{"body":"late"}`)
	var positions []storage.Pos
	for _, eventID := range []id.EventID{message, redaction, topic, late} {
		e, err := l.load(room).FindEvent(t.Context(), eventID)
		l.check(err)
		positions = append(positions, e.Pos)
	}
	got, err := l.svc.OutgoingEvents(t.Context(), positions)
	l.check(err)
	for i, want := range []struct {
		expired bool
		text    string
	}{{true, `"content":{}`}, {false, typeRedaction}, {false, "stays"}, {false, "late"}} {
		if e := got[i]; e.Pos != positions[i] || e.Room != l.load(room).NID() || e.Expired != want.expired || !strings.Contains(string(e.JSON), want.text) {
			t.Errorf("%d: %+v: %s", i, e, e.JSON)
		}
	}
}

// See CVE-2024-31208.
func TestFullStatesAreReadForFewServersAtATime(t *testing.T) {
	l := newLibrary(t)
	alice := l.user("alice")
	room := l.public(alice)
	message := l.send(alice, room, "m.room.message", `{"body":"now"}`)
	for range maxHeavyReads {
		release, err := l.svc.heavyRead(t.Context())
		l.check(err)
		defer release()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := l.svc.StateForServer(ctx, "there", room, message); !errors.Is(err, context.Canceled) {
		t.Errorf("a state is read at the same time: %v", err)
	}
	if _, err := l.svc.AuthChainForServer(ctx, "there", room, message); !errors.Is(err, context.Canceled) {
		t.Errorf("an auth chain is read at the same time: %v", err)
	}
	if _, err := l.svc.JoinAnswer(ctx, rooms.AcceptedJoin{}); !errors.Is(err, context.Canceled) {
		t.Errorf("the response to a join is made at the same time: %v", err)
	}
	if _, err := l.svc.GetEvent(t.Context(), room, message, alice); err != nil {
		t.Errorf("a single event waits: %v", err)
	}
}
