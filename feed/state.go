package feed

import (
	"context"
	"math"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
)

const memberType = "m.room.member"

// stateWanted says which state of a room goes into an answer. A client that applies this state and then the timeline
// must end up with the state at the end of the timeline. So each entry is sent as it is at the end. This also covers
// events that are missing from the timeline because the user may not see them or the filter excludes them. The
// exception are entries that the timeline changes: they are sent as they were at its start. A client that asked for
// state_after does not apply the timeline, and gets every entry as it is at the end.
type stateWanted struct {
	room        *rooms.Room
	since       storage.Pos // the client has the state at this position; 0: none
	sinceMember storage.Pos // the same for members
	start       *statePoint // of the timeline
	end         statePoint
	shown       map[pdu.StateKey]bool // entries that the timeline changes
	window      window                // of since
	lazy        bool                  // members only where needed, or changed since sinceMember
	force       bool                  // send needed members even if they were sent before
	needed      []id.UserID
	left        *departure // set if the user has left the room; end is then the state at the departure
}

// statePoint is a point in a room's history: it stands for the state before the event there.
type statePoint struct {
	pos     storage.Pos                  // the event is the oldest one from here on
	event   *rooms.Event                 // nil: not looked up, or none
	entries map[pdu.StateKey]storage.Pos // the whole state, if it was read
}

// order returns the point's position in timeline order.
func (p *statePoint) order() ident.Order {
	if p.event != nil {
		return p.event.Order
	}
	return ident.Order(p.pos) * orderStep
}

// ofMembers reports whether the key belongs to a member event.
func ofMembers(key pdu.StateKey) bool { return key.Type == memberType }

// atEnd returns the position of the entry with the given key in the state at q.end, or 0 if there is none.
func (b *builder) atEnd(ctx context.Context, q *stateWanted, key pdu.StateKey) (storage.Pos, error) {
	if q.left != nil {
		if key == b.ownKey() {
			return q.left.newest().Pos, nil
		}
		return b.entryAt(ctx, q, &q.end, key)
	}
	var pos storage.Pos
	if ofMembers(key) {
		if m := q.room.MemberOf(id.UserID(key.Key)); m != nil {
			pos = m.Pos
		}
	} else if e := q.room.State(key.Type, key.Key); e != nil {
		pos = e.Pos
	}
	if pos <= b.upTo {
		return pos, nil
	}
	return b.entryAt(ctx, q, &q.end, key)
}

// ownKey returns the key of the user's own member event.
func (b *builder) ownKey() pdu.StateKey { return pdu.StateKey{Type: memberType, Key: string(b.UserID)} }

// entryAt returns the position of the entry with the given key in the state at point p, or 0 if there is none.
func (b *builder) entryAt(ctx context.Context, q *stateWanted, p *statePoint, key pdu.StateKey) (storage.Pos, error) {
	if e := q.window.before(p.order(), key); e != nil {
		return e.Pos, nil
	}
	if p.entries != nil {
		return p.entries[key], nil
	}
	if p.event == nil {
		var err error
		if p.event, err = b.firstAfter(ctx, q.room, p.pos); p.event == nil || err != nil {
			return 0, err
		}
	}
	return b.stateKeyOf(ctx, p.event.Snapshot, key)
}

// before returns the newest event of the window that sets an entry and comes before order; nil if there is none.
func (w *window) before(order ident.Order, key pdu.StateKey) *rooms.Event {
	for _, e := range slices.Backward(w.events) {
		if k, isState := stateKey(e); isState && k == key && e.Order < order {
			return e
		}
	}
	return nil
}

// settle determines which entries the timeline changes. The last change of an entry in the timeline may not be its
// value at the end, since a later change is hidden from the user. The client would then end up with the wrong state; so
// the timeline is cut after that change, as if there were a gap. It is not cut if state resolution chose an earlier
// value, because another server could use that to hide messages. Clients that need the right state in this case use
// state_after.
func (b *builder) settle(ctx context.Context, q *stateWanted, t *timeline) error {
	for i, e := range slices.Backward(t.events) {
		key, isState := stateKey(e)
		if !isState || q.shown[key] {
			continue
		}
		counts, err := b.countsAtEnd(ctx, q, key, e)
		if err != nil {
			return err
		}
		if !counts {
			t.drop(i + 1)
			break
		}
		if q.shown == nil {
			q.shown = map[pdu.StateKey]bool{}
		}
		q.shown[key] = true
	}
	q.start = &t.start
	return nil
}

// countsAtEnd reports whether e, a state event of the timeline with the given key, is still in the state at the end.
func (b *builder) countsAtEnd(ctx context.Context, q *stateWanted, key pdu.StateKey, e *rooms.Event) (bool, error) {
	pos, err := b.atEnd(ctx, q, key)
	switch {
	case err != nil || pos <= e.Pos: // see settle; or the server that made the user leave did not have the event
		return true, err
	case q.left != nil:
		return false, nil
	}
	current := q.room.State(key.Type, key.Key) // an event known before it arrived is stored twice
	return current != nil && current.ID() == e.ID(), nil
}

