package feed

import (
	"context"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// departure says how the user left a room, or ceased to be invited to it.
type departure struct {
	leave  *rooms.Event   // the event that ended the user's last membership; nil if the user was not joined since the token
	joined storage.Pos    // where that membership began, or a position in it that the client knows
	after  []*rooms.Event // the user's later member events, such as a ban after a kick or the end of an invite, oldest first
}

// newest returns the user's newest member event, or nil if it was purged.
func (d *departure) newest() *rooms.Event {
	if len(d.after) > 0 {
		return d.after[len(d.after)-1]
	}
	return d.leave
}

// gatherLeft gathers what happened in a room until the user left it or was removed. It reports whether the room is part
// of the answer.
func (b *builder) gatherLeft(ctx context.Context, m *rooms.RoomMembership, n *roomNews) (bool, error) {
	room, err := b.opts.Rooms.RoomByNID(ctx, m.Room)
	if err != nil {
		return false, err
	}
	if !b.admits(room) {
		return false, nil
	}
	d, err := b.departure(ctx, room, m.Position)
	if err != nil || d.newest() == nil {
		return false, err
	}
	n.reset(b.query(room, d.leave == nil || d.joined > b.since.Pos))
	if err := b.planLeft(ctx, n, d); err != nil {
		return false, err
	}
	if err := b.gatherState(ctx, n); err != nil {
		return false, err
	}
	n.data = b.admittedData(n.room, b.own.roomData[m.Room])
	b.noteTimeline(n)
	return true, nil
}

// planLeft gathers the timeline of a room that the user has left, and decides which state to gather.
func (b *builder) planLeft(ctx context.Context, n *roomNews, d *departure) error {
	q := &n.wanted
	*q = stateWanted{room: n.room, since: n.since, sinceMember: n.since, lazy: n.lazy, left: d}
	if err := b.lastTimeline(ctx, n, d); err != nil {
		return err
	}
	if !n.stateAfter {
		if err := b.settle(ctx, q, &n.timeline); err != nil {
			return err
		}
	}
	if n.lazy && d.leave != nil {
		q.needed = senders(n.timeline.events)
		if n.fresh() {
			q.needed = append(q.needed, b.UserID)
		}
	}
	return nil
}

// lastTimeline gathers the timeline of a room that the user has left. It has the events up to the departure, followed
// by the user's own later member events, which are shown under any history visibility because they concern the user. If
// the user was not joined to the room since the token, the timeline has only the newest of these member events: a ban,
// or the end of an invite or a knock.
func (b *builder) lastTimeline(ctx context.Context, n *roomNews, d *departure) (err error) {
	t, q := &n.timeline, &n.wanted
	if d.leave == nil {
		*t = timeline{last: d.newest().Pos, view: b.opts.History.View(n.room, b.Requester)}
		b.appendOwn(n, d.after[len(d.after)-1:])
		t.limited = false
		return nil
	}
	if n.fresh() && q.lazy {
		if q.sinceMember, err = b.knownMembers(ctx, &n.roomQuery); err != nil {
			return err
		}
	}
	q.end = statePoint{pos: d.leave.Pos, event: d.leave}
	q.window = b.window(n.room, n.since)
	q.window.events = slices.DeleteFunc(slices.Clone(q.window.events), func(e *rooms.Event) bool { return e.Pos > d.leave.Pos })
	if *t, err = b.timeline(ctx, n.room, q.window, n.since, d.leave.Pos, n.limit); err != nil {
		return err
	}
	b.appendOwn(n, d.after)
	if n.fresh() && !n.initial && !t.fromCreation() {
		t.limited = true
	}
	return nil
}

// appendOwn appends the user's own member events to the timeline, as far as the filter admits them.
func (b *builder) appendOwn(n *roomNews, own []*rooms.Event) {
	t, f := &n.timeline, &b.filter.Room.Timeline
	for _, e := range own {
		if f.room(string(n.room.ID())) && f.event(e.Type(), string(e.Sender()), e.Content()) {
			t.events = append(t.events, e)
		}
	}
	if more := len(t.events) - n.limit; more > 0 {
		t.drop(more)
	}
	t.begin()
}

// senders returns the senders of events, each once.
func senders(events []*rooms.Event) []id.UserID {
	var list []id.UserID
	for _, e := range events {
		if !slices.Contains(list, e.Sender()) {
			list = append(list, e.Sender())
		}
	}
	return list
}

// departure finds out how the user left a room. pos is the position of the user's newest member event in it.
func (b *builder) departure(ctx context.Context, room *rooms.Room, pos storage.Pos) (*departure, error) {
	d := &departure{}
	err := b.eachOwnMember(ctx, room, pos, func(e *rooms.Event) bool {
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

// maxOwnMembers bounds the walk back through the user's own member events in a room. A client that was away for longer
// gets the room as a new one.
const maxOwnMembers = 200

// eachOwnMember calls f for the user's member events in a room, from the one at pos backwards, until f returns false.
func (b *builder) eachOwnMember(ctx context.Context, room *rooms.Room, pos storage.Pos, f func(*rooms.Event) bool) error {
	return b.read(ctx, func(tx *storage.Tx) error {
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

// knownMembers returns the position up to which the client knows the members of a room that otherwise counts as new to
// it, or 0 if it knows none. The client knows them if the user was joined at the position of the token, and has left
// and rejoined since: then the result is that position.
func (b *builder) knownMembers(ctx context.Context, q *roomQuery) (since storage.Pos, err error) {
	m := q.room.MemberOf(b.UserID)
	if q.initial || m == nil {
		return 0, nil
	}
	err = b.eachOwnMember(ctx, q.room, m.Pos, func(e *rooms.Event) bool {
		if e.Pos <= q.token && membership(e) == rooms.Join {
			since = q.token
		}
		return e.Pos > q.token
	})
	return since, err
}

// fromSnapshot adds the state that a room had when the user left it.
func (g *stateGatherer) fromSnapshot(ctx context.Context) error {
	if err := g.readAll(ctx, &g.q.end); err != nil {
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
	if err := g.lookUp(ctx, g.q.start, before); err != nil || g.q.since == 0 {
		return err
	}
	return g.fromResolved(ctx)
}
