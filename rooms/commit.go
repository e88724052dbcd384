package rooms

import (
	"log/slog"
	"runtime/debug"
	"slices"
	"sync/atomic"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/storage"
)

// Commit describes the changes of one committed write. It is plain data: apart from Room, it has only what could be
// stored in a row and read by another process.
//
// The database is authoritative. A listener that misses a Commit because the process ended must find the same changes
// in the database when it starts.
type Commit struct {
	// Room is the room that changed. Its committed head includes the change. Nil if the change belongs to a user and no
	// room.
	Room *Room

	Created   bool        // this server created the room
	Entered   bool        // this server joined the room through another server: all state is new, and what was cached about the room is void
	Rejudged  bool        // earlier events were authorised again: what was derived from the timeline or the state is void
	Completed storage.Pos // where the room got its full state; 0: it did not
	// Discovered are the servers that turned out to be in the room when it was completed. They have been sent nothing
	// since the join.
	Discovered []string
	Arrived    []string // servers whose first user joined; they may be listed twice
	Retention  bool     // the administrator's retention policy for the room changed
	State      bool     // the current state changed
	Published  bool     // the room was added to the room directory or removed from it
	Aliases    bool     // local aliases of the room were added or removed; those of a created room are not reported
	Removed    bool     // this server does not know the room any more; Forgotten are the local users who had been in it

	Events   []CommittedEvent     // in order of position; events with Flags may be in no timeline
	Members  []CommittedMember    // changes of the current membership, including those that no event of this commit makes
	Redacted []CommittedRedaction // events that were replaced by their redacted form
	Revealed []*Event             // formerly withheld redactions that clients see now
	Rejected []storage.Pos        // events that had been accepted and are rejected now
	Purged   []storage.Pos        // events whose content was removed by retention

	Receipts    []CommittedReceipt     // read receipts that moved
	AccountData []CommittedAccountData // set by local users
	Forgotten   []ident.UserNID        // local users who forgot the room
	Profiles    []CommittedProfile     // fields of local users' profiles that changed
	// Subscriptions are the subscriptions to threads that changed.
	Subscriptions []CommittedSubscription
	Erased        []CommittedErasure // users who asked for erasure
	Originals     bool               // originals of redacted events were deleted, or what was left of a removed room
	Holds         []CommittedHold    // legal holds that were added or lifted
	SelfDestructs bool               // some of Events ask to be destroyed
	OwnRedacted   bool               // a request to redact a user's own messages is finished

	advances bool // the write increased the generation in the room's row
}

// CommittedEvent is an event that was stored.
type CommittedEvent struct {
	*Event
	// Past reports whether the event is history from another server. It was inserted into the timeline where it
	// belongs, and is not news.
	Past bool
	// Outgoing reports whether this server sends the event to others: Servers, which may be none. The outbox table has
	// a row for it.
	Outgoing bool
	Servers  []string
}

// CommittedMember is a change of a user's membership.
type CommittedMember struct {
	User     id.UserID
	NID      ident.UserNID
	Local    bool       // the user belongs to this server
	From, To Membership // "" if the room does not know the user
	Pos      storage.Pos
	Changed  storage.Pos // since when To holds; later than Pos, the position of the member event, if state resolution chose an older event
}

// Joined reports whether the user was not joined before and is now.
func (m *CommittedMember) Joined() bool { return m.From != Join && m.To == Join }

// Left reports whether the user was joined before and is not any more.
func (m *CommittedMember) Left() bool { return m.From == Join && m.To != Join }

// CommittedRedaction is an event whose content was removed by another event.
type CommittedRedaction struct {
	ID  id.EventID
	Pos storage.Pos
	By  storage.Pos // the m.room.redaction
}

// The types of receipts and read markers.
const (
	ReadReceipt        = "m.read"
	PrivateReadReceipt = "m.read.private"
	FullyRead          = "m.fully_read" // account data
)

// CommittedReceipt is a read receipt of a local or remote user. A PrivateReadReceipt must not be shown to anybody else.
type CommittedReceipt struct {
	User   id.UserID
	NID    ident.UserNID
	Local  bool // the user belongs to this server
	Type   string
	Event  id.EventID
	Thread string // "": unthreaded
	TS     int64  // ms
	Pos    storage.Pos
}

