package history

import (
	"context"
	"slices"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/pushrules"
	"ebb/rooms"
	"ebb/rooms/expiry"
	"ebb/storage"
)

// Unread is the number of unread events of a room, in the main timeline and in threads.
type Unread struct {
	Main    UnreadCount
	Threads map[id.EventID]UnreadCount // threads with unread events, by root
}

// UnreadCount counts notifications, and the highlights among them.
type UnreadCount struct{ Notify, Highlight int64 }

func (c *UnreadCount) add(class pushrules.Class) {
	if class&pushrules.Notify != 0 {
		c.Notify++
	}
	if class&pushrules.Highlight != 0 {
		c.Highlight++
	}
}

const (
	// maxUnread bounds the unread events that are kept and counted per user and room: an exact number above 5000 is of
	// no use to anybody.
	maxUnread = 5000
	// maxUnreadLists bounds the memory of the counts; a dropped list is counted again when needed.
	maxUnreadLists = 20000
	// maxRedactions bounds the redactions that are remembered. Lists are extended by events in memory only, of which
	// few are redactions. Beyond the bound, lists are read from the database again.
	maxRedactions = 20000
)

// unreadTable caches lists of unread events. Each list is read from the database once, and then extended from memory.
type unreadTable struct {
	// mu guards the fields below; a leaf lock.
	mu    sync.Mutex
	lists map[unreadKey]*unreadList
	// redactions has the positions of the events that a redaction was applied to, mostly one, by its own position.
	redactions map[storage.Pos][]storage.Pos
}

type unreadKey struct {
	user ident.UserNID
	room ident.RoomNID
}

// unreadList is the unread events of one user in one room, oldest first.
type unreadList struct {
	notBefore storage.Pos // an older snapshot does not contain the change for which the list was dropped

	// mu guards the rest; held over reads of the database.
	mu      sync.Mutex
	valid   bool
	upTo    storage.Pos // events up to here have been processed
	entries []unreadEntry
	roots   map[storage.Pos]threadRoot // of the threads in entries
}

// threadRoot is the event with which a thread begins. Its ID is "" if the event was deleted.
type threadRoot struct {
	id      id.EventID
	isState bool
	sent    storage.EventTimes
}

func (r *threadRoot) expired(policy expiry.Policy, now time.Time) bool {
	return !r.isState && expiry.Expired(policy, r.sent.OriginTS, r.sent.ReceivedTS, now)
}

type unreadEntry struct {
	pos                  storage.Pos
	thread               storage.Pos // position of the root; 0: main timeline
	sender               ident.UserNID
	isState              bool
	class                pushrules.Class
	originTS, receivedTS int64
}

func (t *unreadTable) list(k unreadKey) *unreadList {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.lists[k]
	if l == nil {
		if t.lists == nil || len(t.lists) >= maxUnreadLists {
			t.lists = map[unreadKey]*unreadList{}
		}
		l = &unreadList{}
		t.lists[k] = l
	}
	return l
}

// UnreadInMemory reports whether Unread can tell the user's unread counts of a room without reading the database,
// except perhaps for what has happened since they were read.
func (s *Service) UnreadInMemory(user ident.UserNID, room ident.RoomNID) bool {
	s.unread.mu.Lock()
	l := s.unread.lists[unreadKey{user, room}]
	s.unread.mu.Unlock()
	return l != nil && l.known()
}

// forget drops the user's list for a room, because a receipt or a membership changed at position pos. The next count
// reads the database. If its snapshot is older than pos, the result is not kept.
func (t *unreadTable) forget(user ident.UserNID, room ident.RoomNID, pos storage.Pos) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lists == nil || len(t.lists) >= maxUnreadLists {
		t.lists = map[unreadKey]*unreadList{}
	}
	t.lists[unreadKey{user, room}] = &unreadList{notBefore: pos}
}

// forgetRoom drops the lists of all users for a room.
func (t *unreadTable) forgetRoom(room ident.RoomNID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.lists {
		if k.room == room {
			delete(t.lists, k)
		}
	}
}

// committed is a rooms.Listener that drops the lists that a commit has made obsolete. New events are added when a list
// is used.
func (t *unreadTable) committed(c *rooms.Commit) {
	if !t.redacted(c) || c.Entered || c.Rejudged || len(c.Purged) > 0 {
		t.forgetRoom(c.Room.NID())
	}
	for _, m := range c.Members {
		if m.Local {
			t.forget(m.NID, c.Room.NID(), m.Changed)
		}
	}
	for _, r := range c.Receipts {
		if r.Local {
			t.forget(r.NID, c.Room.NID(), r.Pos)
		}
	}
}

