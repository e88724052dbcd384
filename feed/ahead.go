package feed

import (
	"maunium.net/go/mautrix/id"

	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
)

const (
	// aheadRooms is the number of joined rooms whose data a large answer reads together.
	aheadRooms = 64
	// maxAheadMembers is the number of members up to which all member events of a room are read ahead, and
	// maxAheadLazy the same under lazy loading, where a client needs few of them in a larger room.
	maxAheadMembers = 64
	maxAheadLazy    = 8
)

// ahead is what was read for the next joined rooms of a large answer, so that each room takes no statements of its own.
// What it does not have is read when it is needed.
type ahead struct {
	next   int // index in plan.joined of the first room that was not read
	left   int // rooms that were read and not gathered yet
	events map[storage.Pos]storage.EventRow
}

// aheadWanted says what an answer will need of the rooms that are read ahead.
type aheadWanted struct {
	limit  int  // the most timeline events
	lazy   bool // see roomQuery
	before bool // the state before the timeline
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
	end := min(a.next+aheadRooms, len(b.plan.joined))
	var group []*rooms.Room
	for _, j := range b.plan.joined[a.next:end] {
		if b.admits(j.room) {
			group = append(group, j.room)
		}
	}
	a.left, a.next = end-a.next-1, end
	return b.readGroup(group, aheadWanted{
		limit: b.filter.timelineLimit(), lazy: b.filter.Room.State.LazyLoadMembers, before: !b.StateAfter && !b.UnstableStateAfter,
	})
}

// readSlidingAhead is called before each room is gathered that is new to the client; i is its index in b.rooms. Before
// the first one of a group it reads for all of them.
func (b *slidingBuilder) readSlidingAhead(i int) error {
	if b.tx == nil {
		return nil
	}
	a := &b.ahead
	if a.left--; a.left >= 0 {
		return nil
	}
	var group []*rooms.Room
	var wanted aheadWanted
	for ; i < len(b.rooms) && len(group) < aheadRooms; i++ {
		if r := &b.rooms[i]; r.newJoined() {
			group = append(group, r.room)
			wanted.limit, wanted.lazy = max(wanted.limit, r.want.limit), wanted.lazy || r.want.lazy()
		}
	}
	a.left = len(group) - 1
	return b.readGroup(group, wanted)
}

// newJoined reports whether the client wants the room, does not have it, and the user is joined to it.
func (r *slidingRoom) newJoined() bool { return r.want != nil && r.sent < 0 && r.stage == stageJoined }

// readGroup reads the unread events of rooms, the member events that the client probably needs, which events those of
// the timelines replaced, and the entries of the states before the timelines that these change.
func (b *builder) readGroup(group []*rooms.Room, w aheadWanted) error {
	if err := b.opts.History.PreloadUnread(b.tx, b.UserNID, group); err != nil {
		return err
	}
	var members []storage.Pos
	var timelines []*rooms.Event
	var before []storage.StateKey
	for _, room := range group {
		ring, _ := room.Ring()
		events := ring[max(0, len(ring)-w.limit):]
		timelines = append(timelines, events...)
		members = b.appendMembers(members, room, events, w.lazy)
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
// probably needs: all of a small room, otherwise those of the user and of the senders of a timeline.
func (b *builder) appendMembers(dst []storage.Pos, room *rooms.Room, timeline []*rooms.Event, lazy bool) []storage.Pos {
	most := maxAheadMembers
	if lazy {
		most = maxAheadLazy
	}
	if room.MemberCount() <= most {
		room.EachMember(func(m *rooms.Member) {
			if m.Event() == nil {
				dst = append(dst, m.Pos)
			}
		})
		return dst
	}
	if !lazy {
		return dst
	}
	add := func(user id.UserID) {
		if m := room.MemberOf(user); m != nil && m.Event() == nil {
			dst = append(dst, m.Pos)
		}
	}
	add(b.UserID)
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
