package feed

import (
	"maunium.net/go/mautrix/id"

	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
)

const (
	// manyRooms is the number of rooms whose data is not in memory from which one snapshot for the whole answer is
	// cheaper than a read for each room.
	manyRooms = 4
	// aheadRooms is the number of joined rooms whose data such an answer reads together.
	aheadRooms = 64
	// maxAheadMembers is the number of members up to which all member events of a room are read ahead, and
	// maxAheadLazy the same under lazy loading, where a client needs few of them in a larger room.
	maxAheadMembers = 64
	maxAheadLazy    = 8
)

// ahead is what was read for the next joined rooms of an answer, so that each room takes no statements of its own. What
// it does not have is read when it is needed.
type ahead struct {
	next   int // index in plan.joined, or in slidingBuilder.rooms, of the first room that was not read
	left   int // rooms of plan.joined that were read and not gathered yet
	events map[storage.Pos]storage.EventRow
}

// aheadRoom is a room that is read ahead. The client has it up to since; 0: it is new to the client.
type aheadRoom struct {
	*rooms.Room
	since storage.Pos
}

// aheadWanted says what an answer will need of the rooms that are read ahead.
type aheadWanted struct {
	limit  int  // the most timeline events
	lazy   bool // see roomQuery
	before bool // the state before the timeline
}

// isCold reports whether an answer has to read the database to tell what is new in a joined room that the client has up
// to since.
func (b *builder) isCold(room *rooms.Room, since storage.Pos) bool {
	return !b.window(room, since).whole || !b.opts.History.UnreadInMemory(b.UserNID, room.NID())
}

// manyCold reports whether many rooms of the answer are not in memory, as in the first answers after a restart.
func (b *builder) manyCold() bool {
	if len(b.plan.joined) < manyRooms {
		return false
	}
	n := 0
	for i := 0; i < len(b.plan.joined) && n < manyRooms; i++ {
		if a := b.aheadRoom(i); b.admits(a.Room) && b.isCold(a.Room, a.since) {
			n++
		}
	}
	return n >= manyRooms
}

// aheadRoom returns the room at an index of plan.joined.
func (b *builder) aheadRoom(i int) aheadRoom {
	j := &b.plan.joined[i]
	return aheadRoom{j.room, b.query(j.room, j.fresh).since}
}

// readAhead is called before each joined room is gathered. Before the first one of a group it reads for all of them.
func (b *builder) readAhead() error {
	if b.tx == nil || len(b.plan.joined) < 2 {
		return nil
	}
	a := &b.ahead
	if a.left--; a.left >= 0 {
		return nil
	}
	first := a.next
	a.next = min(first+aheadRooms, len(b.plan.joined))
	a.left = a.next - first - 1
	var group []aheadRoom
	for i := first; i < a.next; i++ {
		if r := b.aheadRoom(i); b.admits(r.Room) {
			group = append(group, r)
		}
	}
	return b.readGroup(group, aheadWanted{
		limit: b.filter.timelineLimit(), lazy: b.filter.Room.State.LazyLoadMembers, before: !b.StateAfter && !b.UnstableStateAfter,
	})
}

// manyWantedCold is like manyCold, for the rooms that the client wants.
func (b *slidingBuilder) manyWantedCold() bool {
	wanted := 0
	for i := 0; i < len(b.rooms) && wanted < manyRooms; i++ {
		if b.isWanted(&b.rooms[i]) {
			wanted++
		}
	}
	if wanted < manyRooms {
		return false
	}
	n := 0
	for i := 0; i < len(b.rooms) && n < manyRooms; i++ {
		if r := &b.rooms[i]; b.isWanted(r) && (r.sent < 0 || b.isCold(r.room, r.since)) {
			n++
		}
	}
	return n >= manyRooms
}

// isWanted reports whether the client wants a room to which the user is joined, and may not have everything in it.
func (b *slidingBuilder) isWanted(r *slidingRoom) bool {
	return r.want != nil && r.stage == stageJoined && b.mayHaveNews(r)
}