// Public reports whether this server sends the receipt to other servers.
func (c *CommittedReceipt) Public() bool { return c.Local && c.Type == ReadReceipt }

// CommittedAccountData is account data of a local user.
type CommittedAccountData struct {
	User ident.UserNID
	Room ident.RoomNID // 0: global
	Type string
}

// CommittedSubscription is a change of a local user's subscription to a thread.
type CommittedSubscription struct {
	User ident.UserNID
	Root storage.Pos // position of the thread's root
}

// CommittedProfile is a change of a field of a local user's profile.
type CommittedProfile struct {
	User ident.UserNID
	Pos  storage.Pos // a position in the same commit, at or after the change
}

// CommittedErasure is a user's request for erasure.
type CommittedErasure struct {
	User ident.UserNID
	Pos  storage.Pos
}

// A Listener is called for every commit. It is called in the committer, once the change is in the database and in the
// committed head of the room, and before the position of the commit counts as settled. All listeners get the commits of
// all rooms one at a time, in the order in which they were made. The order of the listeners is described at Commits.
//
// The whole server waits while a listener runs. A listener may take leaf locks (docs/locks.md), read from Room what is
// in memory, clear caches, add to a bounded queue, and wake a goroutine that does the work. It must not block, use the
// database, send requests to other servers, take Room.writer, or modify the Commit. It may keep the Commit.
type Listener func(c *Commit)

// Commits delivers commits to listeners: first to the caches of this package, then to the subscribed services in the
// order of their subscription, and last to the listener that wakes waiting syncs. So a sync that wakes up finds
// everything up to date.
//
// A Commits exists before any service does, and is passed to each of them when it is created. So services can subscribe
// before the Service whose commits they receive is created.
type Commits struct {
	caches, services []Listener
	wake             Listener
	log              *slog.Logger
	started          atomic.Bool
}

// NewCommits returns a Commits without listeners, for one Service.
func NewCommits() *Commits { return &Commits{wake: func(*Commit) {}, log: slog.Default()} }

// Subscribe adds a listener. It panics after the first commit, because the listener would have missed that one. It does
// nothing if cs is nil, which delivers no commits.
func (cs *Commits) Subscribe(l Listener) {
	if cs == nil {
		return
	}
	if cs.started.Load() {
		panic("rooms: a listener subscribes after the first commit")
	}
	cs.services = append(cs.services, l)
}

// own sets the first and the last listeners, which are methods of the given Service.
func (cs *Commits) own(s *Service) {
	cs.caches = []Listener{s.countEvents, s.endPartial, s.own.committed, s.erased.committed, func(c *Commit) { s.holds.Apply(c.Holds) }, s.threads.committed, s.changeInviteFilters, s.followSticky}
	cs.wake, cs.log = s.wake, s.log
}

// Deliver delivers a Commit to the listeners. Other packages call it in the Committed hook of a write that changes no
// room, such as one of account data. This package calls it for the writes of rooms.
func (cs *Commits) Deliver(c *Commit) {
	if !cs.started.Load() {
		cs.started.Store(true)
	}
	for _, l := range cs.caches {
		cs.call(l, c)
	}
	for _, l := range cs.services {
		cs.call(l, c)
	}
	cs.call(cs.wake, c)
}

// call calls one listener. If the listener panics, call logs this, and the other listeners still get the Commit.
func (cs *Commits) call(l Listener, c *Commit) {
	defer func() {
		if v := recover(); v != nil {
			cs.log.Error("panic in a listener of a commit", "panic", v, "stack", string(debug.Stack()))
		}
	}()
	l(c)
}

// headChange describes how a committed write changes the committed head of a room.
type headChange interface {
	// applyTo makes the change. Room.mu is held.
	applyTo(r *Room)
}

// headFunc makes a function usable as a headChange.
type headFunc func(r *Room)

func (f headFunc) applyTo(r *Room) { f(r) }

// commit changes the committed head of a room after a write was committed, and delivers the Commit to the listeners. It
// runs in the committer. Only the methods commit and amend change the committed head.
func (s *Service) commit(c *Commit, change headChange) {
	r := c.Room
	r.mu.Lock()
	change.applyTo(r)
	if c.advances {
		r.head.generation++
	}
	r.mu.Unlock()
	if c.Created {
		s.cache.Add(r.id, r.nid, r)
	}
	for i := range c.Events {
		s.cache.Grew(c.Events[i].Size())
	}
	s.cache.Trim()
	c.address()
	s.opts.Commits.Deliver(c)
}

