// Package workers keeps at most one worker for each room that needs work in the background, and lets requests wait for
// the end of that work. Package rooms completes partial-state rooms with it.
package workers

import (
	"context"
	"maps"
	"slices"
	"sync"

	"ebb/ident"
)

// Set holds the rooms that have unfinished work. At most one worker per room runs. It is safe for concurrent use.
type Set struct {
	gauge Gauge
	fresh chan struct{} // one slot, filled if there may be rooms without a worker

	// mu guards the rest. It is a leaf lock.
	mu    sync.Mutex
	rooms map[ident.RoomNID]*Worker
}

// Gauge counts the workers that run.
type Gauge interface {
	Inc()
	Dec()
}

// Worker is the entry of a room in a Set. It remains between two runs of the worker.
type Worker struct {
	ended  chan struct{}      // closed when the work is done or needless
	cancel context.CancelFunc // stops the worker; nil: there is none
}

// New returns an empty Set that counts its workers with the given gauge.
func New(gauge Gauge) *Set {
	return &Set{gauge: gauge, fresh: make(chan struct{}, 1), rooms: map[ident.RoomNID]*Worker{}}
}

// of returns the entry of the given room, and adds one if the Set has none. mu is held.
func (s *Set) of(room ident.RoomNID) *Worker {
	if s.rooms[room] == nil {
		s.rooms[room] = &Worker{ended: make(chan struct{})}
	}
	return s.rooms[room]
}

// List returns the rooms in the set.
func (s *Set) List() []ident.RoomNID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.rooms))
}

// Ended adds a room to the set and returns a channel that is closed when its work ends.
func (s *Set) Ended(room ident.RoomNID) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(room).ended
}

// Begin registers a worker for a room, and returns its context and the room's entry. It returns false if the room has a
// worker already.
func (s *Set) Begin(ctx context.Context, room ident.RoomNID) (context.Context, *Worker, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.of(room)
	if r.cancel != nil {
		return nil, nil, false
	}
	ctx, r.cancel = context.WithCancel(ctx)
	s.gauge.Inc()
	return ctx, r, true
}

// GiveUp unregisters a worker that could not finish its work. The room stays in the Set, and the requests that wait for
// it go on waiting.
func (s *Set) GiveUp(r *Worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop(r)
}

// stop cancels the worker of an entry, if it has one. mu is held.
func (s *Set) stop(r *Worker) {
	if r.cancel != nil {
		r.cancel()
		r.cancel = nil
		s.gauge.Dec()
	}
}

// Finish ends the work of a room when its worker has done everything. It has no effect if r is no longer the room's
// entry.
func (s *Set) Finish(room ident.RoomNID, r *Worker) {
	s.mu.Lock()
	mine := s.rooms[room] == r
	s.mu.Unlock()
	if mine {
		s.End(room)
	}
}

// End removes a room from the Set: it stops the room's worker and releases the requests that wait for its work to end.
func (s *Set) End(room ident.RoomNID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[room]
	if r == nil {
		return
	}
	delete(s.rooms, room)
	close(r.ended)
	s.stop(r)
}

// Announce makes the channel of Fresh receive a value, because there may be rooms without a worker.
func (s *Set) Announce() {
	select {
	case s.fresh <- struct{}{}:
	default:
	}
}

// Fresh returns a channel that receives a value when there may be rooms without a worker.
func (s *Set) Fresh() <-chan struct{} { return s.fresh }
