package outbox

import (
	"encoding/json"
	"time"

	"ebb/ident"
	"ebb/storage"
)

// destination is the delivery state of another server. It is guarded by Service.mu.
type destination struct {
	server string
	queue  []queued // by ascending position
	// missed counts the events after the queue, which are only in the table. They belong to missedRooms, and their
	// positions are above seen, the position up to which the table has been read.
	missed      int64
	missedRooms map[ident.RoomNID]bool
	seen        storage.Pos

	// behind holds the rooms for which only sticky and newest events are sent to the server, with the stamp of the last
	// addition.
	behind   map[ident.RoomNID]uint64
	newly    map[ident.RoomNID]bool        // rooms in behind that are not stored yet
	caught   map[ident.RoomNID]storage.Pos // rooms in behind whose sticky events up to a position were sent
	volatile []volatile
	// kicked and drained differ if edu_outbox may have something to send.
	kicked, drained uint64
	unanswered      *transaction // sent again before anything else

	delivered storage.Pos
	backoff
	reached time.Time // when the server last responded
	dirty   bool      // whether the row has to be stored

	running bool
	wake    chan struct{} // wakes the worker while it waits for the next attempt
}

// queued is an event in the queue.
type queued struct {
	pos  storage.Pos
	room ident.RoomNID
}

// volatile is an EDU that may be lost.
type volatile struct {
	key  string
	json json.RawMessage
}

// destination returns the state of a server, creating it if necessary. The caller holds mu.
func (s *Service) destination(server string) *destination {
	d := s.known[server]
	if d == nil {
		d = &destination{
			server: server, missedRooms: map[ident.RoomNID]bool{}, behind: map[ident.RoomNID]uint64{}, newly: map[ident.RoomNID]bool{}, caught: map[ident.RoomNID]storage.Pos{}, wake: make(chan struct{}, 1),
		}
		s.known[server] = d
	}
	return d
}

// hasWork reports whether there is something to deliver.
func (d *destination) hasWork() bool {
	return len(d.queue) > 0 || d.missed > 0 || len(d.behind) > 0 || len(d.volatile) > 0 || d.kicked != d.drained || d.unanswered != nil
}

// enqueue records that an event has to be sent to a server. It adds the event to the server's queue. If the queue is
// full, it counts the event as missed instead; if the server gets only the newest events of the room, it records that
// there is a newer one. The caller holds mu.
func (s *Service) enqueue(d *destination, q queued) {
	switch {
	case q.pos <= d.seen && d.missed == 0: // refill has already read it from the table
	case d.behind[q.room] != 0:
		s.fallBehind(d, q.room)
	case d.missed == 0 && len(d.queue) < maxQueue:
		d.queue = append(d.queue, q)
	case d.missed >= maxMissed:
		d.missedRooms[q.room] = true
		s.skip(d)
	default:
		if d.missed++; d.missed == 1 {
			d.seen = d.queue[len(d.queue)-1].pos
		}
		d.missedRooms[q.room] = true
	}
}

// skip drops the queue of a server. The server will then get only the newest events of each room. The caller holds mu.
func (s *Service) skip(d *destination) {
	for _, q := range d.queue {
		s.fallBehind(d, q.room)
	}
	for room := range d.missedRooms {
		s.fallBehind(d, room)
	}
	d.queue, d.missed = nil, 0
	clear(d.missedRooms)
}

// fallBehind records that only the newest events of a room will be sent to a server. The caller holds mu.
func (s *Service) fallBehind(d *destination, room ident.RoomNID) {
	if d.behind[room] == 0 {
		d.newly[room], d.dirty = true, true
	}
	s.stamp++
	d.behind[room] = s.stamp
	delete(s.gone[d.server], room)
}

// caughtUp records that the newest events of a room, as of stamp, have been sent to a server. The caller holds mu.
func (s *Service) caughtUp(d *destination, room ident.RoomNID, stamp uint64) {
	if d.behind[room] != stamp {
		return // there are newer events by now
	}
	delete(d.behind, room)
	delete(d.newly, room)
	delete(d.caught, room)
	if s.gone[d.server] == nil {
		s.gone[d.server] = map[ident.RoomNID]bool{}
	}
	s.gone[d.server][room] = true
	d.dirty = true
}

// oldest returns the position before the first undelivered event. It returns false if there is no such event.
func (d *destination) oldest() (storage.Pos, bool) {
	switch {
	case len(d.queue) > 0:
		return d.queue[0].pos - 1, true
	case d.missed > 0:
		return d.seen, true
	}
	return 0, false
}
