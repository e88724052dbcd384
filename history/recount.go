package history

import (
	"cmp"
	"math"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/graph"
	"ebb/storage"
)

// unreadPage is the number of events of a main timeline that are read at first to find those that a user has not read.
// Each further page is four times as large.
const unreadPage = 64

// PreloadUnread reads the user's unread events of joined rooms, with a few statements for all of them, so that Unread
// finds them in memory. It skips rooms whose events are in memory already.
func (s *Service) PreloadUnread(tx *storage.Tx, user ident.UserNID, list []*rooms.Room) error {
	var reads []unreadRead
	var copies, lists []*unreadList
	for _, r := range list {
		if l := s.unread.list(unreadKey{user, r.NID()}); r.HasLocal(user) && !l.known() {
			// The lists are not locked while they are read: two requests might lock them in different orders.
			c := &unreadList{notBefore: l.notBefore}
			reads, copies, lists = append(reads, unreadRead{room: r, list: c}), append(copies, c), append(lists, l)
		}
	}
	if len(reads) == 0 {
		return nil
	}
	if err := recount(tx, user, reads, true); err != nil {
		return err
	}
	if err := nameRoots(tx, copies); err != nil {
		return err
	}
	for i, l := range lists {
		l.adopt(copies[i])
	}
	return nil
}

// known reports whether the list has been read.
func (l *unreadList) known() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.valid
}

// adopt replaces the contents of the list by those of another list for the same user and room, unless l was read in the
// meantime.
func (l *unreadList) adopt(other *unreadList) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.valid {
		l.valid, l.upTo, l.entries, l.roots = other.valid, other.upTo, other.entries, other.roots
	}
}

// unreadRead is what is read to count the unread events of one room.
type unreadRead struct {
	room    *rooms.Room
	list    *unreadList                 // to be filled
	floor   ident.Order                 // the user has read everything up to here; 0: the user is not joined
	threads map[storage.Pos]ident.Order // by root: the user has read the thread up to here; root 0: the main timeline
	rows    []storage.UnreadRow
}

// bottom returns the order up to which the user has read the main timeline.
func (r *unreadRead) bottom() ident.Order { return max(r.floor, r.threads[0]) }

// recount builds the user's lists for some rooms anew. It takes a few statements for all of them, and more only for
// rooms whose unread events are not in memory. If fromMemory is set, events that are not settled are left out, and
// extend adds them; otherwise the lists have everything in the snapshot, such as the event of a commit that has just
// been announced.
func recount(tx *storage.Tx, user ident.UserNID, reads []unreadRead, fromMemory bool) error {
	if tx == nil {
		return errNeedTx
	}
	for i := range reads {
		l := reads[i].list
		l.valid, l.upTo, l.entries, l.roots = false, tx.Settled(), nil, nil
	}
	if err := readFloors(tx, user, reads); err != nil {
		return err
	}
	if err := readReplies(tx, user, reads); err != nil {
		return err
	}
	if err := readMain(tx, user, reads, fromMemory); err != nil {
		return err
	}
	for i := range reads {
		if r := &reads[i]; r.floor != 0 { // 0: the snapshot is older than the join
			upTo := storage.Pos(math.MaxInt64)
			if fromMemory {
				upTo = r.list.upTo
			}
			r.list.fill(user, r, upTo)
			r.list.valid = r.list.upTo >= r.list.notBefore
		}
	}
	return nil
}

// fill adds what was read of the room up to a position to an empty list.
func (l *unreadList) fill(user ident.UserNID, r *unreadRead, upTo storage.Pos) {
	slices.SortFunc(r.rows, func(a, b storage.UnreadRow) int { return cmp.Compare(a.Order, b.Order) })
	for _, row := range r.rows {
		if row.Position <= upTo && (row.Sender == user || row.Order > r.threads[row.ThreadRoot]) {
			l.add(user, row)
		}
	}
}

// readFloors finds out up to where a user has read the rooms and their threads.
func readFloors(tx *storage.Tx, user ident.UserNID, reads []unreadRead) error {
	nids := make([]ident.RoomNID, len(reads))
	at := make(map[ident.RoomNID]*unreadRead, len(reads))
	for i := range reads {
		nids[i] = reads[i].room.NID()
		at[nids[i]] = &reads[i]
	}
	joined, err := tx.JoinedPositions(user, nids)
	if err != nil {
		return err
	}
	receipts, err := tx.ReadUpTo(user, nids)
	if err != nil {
		return err
	}
	roots, err := rootsOf(tx, receipts)
	if err != nil {
		return err
	}
	for nid, r := range at {
		r.floor, r.threads = ident.Order(joined[nid])*graph.OrderStep, map[storage.Pos]ident.Order{}
	}
	for _, u := range receipts {
		switch r := at[u.Room]; u.Thread {
		case "":
			if r.floor != 0 {
				r.floor = max(r.floor, u.Order)
			}
		case "main":
			r.threads[0] = u.Order
		default:
			if root := roots[storage.EventName{Room: u.Room, ID: u.Thread}]; root != 0 {
				r.threads[root] = u.Order
			}
		}
	}
	return nil
}

