package workers_test

import (
	"context"
	"slices"
	"testing"

	"ebb/ident"
	"ebb/rooms/workers"
)

type gauge struct{ n int }

func (g *gauge) Inc() { g.n++ }
func (g *gauge) Dec() { g.n-- }

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestARoomHasOneWorkerAtATime(t *testing.T) {
	g := &gauge{}
	s := workers.New(g)
	ctx, w, ok := s.Begin(t.Context(), 1)
	if _, _, again := s.Begin(t.Context(), 1); !ok || again || g.n != 1 {
		t.Fatalf("a worker begins: %v, a second one: %v; the gauge says %d", ok, again, g.n)
	}
	if _, _, other := s.Begin(t.Context(), 2); !other || g.n != 2 {
		t.Fatal("another room has no worker")
	}
	s.GiveUp(w)
	if ctx.Err() == nil || g.n != 1 {
		t.Errorf("a worker that gave up: its context ends with %v; the gauge says %d", ctx.Err(), g.n)
	}
	if _, _, again := s.Begin(t.Context(), 1); !again {
		t.Error("after a worker gave up, the room gets no other one")
	}
}

func TestWaitingRequestsSurviveAWorkerThatGivesUp(t *testing.T) {
	s := workers.New(&gauge{})
	early := s.Ended(1) // before there is a worker
	_, w, _ := s.Begin(t.Context(), 1)
	late := s.Ended(1)
	s.GiveUp(w)
	if closed(early) || closed(late) {
		t.Fatal("requests are released although the work is not done")
	}
	_, w, _ = s.Begin(t.Context(), 1)
	s.Finish(1, w)
	if !closed(early) || !closed(late) {
		t.Error("requests go on waiting after the work is done")
	}
	if closed(s.Ended(1)) {
		t.Error("a request that comes later is released by work that was done before it")
	}
}

func TestEndStopsTheWorker(t *testing.T) {
	g := &gauge{}
	s := workers.New(g)
	ctx, w, _ := s.Begin(t.Context(), 1)
	waiting := s.Ended(1)
	s.End(1)
	s.End(1) // ends nothing
	s.End(7)
	if ctx.Err() != context.Canceled || !closed(waiting) || g.n != 0 || len(s.List()) != 0 {
		t.Errorf("context %v, gauge %d, rooms %v", ctx.Err(), g.n, s.List())
	}
	// The stopped worker must not end the work that was begun after it.
	next, _, ok := s.Begin(t.Context(), 1)
	s.GiveUp(w)
	s.Finish(1, w)
	if !ok || next.Err() != nil || g.n != 1 || !slices.Equal(s.List(), []ident.RoomNID{1}) {
		t.Errorf("the next worker: begun %v, context %v, gauge %d, rooms %v", ok, next.Err(), g.n, s.List())
	}
}

func TestAnnouncementsAreNotLost(t *testing.T) {
	s := workers.New(&gauge{})
	if closed(s.Fresh()) {
		t.Error("there is an announcement at the start")
	}
	s.Announce() // nobody receives yet
	s.Announce()
	if !closed(s.Fresh()) || closed(s.Fresh()) {
		t.Error("two announcements that nobody has received are not one")
	}
}
