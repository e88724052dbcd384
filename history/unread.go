package history

import (
	"context"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/pushrules"
	"ebb/rooms"
	"ebb/rooms/expiry"
	"ebb/storage"
)

// Unread is how many events of a room a user has not read, in the main timeline and in threads.
type Unread struct {
	Main    UnreadCount
	Threads map[id.EventID]UnreadCount // those that have any, by root
}

// UnreadCount counts notifications, and those among them that highlight.
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
	// maxUnread bounds what is remembered and counted per user and room: nobody reads "5000 unread" as a number.
	maxUnread = 5000
	// maxUnreadLists bounds the memory of the counts; any list can be counted again.
	maxUnreadLists = 20000
)

// unreadTable remembers what users have not read. Lists are made from the database, once, and extended from memory.
type unreadTable struct {
	// mu guards lists; a leaf lock.
	mu    sync.Mutex
	lists map[unreadKey]*unreadList
}

type unreadKey struct {
	user ident.UserNID
	room ident.RoomNID
}

// unreadList is what one user has not read of one room, oldest first.
type unreadList struct {
	notBefore storage.Pos // a snapshot that ends before it does not hold what the list was forgotten for

	// mu guards the rest; held over reads of the database.
	mu      sync.Mutex
	valid   bool
	upTo    storage.Pos // events up to here are looked at
	entries []unreadEntry
	roots   map[storage.Pos]id.EventID // of the threads among entries
}

type unreadEntry struct {
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

// forget makes the next count look at the database, because of a receipt or membership at a position. A count by an older
// snapshot, which may be under way, is not remembered.
func (t *unreadTable) forget(user ident.UserNID, room ident.RoomNID, pos storage.Pos) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lists == nil || len(t.lists) >= maxUnreadLists {
		t.lists = map[unreadKey]*unreadList{}
	}
	t.lists[unreadKey{user, room}] = &unreadList{notBefore: pos}
}

// forgetRoom is forget for every user.
func (t *unreadTable) forgetRoom(room ident.RoomNID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.lists {
		if k.room == room {
			delete(t.lists, k)
		}
	}
}

// committed is the Listener that forgets the lists that a commit has made wrong. New events are added when somebody asks.
func (t *unreadTable) committed(c *rooms.Commit) {
	if c.Entered || c.Rejudged || len(c.Purged) > 0 {
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

// Unread counts what a joined user has not read. Expired events do not count from the moment they expire, and messages of
// ignored users do not count at all.
func (s *Service) Unread(ctx context.Context, tx *storage.Tx, user ident.UserNID, room ident.RoomNID) (Unread, error) {
	r, err := s.rooms.RoomByNID(ctx, room)
	if err != nil || !r.HasLocal(user) {
		return Unread{}, err
	}
	ignored, err := s.ignoredNIDs(ctx, tx, user)
	if err != nil {
		return Unread{}, err
	}
	l := s.unread.list(unreadKey{user, room})
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.valid || !l.extend(r, user) {
		err := s.readInner(ctx, tx, func(tx *storage.Tx) error { return l.recount(tx, r, user) })
		if err != nil {
			return Unread{}, err
		}
	}
	if len(l.unnamed()) > 0 {
		if err := s.readInner(ctx, tx, l.nameRoots); err != nil {
			return Unread{}, err
		}
	}
	return l.count(r.Retention(), s.now(), ignored), nil
}

// ignoredNIDs lists whom a user ignores by short name; those who have none have sent nothing.
func (s *Service) ignoredNIDs(ctx context.Context, tx *storage.Tx, user ident.UserNID) (map[ident.UserNID]bool, error) {
	list, err := s.rooms.Ignores(ctx, tx, user)
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

// readInner reads through tx, or where there is none on a connection that nobody holds while waiting for a list.
func (s *Service) readInner(ctx context.Context, tx *storage.Tx, f func(*storage.Tx) error) error {
	if tx != nil {
		return f(tx)
	}
	return s.db.ReadInner(ctx, f)
}

// extend looks at what was committed since; false where memory does not tell.
func (l *unreadList) extend(r *rooms.Room, user ident.UserNID) bool {
	news, ok := r.Recent(l.upTo)
	if !ok {
		return false
	}
	for _, e := range news {
		class, known := e.ClassFor(user)
		if !known || e.Type() == typeRedaction {
			return false
		}
		l.add(user, storage.UnreadRow{
			Position: e.Pos, ThreadRoot: e.ThreadRoot, OriginTS: e.OriginServerTS(), ReceivedTS: e.ReceivedTS, Sender: e.SenderNID, IsState: e.IsState(), Push: int64(class),
		})
	}
	return true
}

// add takes one event in. The user's own events read what is before them in their thread.
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
		thread: u.ThreadRoot, sender: u.Sender, isState: u.IsState, class: pushrules.Class(u.Push), originTS: u.OriginTS, receivedTS: u.ReceivedTS,
	})
}