// amend is like commit, but for changes that are of no interest to any listener.
func (r *Room) amend(change headFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

// address sets the servers to which each event is sent. The events are part of the room already.
func (c *Commit) address() {
	for i := range c.Events {
		if e := &c.Events[i]; e.Outgoing {
			e.Servers = c.Room.recipients(e.Event)
		}
	}
}

// add records the events of a batch and their changes.
func (c *Commit) add(s *Service, events []*pendingEvent) {
	c.Events = slices.Grow(c.Events, len(events))
	for _, e := range events {
		c.Events = append(c.Events, CommittedEvent{Event: e.Event, Past: e.past != 0, Outgoing: e.outgoing && s.federates()})
		c.SelfDestructs = c.SelfDestructs || e.destructs
		c.addChanges(s, e.changes)
		if r := e.redacts; r != nil {
			c.Redacted = append(c.Redacted, CommittedRedaction{ID: r.target.ID(), Pos: r.target.Pos, By: r.by()})
		}
		c.Revealed = append(c.Revealed, e.revealed...)
	}
}

// addChanges records those of the given changes of the current state that change a membership.
func (c *Commit) addChanges(s *Service, changes []*stateChange) {
	c.State = c.State || len(changes) > 0
	for _, change := range changes {
		m := change.member
		if m == nil {
			continue
		}
		out := CommittedMember{User: m.user, NID: m.nid, Local: s.IsLocal(m.user), From: m.from, To: m.to, Changed: change.by.Pos}
		if change.event != nil {
			out.Pos = change.event.Pos
		}
		if server := ident.ServerOf(out.User); !out.Local && out.Joined() && !c.Room.HasServer(server) {
			c.Arrived = append(c.Arrived, server)
		}
		c.Members = append(c.Members, out)
	}
}

// ProfileCommitted delivers the Commit of a write that changed a profile field of a local user. The Committed hook of
// that write calls it.
func (s *Service) ProfileCommitted(user ident.UserNID, pos storage.Pos) {
	s.opts.Commits.Deliver(&Commit{Profiles: []CommittedProfile{{user, pos}}})
}

// endPartial is the Listener that stops the worker of a partial-state room once it has full state or no local member.
func (s *Service) endPartial(c *Commit) {
	if c.Completed != 0 || slices.ContainsFunc(c.Members, func(m CommittedMember) bool { return m.Local && m.Left() }) && c.Room.abandoned() {
		s.partials.End(c.Room.nid)
	}
}

// abandoned reports whether the room has partial state and no local member.
func (r *Room) abandoned() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.partial != nil && len(r.head.local) == 0
}

// isNews reports whether /sync sends an event to clients: it is not history, or it is still sticky.
func (s *Service) isNews(e CommittedEvent) bool {
	return !e.Past || e.StickyUntil() > s.nowMS()
}

// wake is the Listener that wakes the syncs of clients that have something new to read. It is called after all other
// listeners.
func (s *Service) wake(c *Commit) {
	if c.Rejudged || slices.ContainsFunc(c.Events, s.isNews) {
		s.opts.Hub.Members(c.Room.LocalMembers())
		s.opts.Hub.Room(c.Room.nid)
	}
	if c.Rejudged { // there may be news about the devices of others
		s.opts.Hub.EachOf(c.Room.LocalMembers())
	}
	if c.Retention || slices.ContainsFunc(c.Receipts, func(r CommittedReceipt) bool { return r.Type == ReadReceipt }) {
		s.opts.Hub.Members(c.Room.LocalMembers())
	}
	for _, m := range c.Members {
		if m.Local {
			s.opts.Hub.Users(m.NID)
		}
	}
	for _, r := range c.Receipts {
		if r.Local {
			s.opts.Hub.Users(r.NID)
		}
	}
	for _, d := range c.AccountData {
		s.opts.Hub.Users(d.User)
	}
	for _, sub := range c.Subscriptions {
		s.opts.Hub.Users(sub.User)
	}
}
