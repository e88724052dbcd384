// Package history is what clients and other servers read of rooms: pages of the timeline, single events and what surrounds them,
// relations and threads, state and members, unread counts, and the event closest to a time. It writes nothing: package rooms is the only
// writer of timelines and state, and has the rooms in memory from which most reads are answered.
//
// A read travels: a method of Service finds the room and makes a viewer, which is how one user stands to the room for the time of the
// request (reading, in timeline.go) → the viewer walks a part of the timeline, or reads the events that the request names → it leaves out
// what the user may not see: by the room's history visibility (rooms/visibility), because the sender is ignored, because retention is over
// (visible.go) → it looks up what goes with each event, such as the aggregations of its relations (clientform.go, bundle.go) → and appends
// the event's JSON, of which the part that all readers share was made once (rooms.Event.Form). /sync does the same piece by piece, by a
// View (recent.go). Where a page comes to a gap in what this server has, other servers are asked for history, and the page is read again
// (gap.go).
//
// What other servers are shown has rules of its own (server_view.go).
//
// What is visible, and what has expired, is decided each time by the clock and by the state before each event. Only facts that never
// change are kept in memory, and unread counts, which are forgotten when a rooms.Commit has changed what they were made from.
package history

import (
	"time"

	"ebb/ident"
	"ebb/keyed"
	"ebb/rooms"
	"ebb/storage"
)

// Options is what a Service is made of.
type Options struct {
	DB      *storage.DB
	Rooms   *rooms.Service
	Commits *rooms.Commits   // of Rooms
	Now     func() time.Time // nil: the real time
}

// Service is safe for concurrent use.
type Service struct {
	db    *storage.DB
	rooms *rooms.Service
	now   func() time.Time

	unread unreadTable

	// Facts that never change once they are true. Bounded; one that was dropped is read again.
	past   *keyed.Map[pastKey, past]            // the state before events, as visibility asks for it
	former *keyed.Map[storage.Pos, storage.Pos] // state event → the one that it replaced; 0: none
	joined *keyed.Map[joinedKey, ident.Order]   // former member → order at which their last join ended

	exhausted *keyed.Map[gapKey, time.Time] // gaps for which other servers had nothing, and when they were asked
}

const (
	// pastEntries: an entry has some 150 bytes; a page of a busy room needs a few dozen.
	pastEntries   = 16384
	formerEntries = 16384
	joinedEntries = 4096
)

// The types of events that this package treats in a special way.
const (
	typeMember            = "m.room.member"
	typeHistoryVisibility = "m.room.history_visibility"
	typeRedaction         = "m.room.redaction"
)

// New returns a Service that reads the rooms of another one.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Service{
		db: o.DB, rooms: o.Rooms, now: o.Now,
		past:      keyed.NewMap[pastKey, past](pastEntries),
		former:    keyed.NewMap[storage.Pos, storage.Pos](formerEntries),
		joined:    keyed.NewMap[joinedKey, ident.Order](joinedEntries),
		exhausted: keyed.NewMap[gapKey, time.Time](exhaustedEntries),
	}
	o.Commits.Subscribe(s.unread.committed)
	return s
}
