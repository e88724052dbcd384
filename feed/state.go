package feed

import (
	"math"
	"slices"
	"sync"

	"maunium.net/go/mautrix/id"

	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
)

const memberType = "m.room.member"

// stateWanted says which state of a room a section is to tell.
type stateWanted struct {
	room   *rooms.Room
	since  storage.Pos // the client knows the state of then; 0: nothing
	before storage.Pos // the state before this position
	// first is the oldest event at or after before; its snapshot is that state. nil: the current state is.
	first   *rooms.Event
	window  window // of since
	lazy    bool   // members only where needed, or changed while the client looked away
	force   bool   // give needed members even if they were given before
	needed  []id.UserID
	leave   *rooms.Event // of a room that the user has left: the state is of then
	nothing bool         // the state is none of the user's business
}

// stateAt gathers the state that is wanted: what changed in (since, before), and under lazy loading the needed members.
func (b *builder) stateAt(q *stateWanted) ([]*rooms.Event, error) {
	if q.nothing {
		return nil, nil
	}
	g := stateGatherer{b: b, q: q, have: map[pdu.StateKey]bool{}}
	var err error
	switch {
	case q.since > 0 && q.window.whole:
		g.fromWindow()
	case q.leave != nil:
		err = g.fromSnapshot()
	default:
		err = g.fromHead()
	}
	if err == nil && q.lazy {
		err = g.neededMembers()
	}
	if err != nil {
		return nil, err
	}
	if err := g.load(); err != nil {
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
	absent []storage.Pos                // events to be read
	past   map[pdu.StateKey]storage.Pos // the state before the oldest event; nil: read entry by entry
}

func (g *stateGatherer) add(key pdu.StateKey, pos storage.Pos, e *rooms.Event) {
	g.have[key] = true
	if key.Type == memberType && g.q.lazy {
		g.b.sentMember(g.q.room, id.UserID(key.Key), pos) // so that it need not be repeated for the next message
	}
	if e == nil {
		g.absent = append(g.absent, pos)
		return
	}
	g.events = append(g.events, e)
}

// fromWindow takes the changes from the events since the token, all of which are in memory.
func (g *stateGatherer) fromWindow() {
	for i := len(g.q.window.events) - 1; i >= 0; i-- {
		e := g.q.window.events[i]
		if key, isState := stateKey(e); isState && e.Pos < g.q.before && !g.have[key] {
			g.add(key, e.Pos, e)
		}
	}
	g.fromResolved()
}

// fromResolved takes what state resolution made current since the token, which no event of the timeline shows.
func (g *stateGatherer) fromResolved() {
	for _, key := range g.q.room.Resolved(g.q.since) {
		if g.have[key] {
			continue
		}
		if e := g.q.room.State(key.Type, key.Key); e != nil && e.Pos < g.q.before {
			g.add(key, e.Pos, e)
		}
	}
}

func stateKey(e *rooms.Event) (pdu.StateKey, bool) {
	key, isState := e.StateKey()
	return pdu.StateKey{Type: e.Type(), Key: key}, isState
}

// fromHead takes the current state, and looks up what stood there before where an entry has changed since.
func (g *stateGatherer) fromHead() error {
	var newer []pdu.StateKey
	completed := g.q.room.Completed() // not below: the room is locked there
	g.q.room.EachState(func(key pdu.StateKey, pos, changed storage.Pos, e *rooms.Event) bool {
		switch {
		case key.Type == memberType && g.q.lazy && g.q.since == 0: // neededMembers
		case pos >= g.q.before:
			newer = append(newer, key)
		case key.Type == memberType && g.q.since > 0 && changed == completed: // who wants all members got the room anew then
		case changed > g.q.since:
			g.add(key, pos, e)
		}
		return true
	})
	if err := g.loadPast(len(newer)); err != nil {
		return err
	}
	for _, key := range newer {
		pos, err := g.before(key)
		if err != nil {
			return err
		}
		if pos > g.q.since {
			g.add(key, pos, nil)
		}
	}
	return nil
}

// manyEntries is from how many entries of a past state on the whole of it is read at once.
const manyEntries = 100

// loadPast reads the state before the oldest event of the timeline where many entries of it are looked for: as where the members of a room
// became known after the events that clients are shown of it.
func (g *stateGatherer) loadPast(wanted int) error {
	if wanted < manyEntries {
		return nil
	}
	first, err := g.oldest()
	if err != nil || first == nil {
		return err
	}
	return g.b.read(func(tx *storage.Tx) error {
		entries, err := tx.StateOf(first.Snapshot)
		g.past = make(map[pdu.StateKey]storage.Pos, len(entries))
		for _, e := range entries {
			g.past[pdu.StateKey{Type: e.Type, Key: e.Key}] = e.Position
		}
		return err
	})
}

// oldest is the event before which the state is wanted; nil where nothing came since.
func (g *stateGatherer) oldest() (*rooms.Event, error) {
	if g.q.first != nil {
		return g.q.first, nil
	}
	return g.b.firstAfter(g.q.room, g.q.before)
}

// before finds the entry that stood in the state before the wanted position; 0 if there was none.
func (g *stateGatherer) before(key pdu.StateKey) (pos storage.Pos, err error) {
	for i := len(g.q.window.events) - 1; i >= 0; i-- {
		e := g.q.window.events[i]
		if k, isState := stateKey(e); isState && k == key && e.Pos < g.q.before {
			return e.Pos, nil
		}
	}
	if g.past != nil {
		return g.past[key], nil
	}
	first, err := g.oldest()
	if first == nil || err != nil {
		return 0, err
	}
	return g.b.stateKeyOf(first.Snapshot, key)
}

// stateKeyOf reads one entry of a past state, which never changes: whoever else syncs the room asks for the same ones.
func (b *builder) stateKeyOf(snapshot int64, key pdu.StateKey) (pos storage.Pos, err error) {
	k := pastKey{snapshot, key}
	if pos, known := b.past.get(k); known {
		return pos, nil
	}
	err = b.read(func(tx *storage.Tx) (err error) {
		pos, err = tx.StateKeyOf(snapshot, key.Type, key.Key)
		return err
	})
	if err == nil {
		b.past.put(k, pos)
	}
	return pos, err
}

// pastMemory remembers entries of past states, bounded: when the younger half is full, the older one is dropped.
type pastMemory struct {
	// mu guards all below; a leaf in docs/locks.md.
	mu         sync.Mutex
	young, old map[pastKey]storage.Pos
}

type pastKey struct {
	snapshot int64
	key      pdu.StateKey
}

// maxPast bounds each half; an entry has some 100 bytes.
const maxPast = 10_000

func (m *pastMemory) get(k pastKey) (storage.Pos, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if pos, ok := m.young[k]; ok {
		return pos, true
	}
	pos, ok := m.old[k]
	return pos, ok
}

func (m *pastMemory) put(k pastKey, pos storage.Pos) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.young == nil || len(m.young) >= maxPast {
		m.old, m.young = m.young, map[pastKey]storage.Pos{}
	}
	m.young[k] = pos
}

