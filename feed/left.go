package feed

import (
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// departure is how the user came to be outside of a room.
type departure struct {
	leave  *rooms.Event   // the event that ended the user's stay, nil if they were not in the room since the token
	joined storage.Pos    // where that stay began, or a place in it that the client knows
	after  []*rooms.Event // the user's member events since then, as a ban after a kick or the end of an invitation, oldest first
}

// newest is the user's current member event; nil if it is gone.
func (d *departure) newest() *rooms.Event {
	if len(d.after) > 0 {
		return d.after[len(d.after)-1]
	}
	return d.leave
}

// writeLeft appends the entry of a room that the user has left or was removed from: what happened up to then.
func (b *builder) writeLeft(m *rooms.RoomMembership) error {
	room, err := b.opts.Rooms.RoomByNID(b.ctx, m.Room)
	if err != nil {
		return err
	}
	if !b.admits(room) {
		return nil
	}
	d, err := b.departure(room, m.Position)
	if err != nil || d.newest() == nil {
		return err
	}
	q := stateWanted{room: room, lazy: b.lazy(), left: d}
	t, err := b.lastTimeline(&q)
	if err != nil {
		return err
	}
	if !b.wantsStateAfter() {
		if err := b.settle(&q, &t); err != nil {
			return err
		}
	}
	if q.lazy && d.leave != nil {
		q.needed = senders(t.events)
		if q.since == 0 {
			q.needed = append(q.needed, b.UserID)
		}
	}
	b.key(string(room.ID()))
	b.out = append(b.out, '{')
	if _, err := b.writeStates(&q); err != nil {
		return err
	}
	b.writeRoomData(room, b.own.roomData[m.Room])
	if err := b.writeTimeline(room, &t); err != nil {
		return err
	}
	b.out[len(b.out)-1] = '}'
	b.out = append(b.out, ',')
	return nil
}

// lastTimeline returns what the user saw last of a room, and after it the events of their own membership since, which are
// shown whatever the history visibility because they are about the user. One who was not in the room since the token sees
// the newest of those and nothing else: the end of the invitation or the knock, or a ban. q learns what the client knows.
func (b *builder) lastTimeline(q *stateWanted) (timeline, error) {
	d := q.left
	if d.leave == nil {
		t := timeline{last: d.newest().Pos, view: b.opts.History.View(q.room, b.Requester)}
		b.appendOwn(q.room, &t, d.after[len(d.after)-1:])
		t.limited = false
		return t, nil
	}
	if d.joined <= b.since.Pos {
		q.since, q.sinceMember = b.since.Pos, b.since.Pos
	} else if q.lazy {
		var err error
		if q.sinceMember, err = b.knownMembers(q.room); err != nil {
			return timeline{}, err
		}
	}
	q.end = &statePoint{pos: d.leave.Pos, event: d.leave}
	q.window = b.window(q.room, q.since)
	q.window.events = slices.DeleteFunc(slices.Clone(q.window.events), func(e *rooms.Event) bool { return e.Pos > d.leave.Pos })
	t, err := b.timeline(q.room, q.window, q.since, d.leave.Pos)
	if err != nil {
		return t, err
	}
	b.appendOwn(q.room, &t, d.after)
	if q.since == 0 && !b.initial && !t.fromCreation() {
		t.limited = true
	}
	return t, nil
}

// appendOwn appends the user's own member events to a timeline, as far as the filter admits them.
func (b *builder) appendOwn(room *rooms.Room, t *timeline, own []*rooms.Event) {
	f := &b.filter.Room.Timeline
	for _, e := range own {
		if f.room(string(room.ID())) && f.event(e.Type(), string(e.Sender()), e.Content()) {
			t.events = append(t.events, e)
		}
	}
	if more := len(t.events) - b.filter.timelineLimit(); more > 0 {
		t.drop(more)
	}
	t.begin()
}

// senders lists who sent events, each once.
func senders(events []*rooms.Event) []id.UserID {
	var list []id.UserID
	for _, e := range events {
		if !slices.Contains(list, e.Sender()) {
			list = append(list, e.Sender())
		}
	}
	return list
}

// departure finds out how the user left a room; pos is the position of the user's current member event.
func (b *builder) departure(room *rooms.Room, pos storage.Pos) (*departure, error) {
	d := &departure{}
	err := b.eachOwnMember(room, pos, func(e *rooms.Event) bool {
		switch {
		case membership(e) == rooms.Join:
			if d.leave == nil && len(d.after) > 0 {
				d.leave, d.after = d.after[0], d.after[1:]
			}
			d.joined = e.Pos
		case d.leave != nil:
			return false
		case e.Pos > b.since.Pos:
			d.after = slices.Insert(d.after, 0, e)
		}
		return e.Pos > b.since.Pos
	})
	return d, err
}

func membership(e *rooms.Event) rooms.Membership {
	raw, _ := canonjson.Get(e.Content(), "membership")
	text, _ := canonjson.Unquote(raw)
	return text
}

// maxOwnMembers bounds the walk back through the user's own memberships of a room. A client that was away for longer
// gets the room as one that it does not know.
const maxOwnMembers = 200

// eachOwnMember calls f for the user's member events in a room, from the one at pos backwards, until f returns false.
func (b *builder) eachOwnMember(room *rooms.Room, pos storage.Pos, f func(*rooms.Event) bool) error {
	return b.read(func(tx *storage.Tx) error {
		for range maxOwnMembers {
			events, err := eventsAt(tx, room, []storage.Pos{pos})
			if err != nil || len(events) == 0 || !f(events[0]) {
				return err
			}
			if pos, err = tx.StateKeyOf(events[0].Snapshot, memberType, string(b.UserID)); err != nil || pos == 0 {
				return err
			}
		}
		return nil
	})
}

// knownMembers returns the position at which the client knows the members of a room whose whole state it is given: the
// token's if the user was in the room then, who may have left and come back since; else 0.
func (b *builder) knownMembers(room *rooms.Room) (since storage.Pos, err error) {
	m := room.MemberOf(b.UserID)
	if b.initial || m == nil {
		return 0, nil
	}
	err = b.eachOwnMember(room, m.Pos, func(e *rooms.Event) bool {
		if e.Pos <= b.since.Pos && membership(e) == rooms.Join {
			since = b.since.Pos
		}
		return e.Pos > b.since.Pos
	})
	return since, err
}

// fromSnapshot adds the state of a room as it was when the user left.
func (g *stateGatherer) fromSnapshot() error {
	if err := g.readAll(g.q.end); err != nil {
		return err
	}
	g.q.end.entries[g.b.ownKey()] = g.q.left.newest().Pos
	var before []pdu.StateKey
	for key, pos := range g.q.end.entries {
		switch {
		case g.q.skips(key, pos):
		case g.q.shown[key]:
			before = append(before, key)
		default:
			g.add(key, pos, nil)
		}
	}
	if err := g.lookUp(g.q.start, before); err != nil || g.q.since == 0 {
		return err
	}
	return g.fromResolved()
}