// stateFor returns the events of the state that q describes.
func (b *builder) stateFor(ctx context.Context, q *stateWanted) ([]*rooms.Event, error) {
	g := stateGatherer{b: b, q: q, have: map[pdu.StateKey]bool{}}
	var err error
	switch {
	case q.left != nil && q.left.leave == nil:
		g.ownMember()
	case q.since > 0 && q.window.whole:
		err = g.fromWindow(ctx)
	case q.left != nil:
		err = g.fromSnapshot(ctx)
	default:
		err = g.fromHead(ctx)
	}
	if err == nil && q.lazy {
		err = g.neededMembers(ctx)
	}
	if err != nil {
		return nil, err
	}
	if err := g.load(ctx); err != nil {
		return nil, err
	}
	return g.events, nil
}

// stateGatherer collects the events of one state section.
type stateGatherer struct {
	b      *builder
	q      *stateWanted
	have   map[pdu.StateKey]bool
	events []*rooms.Event
	absent []storage.Pos // events to be read
}

// add adds the entry with the given key, whose event is at position pos. e is that event, or nil if it must be read
// from the database.
func (g *stateGatherer) add(key pdu.StateKey, pos storage.Pos, e *rooms.Event) {
	g.have[key] = true
	if ofMembers(key) && g.q.lazy {
		g.b.sentMember(g.q.room, id.UserID(key.Key), pos) // it need not be sent again with the next message
	}
	if e == nil {
		g.absent = append(g.absent, pos)
		return
	}
	g.events = append(g.events, e)
}

// find returns the event of an entry if it is in memory, else nil.
func (g *stateGatherer) find(key pdu.StateKey, pos storage.Pos) *rooms.Event {
	if i, found := slices.BinarySearchFunc(g.q.window.events, pos, byPos); found {
		return g.q.window.events[i]
	}
	if ofMembers(key) {
		return nil
	}
	if e := g.q.room.State(key.Type, key.Key); e != nil && e.Pos == pos {
		return e
	}
	return nil
}

// ownMember adds the user's own member event and nothing else, unless the timeline has that event.
func (g *stateGatherer) ownMember() {
	if e := g.q.left.newest(); !g.q.shown[g.b.ownKey()] {
		g.add(g.b.ownKey(), e.Pos, e)
	}
}

// fromWindow adds the entries that were changed by events since the token. All of these events are in memory.
func (g *stateGatherer) fromWindow(ctx context.Context) error {
	seen := map[pdu.StateKey]bool{}
	for _, e := range slices.Backward(g.q.window.events) {
		key, isState := stateKey(e)
		if !isState || seen[key] {
			continue
		}
		seen[key] = true
		if g.q.shown[key] {
			if e := g.q.window.before(g.q.start.order(), key); e != nil {
				g.add(key, e.Pos, e)
			}
			continue
		}
		pos, err := g.b.atEnd(ctx, g.q, key)
		if err != nil {
			return err
		}
		if pos > g.q.since {
			g.add(key, pos, g.find(key, pos))
		}
	}
	return g.fromResolved(ctx)
}

// fromResolved adds the entries that have changed since the token only because of state resolution, so that no event in
// the timeline changes them.
func (g *stateGatherer) fromResolved(ctx context.Context) error {
	for _, key := range g.q.room.Resolved(g.q.since) {
		if g.have[key] || g.q.shown[key] {
			continue
		}
		pos, err := g.b.atEnd(ctx, g.q, key)
		if err != nil {
			return err
		}
		if pos != 0 {
			g.add(key, pos, g.find(key, pos))
		}
	}
	return nil
}

func stateKey(e *rooms.Event) (pdu.StateKey, bool) {
	key, isState := e.StateKey()
	return pdu.StateKey{Type: e.Type(), Key: key}, isState
}

// skips reports whether the client does not get the entry with the given key, which last changed at the position
// changed. neededMembers may still add members that are skipped because of lazy loading.
func (q *stateWanted) skips(key pdu.StateKey, changed storage.Pos) bool {
	if !ofMembers(key) {
		return changed <= q.since
	}
	return q.lazy && q.sinceMember == 0 || changed <= q.sinceMember
}

// fromHead adds the entries of the current state that have changed.
func (g *stateGatherer) fromHead(ctx context.Context) error {
	var before, later []pdu.StateKey  // to be looked up at the start, at the end
	completed := g.q.room.Completed() // not below: the room is locked there
	g.q.room.EachState(func(key pdu.StateKey, pos, changed storage.Pos, e *rooms.Event) bool {
		switch {
		case g.q.skips(key, changed):
		case g.q.shown[key]:
			before = append(before, key)
		case ofMembers(key) && g.q.sinceMember > 0 && changed == completed: // clients that want all members got the room as a new one then
		case pos > g.b.upTo:
			later = append(later, key)
		default:
			g.add(key, pos, e)
		}
		return true
	})
	if err := g.lookUp(ctx, g.q.start, before); err != nil {
		return err
	}
	return g.lookUp(ctx, &g.q.end, later)
}