// rootsOf returns the positions of the roots of the threads in which there are receipts.
func rootsOf(tx *storage.Tx, receipts []storage.ReadUpTo) (map[storage.EventName]storage.Pos, error) {
	var ids []string
	for _, u := range receipts {
		if u.Thread != "" && u.Thread != "main" {
			ids = append(ids, u.Thread)
		}
	}
	return tx.EventPositions(ids)
}

// readReplies reads the events in threads that the user may not have read.
func readReplies(tx *storage.Tx, user ident.UserNID, reads []unreadRead) error {
	at := make(map[ident.RoomNID]*unreadRead, len(reads))
	var nids []ident.RoomNID
	after := ident.Order(math.MaxInt64)
	for i := range reads {
		if r := &reads[i]; r.floor != 0 {
			at[r.room.NID()] = r
			nids, after = append(nids, r.room.NID()), min(after, r.floor)
		}
	}
	if len(nids) == 0 {
		return nil
	}
	rows, err := tx.UnreadReplies(user, nids, after, maxUnread)
	if err != nil {
		return err
	}
	if len(rows) == maxUnread && len(reads) > 1 { // those of some rooms are missing
		for i := range reads {
			if err := readReplies(tx, user, reads[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	for _, row := range rows {
		if r := at[row.Room]; row.Order > r.floor {
			r.rows = append(r.rows, row)
		}
	}
	return nil
}

// readMain reads the events in the main timelines that the user may not have read; if fromMemory is set, from memory as
// far as they are there.
func readMain(tx *storage.Tx, user ident.UserNID, reads []unreadRead, fromMemory bool) error {
	var nids []ident.RoomNID
	after := storage.Pos(math.MaxInt64)
	for i := range reads {
		// Events that this run of the server stored have the classes in memory, too. The others are older.
		if events, _ := reads[i].room.Ring(); fromMemory && reads[i].floor != 0 && len(events) > 0 && !events[0].Built {
			nids, after = append(nids, reads[i].room.NID()), min(after, events[0].Pos-1)
		}
	}
	var own map[storage.Pos]int64
	if len(nids) > 0 {
		var err error
		if own, err = tx.OwnPushes(user, nids, after, maxUnread); err != nil {
			return err
		}
	}
	for i := range reads {
		r := &reads[i]
		if r.floor == 0 || fromMemory && len(own) < maxUnread && r.recall(user, tx.Settled(), own) {
			continue
		}
		if err := r.page(tx, user); err != nil {
			return err
		}
	}
	return nil
}

// recall adds the events of the main timeline that are in memory, back to what the user has read or sent. It returns
// false and adds nothing if memory does not reach back that far. own has the push classes of events for which the user
// has one of their own; events after upTo do not count.
func (r *unreadRead) recall(user ident.UserNID, upTo storage.Pos, own map[storage.Pos]int64) bool {
	events, reach := r.room.Ring()
	var found []storage.UnreadRow
	whole := ident.Order(reach)*graph.OrderStep <= r.bottom()
	for _, e := range slices.Backward(events) {
		if e.Order <= r.bottom() {
			whole = true
			break
		}
		if e.Pos > upTo || e.ThreadRoot != 0 {
			continue
		}
		class, singled := own[e.Pos]
		if !singled {
			class = int64(e.Push)
		}
		if known, built := e.ClassFor(user); built {
			class = int64(known)
		}
		if class != 0 || e.SenderNID == user {
			found = append(found, storage.UnreadRow{
				Room: e.Room, Position: e.Pos, Order: e.Order, OriginTS: e.OriginServerTS(), ReceivedTS: e.ReceivedTS, Sender: e.SenderNID, IsState: e.IsState(), Push: class,
			})
		}
		if e.SenderNID == user {
			whole = true
			break
		}
	}
	if whole {
		r.rows = append(r.rows, found...)
	}
	return whole
}

// page reads the events of the main timeline from the database, back to what the user has read or sent.
func (r *unreadRead) page(tx *storage.Tx, user ident.UserNID) error {
	before, total := ident.Order(math.MaxInt64), 0
	for n := unreadPage; total < maxUnread; n *= 4 {
		rows, err := tx.Unread(user, r.room.NID(), r.bottom(), before, n)
		if err != nil {
			return err
		}
		r.rows, total = append(r.rows, rows...), total+len(rows)
		if len(rows) < n || slices.ContainsFunc(rows, func(u storage.UnreadRow) bool { return u.Sender == user }) {
			return nil
		}
		before = rows[n-1].Order
	}
	return nil
}

// nameRoots looks up the event IDs of the roots of threads in the given lists.
func nameRoots(tx *storage.Tx, lists []*unreadList) error {
	if tx == nil {
		return errNeedTx
	}
	var all []storage.Pos
	of := map[storage.Pos]*unreadList{}
	for _, l := range lists {
		for _, root := range l.unnamed() {
			if l.roots == nil {
				l.roots = map[storage.Pos]threadRoot{}
			}
			l.roots[root] = threadRoot{} // until it is found, it counts as deleted
			all, of[root] = append(all, root), l
		}
	}
	if len(all) == 0 {
		return nil
	}
	names, err := tx.EventIDsAt(all)
	for _, e := range names {
		of[e.Position].roots[e.Position] = threadRoot{id.EventID(e.EventID), e.IsState, e.Sent}
	}
	return err
}
