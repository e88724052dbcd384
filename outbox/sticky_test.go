package outbox

import (
	"context"
	"fmt"
	"testing"
	"time"

	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

// come announces that servers have come into a room with sticky events at some positions.
func (w *world) come(sticky []storage.Pos, servers ...string) {
	w.t.Helper()
	w.mu.Lock()
	w.sticky = sticky
	for _, p := range sticky {
		w.rooms[p] = 0
	}
	w.mu.Unlock()
	w.committed(&rooms.Commit{Room: &rooms.Room{}, Arrived: servers})
}

func TestAServerThatComesIntoARoomGetsItsStickyEvents(t *testing.T) {
	in(t, func(w *world) {
		newest := w.event(0, "b")
		w.after(time.Second)
		w.come([]storage.Pos{11, 12, 13}, "a", "a")
		tries := w.after(time.Minute)
		wantTaken(t, tries, "a", 11, 12, 13, newest)
		if n := len(tries); n != 3 {
			t.Errorf("%d transactions: a page of sticky events, the rest, and the newest event, were expected", n)
		}
		w.restart()
		wantTaken(t, w.after(time.Minute), "a")
		next := w.event(0, "a", "b")
		wantTaken(t, w.after(time.Minute), "a", next)
	})
}

func TestStickyEventsAreOwedAcrossRestarts(t *testing.T) {
	in(t, func(w *world) {
		newest := w.event(0, "b")
		w.dead("a")
		w.come([]storage.Pos{11, 12}, "a")
		w.after(time.Minute)
		w.restart()
		w.answers(nil)
		wantTaken(t, w.after(time.Hour), "a", 11, 12, newest)
	})
}

// The write of a join owes the sticky events. That suffices if the server stops before the outbox hears of it.
func TestStickyEventsAreOwedByTheWriteOfTheJoin(t *testing.T) {
	in(t, func(w *world) {
		newest := w.event(0, "b")
		w.after(time.Second)
		w.end()
		w.sticky = []storage.Pos{11}
		if err := w.db.Write(context.Background(), func(tx *storage.Tx) error { return tx.AddDestinationRoom("a", 0) }); err != nil {
			t.Fatal(err)
		}
		w.start()
		wantTaken(t, w.after(time.Minute), "a", 11, newest)
	})
}

func TestAServerThatMissedTooMuchGetsStickyEventsToo(t *testing.T) {
	in(t, func(w *world) {
		w.dead("a")
		last := w.events(maxQueue+maxMissed+1, 1, "a")
		w.mu.Lock()
		w.sticky = []storage.Pos{2, 3, 5}
		for _, p := range w.sticky {
			w.rooms[p] = 1
		}
		w.mu.Unlock()
		w.after(time.Minute)
		w.restart()
		w.answers(nil)
		wantTaken(t, w.after(time.Hour), "a", 2, 3, 5, last)
	})
}

// Retention may be shorter than stickiness.
func TestExpiredStickyEventsAreNotOwed(t *testing.T) {
	in(t, func(w *world) {
		newest := w.event(0, "b")
		w.after(time.Second)
		w.expired[12] = true
		w.come([]storage.Pos{11, 12}, "a")
		wantTaken(t, w.after(time.Minute), "a", 11, newest)
	})
}

func TestNobodyIsOwedAnythingInARoomWithoutStickyEvents(t *testing.T) {
	in(t, func(w *world) {
		w.event(0, "b")
		w.come(nil, "a")
		if tries := w.after(time.Minute); len(tries) != 1 || tries[0].server != "b" {
			t.Errorf("sent: %v", fmt.Sprint(tries))
		}
		w.Service.mu.Lock()
		defer w.Service.mu.Unlock()
		if d := w.known["a"]; d != nil && d.behind[ident.RoomNID(0)] != 0 {
			t.Error("the server is owed something")
		}
	})
}