// neededMembers adds the members that the timeline's reader needs.
func (g *stateGatherer) neededMembers() error {
	for _, user := range g.q.needed {
		key := pdu.StateKey{Type: memberType, Key: string(user)}
		member := g.q.room.MemberOf(user)
		if g.have[key] || member == nil {
			continue
		}
		pos := member.Pos
		if pos >= g.q.before {
			var err error
			if pos, err = g.before(key); err != nil {
				return err
			}
		}
		var e *rooms.Event
		if pos == 0 || pos == member.Pos {
			e = g.q.room.State(memberType, string(user))
		}
		if pos == 0 && e != nil && e.Order == 0 { // a partial room came to know the member by an event of the timeline that cites it
			pos = member.Pos
		}
		if pos == 0 || !g.q.force && g.b.knowsMember(g.q.room, user, pos) {
			continue
		}
		g.add(key, pos, e)
	}
	return nil
}

// load reads the events that were not in memory.
func (g *stateGatherer) load() error {
	if len(g.absent) == 0 {
		return nil
	}
	return g.b.read(func(tx *storage.Tx) error {
		events, err := eventsAt(tx, g.q.room, g.absent)
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

// firstAfter finds the oldest event of a room from a position on; nil if there is none.
func (b *builder) firstAfter(room *rooms.Room, pos storage.Pos) (first *rooms.Event, err error) {
	ring, reach := room.Ring()
	if reach < pos {
		if i, _ := slices.BinarySearchFunc(ring, pos, byPos); i < len(ring) {
			return ring[i], nil
		}
		return nil, nil
	}
	// Much has happened since the answer was begun.
	err = b.DB.ReadInner(b.ctx, func(tx *storage.Tx) error {
		rows, err := tx.Timeline(room.NID(), int64(pos)*orderStep-1, math.MaxInt64, false, 1)
		if err != nil || len(rows) == 0 {
			return err
		}
		events, err := room.LoadEvents(rows)
		first = events[0]
		return err
	})
	return first, err
}

// knowsMember tells whether the client was given a member's event in this chain of requests.
func (b *builder) knowsMember(room *rooms.Room, user id.UserID, pos storage.Pos) bool {
	if b.filter.Room.State.IncludeRedundantMembers || b.initial {
		return false
	}
	return b.session.knows(b.sessions.seed, b.memberKey(room, user, pos), b.since.Pos)
}

// sentMember notes that the answer has a member's event.
func (b *builder) sentMember(room *rooms.Room, user id.UserID, pos storage.Pos) {
	b.sent = append(b.sent, b.memberKey(room, user, pos))
}

func (b *builder) memberKey(room *rooms.Room, user id.UserID, pos storage.Pos) memberKey {
	return memberKey{chain: b.since.Chain, filter: b.filter.number, room: room.NID(), member: user, event: pos}
}