// redacted remembers what the redactions of a commit were applied to. It returns false if an earlier redaction was
// applied, which the lists may have been extended by already.
func (t *unreadTable) redacted(c *rooms.Commit) (all bool) {
	if len(c.Redacted) == 0 && !slices.ContainsFunc(c.Events, func(e rooms.CommittedEvent) bool { return e.Type() == typeRedaction }) {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.redactions == nil || len(t.redactions) >= maxRedactions {
		t.redactions = map[storage.Pos][]storage.Pos{}
	}
	for _, e := range c.Events {
		if e.Type() == typeRedaction {
			t.redactions[e.Pos] = nil
		}
	}
	all = true
	for _, r := range c.Redacted {
		targets, known := t.redactions[r.By]
		all = all && known
		t.redactions[r.By] = append(targets, r.Pos)
	}
	return all
}

// targets returns the positions of the events that a redaction was applied to, and false if that is not remembered.
func (t *unreadTable) targets(redaction storage.Pos) ([]storage.Pos, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	targets, known := t.redactions[redaction]
	return targets, known
}

// Unread counts the events that a joined user has not read. Events stop counting when they expire, and messages of
// ignored users never count.
func (s *Service) Unread(ctx context.Context, tx *storage.Tx, user ident.UserNID, room ident.RoomNID) (u Unread, err error) {
	err = s.withUnread(ctx, tx, user, room, func(l *unreadList, r *rooms.Room, ignored map[ident.UserNID]bool) {
		u = l.count(r.Retention(), s.now(), ignored)
	})
	return u, err
}

// UnreadEvent returns the same counts as Unread, and in addition the push class of the event at pos for the user. The
// class is 0 if the event is not unread, and also if the user may not see it any more because it has expired or the
// user ignores its sender. In the second case shown is false.
func (s *Service) UnreadEvent(ctx context.Context, user ident.UserNID, room ident.RoomNID, pos storage.Pos) (class pushrules.Class, shown bool, u Unread, err error) {
	shown = true
	err = s.withUnread(ctx, nil, user, room, func(l *unreadList, r *rooms.Room, ignored map[ident.UserNID]bool) {
		policy, now := r.Retention(), s.now()
		u = l.count(policy, now, ignored)
		if e := l.entry(pos); e != nil {
			if shown = e.counts(policy, now, ignored); shown {
				class = e.class
			}
		}
	})
	return class, shown, u, err
}

// ReadEvents reports, for each of the given events of a room, whether the user has read it.
func (s *Service) ReadEvents(ctx context.Context, tx *storage.Tx, user ident.UserNID, room ident.RoomNID, events []storage.Pos) (read []bool, err error) {
	read = make([]bool, len(events))
	for i := range read {
		read[i] = true
	}
	err = s.withUnread(ctx, tx, user, room, func(l *unreadList, _ *rooms.Room, _ map[ident.UserNID]bool) {
		for i, pos := range events {
			read[i] = l.entry(pos) == nil
		}
	})
	return read, err
}

// withUnread calls f with the user's list of unread events in a room. The list is up to date and locked. If the user is
// not joined to the room, f is not called.
func (s *Service) withUnread(
	ctx context.Context, tx *storage.Tx, user ident.UserNID, room ident.RoomNID, f func(l *unreadList, r *rooms.Room, ignored map[ident.UserNID]bool),
) error {
	r, err := s.rooms.RoomByNID(ctx, room)
	if err != nil || !r.HasLocal(user) {
		return err
	}
	ignored, err := s.ignoredNIDs(ctx, tx, user)
	if err != nil {
		return err
	}
	l := s.unread.list(unreadKey{user, room})
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.valid || !l.extend(r, user, s.unread.targets) {
		err := s.readInner(ctx, tx, func(tx *storage.Tx) error { return recount(tx, user, []unreadRead{{room: r, list: l}}, false) })
		if err != nil {
			return err
		}
	}
	if len(l.unnamed()) > 0 {
		if err := s.readInner(ctx, tx, func(tx *storage.Tx) error { return nameRoots(tx, []*unreadList{l}) }); err != nil {
			return err
		}
	}
	f(l, r, ignored)
	return nil
}

// ignoredNIDs returns the numbers of the users whom the given user ignores. It omits users who have no number, since
// they have never sent anything.
func (s *Service) ignoredNIDs(ctx context.Context, tx *storage.Tx, user ident.UserNID) (map[ident.UserNID]bool, error) {
	list, err := s.accountData.Ignores(ctx, tx, user)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	out := make(map[ident.UserNID]bool, len(list))
	for who := range list {
		nid, found, err := s.rooms.LookupUserIn(ctx, tx, who)
		if err != nil {
			return nil, err
		}
		if found {
			out[nid] = true
		}
	}
	return out, nil
}

// readInner calls f with tx. If tx is nil, it calls f with a transaction on one of the connections for short lookups
// (DB.ReadInner). A request that waits for the lock of an unreadList holds none of these connections, so that there is
// no deadlock.
func (s *Service) readInner(ctx context.Context, tx *storage.Tx, f func(*storage.Tx) error) error {
	if tx != nil {
		return f(tx)
	}
	return s.db.ReadInner(ctx, f)
}

// extend adds the events that were committed after l.upTo, and removes those that were redacted. It returns false if
// memory does not have all of them, or if targets does not know what a redaction was applied to.
func (l *unreadList) extend(r *rooms.Room, user ident.UserNID, targets func(redaction storage.Pos) ([]storage.Pos, bool)) bool {
	news, ok := r.Recent(l.upTo)
	if !ok {
		return false
	}
	for _, e := range news {
		class, known := e.ClassFor(user)
		if !known {
			return false
		}
		if e.Type() == typeRedaction {
			redacted, known := targets(e.Pos)
			if !known || !l.remove(redacted) {
				return false
			}
		}
		l.add(user, storage.UnreadRow{
			Position: e.Pos, ThreadRoot: e.ThreadRoot, OriginTS: e.OriginServerTS(), ReceivedTS: e.ReceivedTS, Sender: e.SenderNID, IsState: e.IsState(), Push: int64(class),
		})
	}
	return true
}

// add adds one event to the list. If the user sent the event, everything before it in the same thread becomes read.
// Spec: client-server-api#marking-notifications-as-read
func (l *unreadList) add(user ident.UserNID, u storage.UnreadRow) {
	l.upTo = max(l.upTo, u.Position)
	if u.Sender == user {
		kept := l.entries[:0]
		for _, e := range l.entries {
			if e.thread != u.ThreadRoot {
				kept = append(kept, e)
			}
		}
		l.entries = kept
		return
	}
	if u.Push == 0 {
		return
	}
	if len(l.entries) >= maxUnread {
		l.entries = append(l.entries[:0], l.entries[1:]...)
	}
	l.entries = append(l.entries, unreadEntry{
		pos: u.Position, thread: u.ThreadRoot, sender: u.Sender, isState: u.IsState, class: pushrules.Class(u.Push), originTS: u.OriginTS, receivedTS: u.ReceivedTS,
	})
}

// remove removes redacted events from the list. It returns false if an event that was left out of a full list should
// take the place of one of them.
func (l *unreadList) remove(redacted []storage.Pos) bool {
	if len(redacted) == 0 {
		return true
	}
	full := len(l.entries) >= maxUnread
	kept := slices.DeleteFunc(l.entries, func(e unreadEntry) bool { return slices.Contains(redacted, e.pos) })
	removed := len(kept) < len(l.entries)
	l.entries = kept
	return !(full && removed)
}

// unnamed returns the roots of the threads in the list whose event IDs have not been looked up yet.
func (l *unreadList) unnamed() (roots []storage.Pos) {
	for i := range l.entries { // each time that a client is woken, so most entries cost a comparison only
		thread := l.entries[i].thread
		if thread == 0 {
			continue
		}
		if _, named := l.roots[thread]; !named {
			roots = append(roots, thread)
		}
	}
	return roots
}

// entry finds the event at position pos in the list. It returns nil if the list does not have it, which means that the
// event is not unread.
func (l *unreadList) entry(pos storage.Pos) *unreadEntry {
	for i := range slices.Backward(l.entries) { // mostly one of the newest
		if l.entries[i].pos == pos {
			return &l.entries[i]
		}
	}
	return nil
}

// counts reports whether the user can still see the event: it is a state event, or has neither expired nor been sent by
// an ignored user.
func (e *unreadEntry) counts(policy expiry.Policy, now time.Time, ignored map[ident.UserNID]bool) bool {
	return e.isState || !ignored[e.sender] && !expiry.Expired(policy, e.originTS, e.receivedTS, now)
}

// count adds up the events in the list that the user can still see. Replies to a thread root that was deleted or has
// expired count in the main timeline.
func (l *unreadList) count(policy expiry.Policy, now time.Time, ignored map[ident.UserNID]bool) (u Unread) {
	for i := range l.entries {
		e := &l.entries[i]
		if !e.counts(policy, now, ignored) {
			continue
		}
		if e.thread == 0 {
			u.Main.add(e.class)
			continue
		}
		root := l.roots[e.thread]
		if root.id == "" || root.expired(policy, now) {
			u.Main.add(e.class)
			continue
		}
		if u.Threads == nil {
			u.Threads = map[id.EventID]UnreadCount{}
		}
		c := u.Threads[root.id]
		c.add(e.class)
		u.Threads[root.id] = c
	}
	return u
}