// lookUp adds the entries with the given keys of the state at point p, unless the client has them.
func (g *stateGatherer) lookUp(ctx context.Context, p *statePoint, keys []pdu.StateKey) error {
	if len(keys) >= manyEntries && p.event != nil && p.entries == nil {
		if err := g.readAll(ctx, p); err != nil {
			return err
		}
	}
	for _, key := range keys {
		pos, err := g.b.entryAt(ctx, g.q, p, key)
		if err != nil {
			return err
		}
		if pos != 0 && !g.q.skips(key, pos) {
			g.add(key, pos, g.find(key, pos))
		}
	}
	return nil
}

// manyEntries is the number of entries from which a past state is read in one query rather than entry by entry.
const manyEntries = 100

// readAll reads the whole state at a point.
func (g *stateGatherer) readAll(ctx context.Context, p *statePoint) error {
	return g.b.read(ctx, func(tx *storage.Tx) error {
		entries, err := tx.StateOf(p.event.Snapshot)
		p.entries = make(map[pdu.StateKey]storage.Pos, len(entries))
		for _, e := range entries {
			p.entries[pdu.StateKey{Type: e.Type, Key: e.Key}] = e.Position
		}
		return err
	})
}

// stateKeyOf returns one entry of a past state. Past states never change, and other clients that sync the room ask for
// the same entries, so they are cached.
func (b *builder) stateKeyOf(ctx context.Context, snapshot int64, key pdu.StateKey) (pos storage.Pos, err error) {
	k := pastKey{snapshot, key}
	if pos, known := b.past.Get(k); known {
		return pos, nil
	}
	err = b.read(ctx, func(tx *storage.Tx) (err error) {
		pos, err = tx.StateKeyOf(snapshot, key.Type, key.Key)
		return err
	})
	if err == nil {
		b.past.Put(k, pos)
	}
	return pos, err
}

// pastKey identifies an entry of a past state.
type pastKey struct {
	snapshot int64
	key      pdu.StateKey
}

// maxPast bounds the entries of past states in memory; one has some 100 bytes.
const maxPast = 20_000

// neededMembers adds the member events that the client needs to show the timeline.
func (g *stateGatherer) neededMembers(ctx context.Context) error {
	for _, user := range g.q.needed {
		key := pdu.StateKey{Type: memberType, Key: string(user)}
		if g.have[key] {
			continue
		}
		var pos storage.Pos
		var err error
		if g.q.shown[key] {
			pos, err = g.b.entryAt(ctx, g.q, g.q.start, key)
		} else {
			pos, err = g.b.atEnd(ctx, g.q, key)
		}
		if err != nil {
			return err
		}
		if pos != 0 && (g.q.force || !g.b.memberSent(g.q.room, user, pos)) {
			g.add(key, pos, g.find(key, pos))
		}
	}
	return nil
}

// load reads the events that were not in memory.
func (g *stateGatherer) load(ctx context.Context) error {
	rows, absent := g.b.ahead.take(g.absent)
	events, err := g.q.room.LoadEvents(rows)
	if g.events = append(g.events, events...); err != nil || len(absent) == 0 {
		return err
	}
	return g.b.read(ctx, func(tx *storage.Tx) error {
		events, err := eventsAt(tx, g.q.room, absent)
		g.events = append(g.events, events...)
		return err
	})
}

// eventsAt reads events by position.
func eventsAt(tx *storage.Tx, room *rooms.Room, positions []storage.Pos) ([]*rooms.Event, error) {
	rows, err := tx.EventsAt(positions)
	if err != nil {
		return nil, err
	}
	return room.LoadEvents(rows)
}

// firstAfter returns the oldest event of a room at or after the given position, or nil if there is none.
func (b *builder) firstAfter(ctx context.Context, room *rooms.Room, pos storage.Pos) (first *rooms.Event, err error) {
	ring, reach := room.Ring()
	if reach < pos {
		if i, _ := slices.BinarySearchFunc(ring, pos, byPos); i < len(ring) {
			return ring[i], nil
		}
		return nil, nil
	}
	// The events have been dropped from memory since the answer was begun.
	err = b.opts.DB.ReadInner(ctx, func(tx *storage.Tx) error {
		rows, err := tx.Timeline(room.NID(), ident.Order(pos)*orderStep-1, math.MaxInt64, false, 1)
		if err != nil || len(rows) == 0 {
			return err
		}
		events, err := room.LoadEvents(rows)
		first = events[0]
		return err
	})
	return first, err
}

// memberSent reports whether the client has been sent a member event before (see memberKey).
func (b *builder) memberSent(room *rooms.Room, user id.UserID, pos storage.Pos) bool {
	if b.filter.Room.State.IncludeRedundantMembers || b.initial {
		return false
	}
	return b.session.wasSent(b.sessions.seed, b.memberKey(room, user, pos), b.since.Pos)
}

// sentMember records that the answer contains a member event.
func (b *builder) sentMember(room *rooms.Room, user id.UserID, pos storage.Pos) {
	b.sent = append(b.sent, b.memberKey(room, user, pos))
}

func (b *builder) memberKey(room *rooms.Room, user id.UserID, pos storage.Pos) memberKey {
	return memberKey{chain: b.since.Chain, filter: b.filter.number, room: room.NID(), member: user, event: pos}
}