// readSlidingAhead is called before the room at an index of b.rooms is gathered. Before the first one of a group it
// reads for all of them.
func (b *slidingBuilder) readSlidingAhead(i int) error {
	if b.tx == nil || i < b.ahead.next {
		return nil
	}
	var group []aheadRoom
	var wanted aheadWanted
	for ; i < len(b.rooms) && len(group) < aheadRooms; i++ {
		if r := &b.rooms[i]; b.isWanted(r) {
			group = append(group, aheadRoom{r.room, r.since})
			wanted.limit, wanted.lazy = max(wanted.limit, r.want.limit), wanted.lazy || r.want.lazy()
		}
	}
	b.ahead.next = i
	return b.readGroup(group, wanted)
}

// readGroup reads the unread events of rooms, the member events that the client probably needs, which events those of
// the timelines replaced, and the entries of the states before the timelines that these change.
func (b *builder) readGroup(group []aheadRoom, w aheadWanted) error {
	list := make([]*rooms.Room, len(group))
	for i, r := range group {
		list[i] = r.Room
	}
	if err := b.opts.History.PreloadUnread(b.tx, b.UserNID, list); err != nil {
		return err
	}
	var members []storage.Pos
	var timelines []*rooms.Event
	var before []storage.StateKey
	for _, r := range group {
		events := b.window(r.Room, r.since).events
		events = events[max(0, len(events)-w.limit):]
		timelines = append(timelines, events...)
		members = b.appendMembers(members, r, events, w.lazy)
		if w.before {
			before = appendChanged(before, events)
		}
	}
	rows, err := b.tx.EventsAt(members)
	if err != nil {
		return err
	}
	b.ahead.events = make(map[storage.Pos]storage.EventRow, len(rows))
	for _, row := range rows {
		b.ahead.events[row.Position] = row
	}
	if err := b.opts.History.PreloadFormer(b.tx, timelines); err != nil {
		return err
	}
	return b.readStatesAhead(before)
}

// readStatesAhead looks up entries of past states, so that stateKeyOf finds them in memory.
func (b *builder) readStatesAhead(wanted []storage.StateKey) error {
	if len(wanted) == 0 {
		return nil
	}
	found, err := b.tx.StateKeysOf(wanted)
	if err != nil {
		return err
	}
	for _, w := range wanted {
		b.past.Put(pastKey{w.Snapshot, pdu.StateKey{Type: w.Type, Key: w.Key}}, found[w])
	}
	return nil
}

// appendChanged appends the entries of the state before a timeline that the timeline changes.
func appendChanged(dst []storage.StateKey, timeline []*rooms.Event) []storage.StateKey {
	for _, e := range timeline {
		if key, isState := stateKey(e); isState && timeline[0].Snapshot != 0 {
			dst = append(dst, storage.StateKey{Snapshot: timeline[0].Snapshot, Type: key.Type, Key: key.Key})
		}
	}
	return dst
}

// appendMembers appends the positions of the member events of a room that are not in memory and that the client
// probably needs: those that changed in a small room, otherwise, under lazy loading, those of the senders of a
// timeline.
func (b *builder) appendMembers(dst []storage.Pos, r aheadRoom, timeline []*rooms.Event, lazy bool) []storage.Pos {
	most := maxAheadMembers
	if lazy {
		most = maxAheadLazy
	}
	if (r.since == 0 || !lazy) && r.MemberCount() <= most {
		r.EachMember(func(m *rooms.Member) {
			if m.Event() == nil && m.Changed > r.since {
				dst = append(dst, m.Pos)
			}
		})
		return dst
	}
	if !lazy {
		return dst
	}
	add := func(user id.UserID) {
		if m := r.MemberOf(user); m != nil && m.Event() == nil && (r.since == 0 || !b.memberSent(r.Room, user, m.Pos)) {
			dst = append(dst, m.Pos)
		}
	}
	if r.since == 0 {
		add(b.UserID)
	}
	for i, e := range timeline {
		if i == 0 || e.Sender() != timeline[i-1].Sender() {
			add(e.Sender())
		}
	}
	return dst
}

// take moves those of the given events that were read ahead to rows, and returns the other positions.
func (a *ahead) take(positions []storage.Pos) (rows []storage.EventRow, rest []storage.Pos) {
	for _, pos := range positions {
		if row, found := a.events[pos]; found {
			rows = append(rows, row)
		} else {
			rest = append(rest, pos)
		}
	}
	return rows, rest
}
