package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
	"ebb/storage/storagetest"
)

func events(n int) []json.RawMessage {
	return make([]json.RawMessage, n)
}

func TestEventsThatWaitForAnotherTryAreBounded(t *testing.T) {
	now := time.UnixMilli(1_750_000_000_000)
	l := &later{waiting: map[laterKey]*laterEvents{}}
	for i := range 2 * maxLaterRooms {
		l.add(now, laterKey{"evil", id.RoomID(fmt.Sprint("!", i))}, events(1))
	}
	if len(l.waiting) != maxLaterRooms {
		t.Errorf("%d rooms of one server wait", len(l.waiting))
	}
	for i := range 2 * maxLater {
		l.add(now, laterKey{fmt.Sprint("s", i), "!r"}, events(1))
	}
	if len(l.waiting) != maxLater {
		t.Errorf("%d rooms wait", len(l.waiting))
	}
	one := laterKey{"s1", "!r"}
	for range 5 {
		l.add(now, one, events(50))
	}
	if n := len(l.waiting[one].pdus); n != maxLaterEvents {
		t.Errorf("%d events of one room wait", n)
	}
}

func TestEventsAreTriedLessAndLessOften(t *testing.T) {
	now := time.UnixMilli(1_750_000_000_000)
	l := &later{waiting: map[laterKey]*laterEvents{}}
	key := laterKey{"s", "!r"}
	l.add(now, key, events(1))
	var pauses []time.Duration
	for last := now; len(l.waiting) > 0; now = now.Add(time.Second) {
		for key, w := range l.due(now) {
			pauses = append(pauses, now.Sub(last))
			last = now
			l.again(now, key, w)
		}
		if len(pauses) > 10 {
			t.Fatal("there is no end")
		}
	}
	want := []time.Duration{2 * time.Second, 8 * time.Second, 32 * time.Second, 128 * time.Second, 512 * time.Second, 2048 * time.Second}
	if fmt.Sprint(pauses) != fmt.Sprint(want) {
		t.Errorf("tried after %v, want %v", pauses, want)
	}
}

func TestWhatMayBeTriedAgain(t *testing.T) {
	for err, want := range map[error]bool{
		rooms.ErrLater: true, context.DeadlineExceeded: true, errors.New("the disk is odd"): true,
		fmt.Errorf("%w: index out of range", errPanic): false, mxerr.Forbidden("you are not in it"): false,
	} {
		if got := mayTryAgain(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
	if mayTryAgain(nil) {
		t.Error("what was taken in is tried again")
	}
}

// Events that this server fails at count as delivered for their sender: they wait for another try.
func TestWhatThisServerFailsAtIsTriedAgain(t *testing.T) {
	svc, err := rooms.New(t.Context(), rooms.Options{DB: storagetest.Open(t, storage.Config{}), Server: "here"})
	if err != nil {
		t.Fatal(err)
	}
	a := New(API{Rooms: svc, Log: slog.New(slog.DiscardHandler)})
	over, cancel := context.WithCancel(t.Context())
	cancel() // as when transactionTime is over
	pdus := []json.RawMessage{[]byte(`{"room_id":"!r:there"}`)}
	if _, err := a.takePDUs(over, "there", pdus); err != nil {
		t.Fatal(err)
	}
	if w := a.later.waiting[laterKey{"there", "!r:there"}]; w == nil || len(w.pdus) != 1 {
		t.Errorf("%v waits", w)
	}
}