// recount reads everything after the user's receipts and join.
func (l *unreadList) recount(tx *storage.Tx, r *rooms.Room, user ident.UserNID) error {
	if tx == nil {
		return errNeedTx
	}
	l.valid, l.upTo, l.entries, l.roots = false, tx.Settled(), nil, nil
	floor, threads, err := readFloors(tx, r.NID(), user)
	if err != nil || floor == 0 {
		return err // 0: the snapshot is from before the join
	}
	rows, err := tx.Unread(user, r.NID(), floor, maxUnread)
	if err != nil {
		return err
	}
	for i := len(rows) - 1; i >= 0; i-- {
		if rows[i].Sender == user || rows[i].Order > threads[rows[i].ThreadRoot] {
			l.add(user, rows[i])
		}
	}
	l.valid = l.upTo >= l.notBefore
	return nil
}

// readFloors tells up to which order a user has read everything, 0 where they are not joined, and up to which single
// threads (by root; 0: main timeline).
func readFloors(tx *storage.Tx, room ident.RoomNID, user ident.UserNID) (floor ident.Order, threads map[storage.Pos]ident.Order, err error) {
	m, found, err := tx.MembershipOf(user, room)
	if err != nil {
		return 0, nil, err
	}
	if !found || m.JoinedPos == 0 {
		return 0, nil, nil
	}
	floor = ident.Order(m.JoinedPos) * rooms.OrderStep
	reads, err := tx.ReadUpTo(room, user)
	if err != nil {
		return 0, nil, err
	}
	threads = map[storage.Pos]ident.Order{}
	for _, u := range reads {
		switch u.Thread {
		case "":
			floor = max(floor, u.Order)
		case "main":
			threads[0] = u.Order
		default:
			root, found, err := tx.EventPosition(room, u.Thread)
			if err != nil {
				return 0, nil, err
			}
			if found {
				threads[root] = u.Order
			}
		}
	}
	return floor, threads, nil
}

// nameRoots finds the ids of the threads' roots.
func (l *unreadList) nameRoots(tx *storage.Tx) error {
	if tx == nil {
		return errNeedTx
	}
	if l.roots == nil {
		l.roots = map[storage.Pos]id.EventID{}
	}
	unnamed := l.unnamed()
	names, err := tx.EventNames(unnamed)
	for _, root := range unnamed {
		l.roots[root] = "" // one that is gone
	}
	for _, e := range names {
		l.roots[e.Position] = id.EventID(e.EventID)
	}
	return err
}

func (l *unreadList) unnamed() (roots []storage.Pos) {
	for _, e := range l.entries {
		if _, named := l.roots[e.thread]; e.thread != 0 && !named {
			roots = append(roots, e.thread)
		}
	}
	return roots
}

// count sums up what has not expired and is not ignored; neither happens to state events. Replies to a root that is gone
// count in the main timeline.
func (l *unreadList) count(policy expiry.Policy, now time.Time, ignored map[ident.UserNID]bool) (u Unread) {
	for _, e := range l.entries {
		if !e.isState && (ignored[e.sender] || expiry.Expired(policy, e.originTS, e.receivedTS, now)) {
			continue
		}
		root := l.roots[e.thread]
		if root == "" {
			u.Main.add(e.class)
			continue
		}
		if u.Threads == nil {
			u.Threads = map[id.EventID]UnreadCount{}
		}
		c := u.Threads[root]
		c.add(e.class)
		u.Threads[root] = c
	}
	return u
}
