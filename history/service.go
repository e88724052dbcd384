// Package history reads rooms for clients and other servers: pages of the timeline, single events and their context,
// relations and threads, state and members, unread counts, the event closest to a time, and searches. It writes
// nothing: package rooms is the only writer of timelines and state, and keeps the rooms in memory that answer most
// reads.
//
// A method of Service finds the room and creates a viewer, which is one user's view of the room during the request
// (reading, in timeline.go) → the viewer walks a part of the timeline, or reads the requested events → it leaves out
// events that the user may not see: because of the room's history visibility (rooms/visibility), because the sender is
// ignored, or because they have expired (visible.go) → it adds data such as aggregated relations to each event
// (clientform.go, bundle.go) → and appends the event's JSON, whose part that is the same for all readers is made once
// (rooms.Event.Form). /sync does the same in steps, with a View (recent.go). If a page reaches a gap in the timeline,
// events are requested from other servers, and the page is read again (gap.go).
//
// Reads by other servers follow different rules (server_view.go).
//
// Visibility and expiry are decided each time, from the clock and the state before each event. Only facts that never
// change are kept in memory, and unread counts, which are dropped when a rooms.Commit changes what they are based on.
package history

import (
	"log/slog"
	"time"

	"ebb/accountdata"
	"ebb/ident"
	"ebb/keyed"
	"ebb/rooms"
	"ebb/search"
	"ebb/storage"
)

// Options are the dependencies of a Service.
type Options struct {
	DB          *storage.DB
	Rooms       *rooms.Service
	AccountData *accountdata.Service
	Commits     *rooms.Commits   // the commits of Rooms
	Search      *search.Index    // nil: search is switched off
	Now         func() time.Time // nil: time.Now
	Log         *slog.Logger     // nil: nothing is logged
}

// Service answers requests that read rooms. It is safe for concurrent use.
type Service struct {
	db          *storage.DB
	rooms       *rooms.Service
	accountData *accountdata.Service
	now         func() time.Time
	log         *slog.Logger

	heavyReads chan struct{} // held while a full state is read for another server

	unread unreadTable

	// Bounded caches of facts that never change once they are true.
	past   *keyed.Map[pastKey, past]            // the parts of the state before events that visibility depends on
	former *keyed.Map[storage.Pos, storage.Pos] // state event → the event that it replaced; 0: none
	joined *keyed.Map[joinedKey, ident.Order]   // former member → order of the event that ended their last join

	search    *search.Index                   // nil: switched off
	searching *keyed.Semaphore[ident.UserNID] // searches that run, by user

	exhausted *keyed.Map[gapKey, time.Time] // gaps for which other servers had no events, and when they were asked
}

const (
	// pastEntries bounds the cache of states: an entry has about 150 bytes; a page of a busy room needs a few dozen.
	pastEntries   = 16384
	formerEntries = 16384
	joinedEntries = 4096
)

// The event types with a meaning to this package.
const (
	typeMember            = "m.room.member"
	typeHistoryVisibility = "m.room.history_visibility"
	typeRedaction         = "m.room.redaction"
)

// New returns a Service that reads the rooms of o.Rooms.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		db: o.DB, rooms: o.Rooms, accountData: o.AccountData, now: o.Now, log: o.Log, heavyReads: make(chan struct{}, maxHeavyReads),
		past:   keyed.NewMap[pastKey, past](pastEntries),
		former: keyed.NewMap[storage.Pos, storage.Pos](formerEntries),
		joined: keyed.NewMap[joinedKey, ident.Order](joinedEntries),
		search: o.Search, searching: keyed.NewSemaphore[ident.UserNID](maxSearches, maxWaitingSearches),
		exhausted: keyed.NewMap[gapKey, time.Time](exhaustedEntries),
	}
	o.Commits.Subscribe(s.unread.committed)
	return s
}
