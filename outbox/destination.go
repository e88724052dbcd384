package outbox

import (
	"encoding/json"
	"time"

	"ebb/ident"
	"ebb/storage"
)

// destination is another server. Service.mu guards it.
type destination struct {
	server string
	queue  []queued // positions grow
	// missed counts the events behind the queue, which stand in the table only; they are of missedRooms, and all lie behind
	// seen, up to which the table was looked through.
	missed      int64
	missedRooms map[ident.RoomNID]bool
	seen        storage.Pos

	behind   map[ident.RoomNID]uint64 // rooms of which it is told the newest events only; when something was last added
	newly    map[ident.RoomNID]bool   // those that are not stored yet
	volatile []volatile
	// edu_outbox may have something while kicked is not drained.
	kicked, drained uint64
	unanswered      *transaction // is sent again before anything else is

	delivered storage.Pos
	backoff
	reached time.Time // when it last answered
	dirty   bool      // the row is to be stored

	running bool
	wake    chan struct{} // of the worker that waits to try again
}

// queued is an event that waits.
type queued struct {
	pos  storage.Pos
	room ident.RoomNID
}

// volatile is ephemeral data that may be lost.
type volatile struct {
	key  string
	json json.RawMessage
}

// destination finds or makes what is known of a server. mu is held.
func (s *Service) destination(server string) *destination {
	d := s.known[server]
	if d == nil {
		d = &destination{
			server: server, missedRooms: map[ident.RoomNID]bool{}, behind: map[ident.RoomNID]uint64{}, newly: map[ident.RoomNID]bool{}, wake: make(chan struct{}, 1),
		}
		s.known[server] = d
	}
	return d
}

// waits tells whether something is to be delivered.
func (d *destination) waits() bool {
	return len(d.queue) > 0 || d.missed > 0 || len(d.behind) > 0 || len(d.volatile) > 0 || d.kicked != d.drained || d.unanswered != nil
}

// enqueue adds an event: to the queue, to what is behind it, or to what the server only gets the newest of. mu is held.
func (s *Service) enqueue(d *destination, q queued) {
	switch {
	case q.pos <= d.seen && d.missed == 0: // refill was quicker than the hook
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

// skip lets a server go on with the newest events of each room. mu is held.
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

// fallBehind notes that a server is to be told of the newest events of a room. mu is held.
func (s *Service) fallBehind(d *destination, room ident.RoomNID) {
	if d.behind[room] == 0 {
		d.newly[room], d.dirty = true, true
	}
	s.stamp++
	d.behind[room] = s.stamp
	delete(s.gone[d.server], room)
}

// caughtUp notes that a server was told of the newest events of a room, as they were at the stamp. mu is held.
func (s *Service) caughtUp(d *destination, room ident.RoomNID, stamp uint64) {
	if d.behind[room] != stamp {
		return // there are newer ones
	}
	delete(d.behind, room)
	delete(d.newly, room)
	if s.gone[d.server] == nil {
		s.gone[d.server] = map[ident.RoomNID]bool{}
	}
	s.gone[d.server][room] = true
	d.dirty = true
}

// oldest is the position before the first event that waits; false where none does.
func (d *destination) oldest() (storage.Pos, bool) {
	switch {
	case len(d.queue) > 0:
		return d.queue[0].pos - 1, true
	case d.missed > 0:
		return d.seen, true
	}
	return 0, false
}
