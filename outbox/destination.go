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
	queue  []queued // in ascending positions
	// missed counts the events after the queue, which are only in the table. They belong to missedRooms and have
	// positions above seen, up to which the table has been read.
	missed      int64
	missedRooms map[ident.RoomNID]bool
	seen        storage.Pos

	// rooms of which the server gets only the newest events → stamp of the last addition
	behind   map[ident.RoomNID]uint64
	newly    map[ident.RoomNID]bool // those that are not stored yet
	volatile []volatile
	// if they differ, edu_outbox may have something to send
	kicked, drained uint64
	unanswered      *transaction // is sent again before anything else

	delivered storage.Pos
	backoff
	reached time.Time // when it last responded
	dirty   bool      // the row has to be stored

	running bool
	wake    chan struct{} // wakes the worker that waits for the next try
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

// destination returns the state of a server, which it creates if necessary. The caller holds mu.
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

// waits reports whether there is something to deliver.
func (d *destination) waits() bool {
	return len(d.queue) > 0 || d.missed > 0 || len(d.behind) > 0 || len(d.volatile) > 0 || d.kicked != d.drained || d.unanswered != nil
}

// enqueue adds an event to the queue, to the missed events after it, or to the rooms of which the server gets only the
// newest events. The caller holds mu.
func (s *Service) enqueue(d *destination, q queued) {
	switch {
	case q.pos <= d.seen && d.missed == 0: // refill has read it from the table before
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

// skip drops the queue of a server, which then gets only the newest events of each room. The caller holds mu.
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

// fallBehind records that a server is to get the newest events of a room. The caller holds mu.
func (s *Service) fallBehind(d *destination, room ident.RoomNID) {
	if d.behind[room] == 0 {
		d.newly[room], d.dirty = true, true
	}
	s.stamp++
	d.behind[room] = s.stamp
	delete(s.gone[d.server], room)
}

// caughtUp records that a server got the newest events of a room, as of stamp. The caller holds mu.
func (s *Service) caughtUp(d *destination, room ident.RoomNID, stamp uint64) {
	if d.behind[room] != stamp {
		return // there are newer events
	}
	delete(d.behind, room)
	delete(d.newly, room)
	if s.gone[d.server] == nil {
		s.gone[d.server] = map[ident.RoomNID]bool{}
	}
	s.gone[d.server][room] = true
	d.dirty = true
}

// oldest returns the position before the first undelivered event; false if there is none.
func (d *destination) oldest() (storage.Pos, bool) {
	switch {
	case len(d.queue) > 0:
		return d.queue[0].pos - 1, true
	case d.missed > 0:
		return d.seen, true
	}
	return 0, false
}
