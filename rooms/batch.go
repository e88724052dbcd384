package rooms

import (
	"context"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/pushrules"
	"ebb/rooms/eventauth"
	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/rooms/txns"
	"ebb/storage"
)

// batch collects events of one room that are stored in one write. It may be used only under the room's writer lock,
// until it is queued.
type batch struct {
	svc    *Service
	room   *Room
	create *storage.RoomRow // the row of a new room; nil otherwise

	events []*pendingEvent
	txn    *txns.Claim                                    // the client's transaction ID, if any
	extra  func(tx *storage.Tx, room ident.RoomNID) error // written with the events
	saved  provisional                                    // the provisional head before the batch
	past   *graph.Facts                                   // shared by the readers of the batch

	approvals *approvals // signatures of policy servers; nil: none requested yet
	lacking   lacking    // events that still need the signature of a policy server

	entering bool // the batch adopts a room, whose state came from another server
	partial  bool // that state lacks most members

	alongside   *batch // the batch of a room that is created in the same write
	unpublishes bool   // the write removes the room from the room directory

	notifying pushRoom // passed to the push rules by notify; a field so that notify allocates nothing

	first  [1]*pendingEvent // backing arrays of events and commit.Events: most batches have one event
	only   [1]CommittedEvent
	commit Commit
}

// newBatch returns an empty batch for a room, whose events are built on the provisional head. a holds signatures of
// policy servers, or is nil if none were requested yet.
func newBatch(r *Room, a *approvals) *batch {
	b := &batch{svc: r.svc, room: r, saved: r.next, approvals: a}
	b.events = b.first[:0]
	return b
}

// pendingEvent is an event that is not committed yet.
type pendingEvent struct {
	*Event
	before, after *graph.Snapshot // the state before and after it
	changes       []*stateChange  // the changes of the current state that the event causes
	relation      *pdu.Relation
	redacts       *redaction
	original      []byte // the JSON of an event that is stored in its redacted form, if the original may be kept
	push          pushrules.Outcome

	// The room's head after the event.
	head        *graph.Snapshot
	extremities []graph.Extremity
	depth       int64

	missing []id.EventID // prev_events that are not stored
	// missingBehind holds those of missing that precede the join with which this server entered the room.
	missingBehind []id.EventID

	gapsAt        ident.Order // the order at which the missing events of a rejected event are recorded
	awaits        id.EventID  // the target of a redaction, if it is not stored yet
	hasRedactions bool        // redactions of it arrived before it
	revealed      []*Event    // events that become visible to clients now
	replaces      storage.Pos // its position while it was undecided
	supersedes    storage.Pos // its position while it was withheld or soft-failed
	late          bool        // it was missing: events that follow it arrived earlier
	past          ident.Order // its order if it is history; 0 otherwise
	outgoing      bool        // this server sends it to other servers
	unsigned      bool        // the room's policy server has not signed it
	destructs     bool        // it asks to be destroyed
}

// stateChange is a change of one entry of the room's current state.
type stateChange struct {
	key      pdu.StateKey
	event    *Event        // set for m.room.member entries
	by       *pendingEvent // the cause of the change; often the event itself
	member   *memberChange // set for m.room.member entries
	shadowed *stateChange  // the previous queued change of the same key

	// joinedSince is set for a member who became known when the room was completed. It is the position since which the
	// member shares the room with this server.
	joinedSince storage.Pos
}

type memberChange struct {
	user     id.UserID
	nid      ident.UserNID
	from, to Membership
}

// joinedMore returns by how much the change increases the number of joined users: 1, 0 or -1.
func (c *memberChange) joinedMore() (n int) {
	if c.to == Join {
		n++
	}
	if c.from == Join {
		n--
	}
	return n
}

type redaction struct {
	target *Event
	pruned *pdu.Event
	event  *pendingEvent // the m.room.redaction
}

// by returns the position of the m.room.redaction event.
func (r *redaction) by() storage.Pos { return r.event.Pos }

// proto describes an event to be built.
type proto struct {
	typ      string
	stateKey *string
	sender   ident.Requester
	content  []byte
	ts       int64  // ms; 0: now
	stickyMS *int64 // for how long the event is sticky; nil: it is not

	member     *memberChange
	relation   *pdu.Relation
	threadRoot storage.Pos
	target     *Event     // the target of an m.room.redaction; nil if that is already redacted
	unseen     bool       // the target is not stored
	redacts    id.EventID // the ID of the target
	txnID      string
	unchanged  bool // the state is the same already, so that no event is added
}

// view gives the authorisation rules access to the provisional state. It implements eventauth.State.
type view struct {
	r   *Room
	err error // the first error from reading a member event
}

// Get returns the event with the given type and state key in the provisional state, or nil if there is none.
func (v *view) Get(typ, key string) *pdu.Event {
	e, err := v.r.provisionalState(typ, key)
	if err != nil && v.err == nil {
		v.err = err
	}
	if e == nil {
		return nil
	}
	return e.Event
}

// Levels returns the provisional power levels.
func (v *view) Levels() *eventauth.PowerLevels { return v.r.next.levels }

// provisionalState returns an entry of the state on which the next event is built, or nil if there is none.
func (r *Room) provisionalState(typ, key string) (*Event, error) {
	k := pdu.StateKey{Type: typ, Key: key}
	r.mu.RLock()
	queued, committed := r.pending.state[k], r.head.state[k]
	var m *Member
	if typ == typeMember {
		m = r.head.members[id.UserID(key)]
	}
	r.mu.RUnlock()
	switch {
	case queued != nil:
		return queued.event, nil
	case m != nil:
		return r.svc.memberEvent(r, m)
	}
	return committed, nil
}

// provisionalMembership returns a user's membership in the provisional head.
func (r *Room) provisionalMembership(user id.UserID) Membership {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if queued := r.pending.state[pdu.StateKey{Type: typeMember, Key: string(user)}]; queued != nil {
		return queued.member.to
	}
	if m := r.head.members[user]; m != nil {
		return m.Membership
	}
	return ""
}

// reader returns a reader of the stored graph that also has the events of the batch. All readers of a batch share a
// cache of things that never change.
func (b *batch) reader(tx *storage.Tx) *graph.Reader {
	if b.past == nil {
		b.past = graph.NewFacts()
	}
	p := b.room.readerWith(tx, b.past)
	p.Heads = b.room.next.extremities
	for _, e := range b.events {
		p.Queue(e.Event, e.after)
	}
	return p
}

// memberEvent returns the event of a member, from memory if it is there.
func (s *Service) memberEvent(r *Room, m *Member) (*Event, error) {
	if e := m.event.Load(); e != nil {
		return e, nil
	}
	var e *Event
	err := s.db.ReadInner(context.Background(), func(tx *storage.Tx) error {
		row, found, err := tx.EventAt(m.Pos)
		if err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("the member event at %d of room %s is not stored", m.Pos, r.id)
		}
		e, err = graph.LoadEvent(r.version, &row)
		return err
	})
	if err != nil {
		return nil, err
	}
	m.remember(r, e)
	return e, nil
}

// draft builds an event on the provisional head and checks it against the authorisation rules, without adding it to the
// batch.
func (b *batch) draft(p *proto) (*pdu.Event, error) {
	v := &view{r: b.room}
	e, err := b.build(p, v)
	if err != nil {
		return nil, err
	}
	err = eventauth.Check(b.room.version, e, v)
	if v.err != nil {
		return nil, v.err
	}
	if err != nil {
		return nil, authError(err)
	}
	return e, nil
}

// add builds an event and adds it to the provisional head if the authorisation rules allow it.
func (b *batch) add(p proto) (*Event, error) {
	e, err := b.draft(&p)
	if err != nil {
		return nil, err
	}
	e = b.approved(e)
	pe := &pendingEvent{
		Event: &Event{
			Event: e, Room: b.room.nid, SenderNID: p.sender.UserNID, DeviceNID: p.sender.DeviceNID, TxnID: p.txnID,
			ReceivedTS: b.svc.opts.Now().UnixMilli(), ThreadRoot: p.threadRoot, Built: true,
		},
		relation: p.relation,
	}
	if p.target != nil {
		if err := b.redact(pe, p.target); err != nil {
			return nil, err
		}
	}
	if p.unseen {
		b.withhold(pe, p.redacts)
	}
	pe.outgoing = b.leavesHere(&p)
	if p.typ == typeDummy {
		pe.Flags |= storage.DummyEvent
	}
	b.advance(pe, p.member)
	b.events = append(b.events, pe)
	if !pe.Hidden() {
		b.notify(pe)
	}
	return pe.Event, nil
}

// notify evaluates the push rules of the room's members for an event, and stores the outcome in the event.
func (b *batch) notify(e *pendingEvent) {
	if b.svc.opts.Push == nil {
		return
	}
	b.notifying = pushRoom{r: b.room, thread: e.ThreadRoot}
	e.push = b.svc.opts.Push.Evaluate(e.Event.Event, &b.notifying)
	e.Event.Push, e.Singled = e.push.Default, e.push.Users
}

// leavesHere reports whether this server must send an event to other servers: another server is in the room, or the
// event concerns a user of another server.
func (b *batch) leavesHere(p *proto) bool {
	if b.create != nil {
		return p.member != nil && !b.svc.IsLocal(p.member.user)
	}
	return b.room.Shared() || p.member != nil && !b.svc.IsLocal(p.member.user) && b.room.Federated()
}

func (b *batch) build(p *proto, v *view) (*pdu.Event, error) {
	n := &b.room.next
	out := pdu.Proto{
		RoomID: b.room.id, Type: p.typ, StateKey: p.stateKey, Sender: p.sender.UserID, Content: p.content, Redacts: p.redacts,
		PrevEvents: make([]id.EventID, 0, len(n.extremities)), Depth: n.depth + 1, OriginServerTS: p.ts, StickyMS: p.stickyMS,
	}
	switch {
	case out.OriginServerTS != 0:
	case b.approvals != nil:
		out.OriginServerTS = b.approvals.at
	default:
		out.OriginServerTS = b.svc.opts.Now().UnixMilli()
	}
	for _, x := range n.extremities[:min(len(n.extremities), pdu.MaxPrevEvents)] {
		out.PrevEvents = append(out.PrevEvents, x.ID)
	}
	for _, k := range eventauth.AuthKeysFor(b.room.version, p.typ, p.stateKey, p.sender.UserID, p.content) {
		if e := v.Get(k.Type, k.Key); e != nil {
			out.AuthEvents = append(out.AuthEvents, e.ID())
		}
	}
	e, err := pdu.Build(b.room.version, out, b.svc.opts.Signer.Current())
	if err != nil {
		return nil, buildError(err)
	}
	return e, nil
}

func (b *batch) redact(pe *pendingEvent, target *Event) error {
	pruned, err := target.Redact()
	if err != nil {
		return fmt.Errorf("redact %s: %w", target.ID(), err)
	}
	pe.redacts = &redaction{target: target, pruned: pruned, event: pe}
	return nil
}

// advance adds an event that was built on the provisional head to that head, so that the next event follows it.
func (b *batch) advance(e *pendingEvent, member *memberChange) {
	r := b.room
	n := &r.next
	e.before, e.after = n.snapshot, n.snapshot
	if key, isState := e.StateKey(); isState {
		k := pdu.StateKey{Type: e.Type(), Key: key}
		b.change(&stateChange{key: k, event: e.Event, by: e, member: member})
		e.after = b.shorten(n.snapshot.Over(graph.Entry{Key: k, Event: e.Event}))
	}
	n.snapshot, n.resolvedFrom = e.after, nil
	n.extremities = append(slices.Clone(n.extremities[min(len(n.extremities), pdu.MaxPrevEvents):]), graph.Extremity{ID: e.ID(), Event: e.Event, After: e.after})
	b.settleHead(e)
}

// settleHead copies the provisional head to the event, as the room's head after the event.
func (b *batch) settleHead(e *pendingEvent) {
	n := &b.room.next
	n.depth = max(n.depth, e.Depth())
	e.head, e.extremities, e.depth = n.snapshot, n.extremities, n.depth
	b.relevel(e)
}

// change adds a change of the current state to the overlay of queued changes.
func (b *batch) change(c *stateChange) {
	c.by.changes = append(c.by.changes, c)
	r := b.room
	r.mu.Lock()
	defer r.mu.Unlock()
	c.shadowed = r.pending.state[c.key]
	r.pending.state[c.key] = c
	if c.member != nil {
		r.pending.joined += c.member.joinedMore()
	}
}

// shorten returns s, a snapshot of the current state. If too many snapshots must be read to read it, shorten turns it
// into a full one.
func (b *batch) shorten(s *graph.Snapshot) *graph.Snapshot {
	r := b.room
	r.mu.RLock()
	defer r.mu.RUnlock()
	if s.Chain() > max(64, int64(len(r.head.state)+len(r.head.members))/8) {
		s.CopyCurrent()
	}
	return s
}

// relevel recomputes the provisional power levels if an event changes the create event or the power levels event.
func (b *batch) relevel(e *pendingEvent) {
	makes := func(key pdu.StateKey) bool {
		return key.Key == "" && (key.Type == typePowerLevels || key.Type == typeCreate)
	}
	changed := slices.ContainsFunc(e.changes, func(c *stateChange) bool { return makes(c.key) })
	if e.redacts != nil {
		if key, isState := e.redacts.target.StateKey(); isState {
			changed = changed || makes(pdu.StateKey{Type: e.redacts.target.Type(), Key: key})
		}
	}
	if !changed {
		return
	}
	current := func(typ string) *pdu.Event {
		s, _ := b.room.provisionalState(typ, "") // reads no database since it is not a member event
		switch {
		case s == nil:
			return nil
		case e.redacts != nil && s.ID() == e.redacts.target.ID():
			return e.redacts.pruned
		}
		return s.Event
	}
	b.room.next.levels = eventauth.Levels(b.room.version, current(typeCreate), current(typePowerLevels))
}

// abort undoes the changes that the batch has made to the provisional head. The batch is not queued then.
func (b *batch) abort() { b.rollback(0, b.saved) }

// rollback removes the events with an index of at least n. saved is the provisional head as it was before them.
func (b *batch) rollback(n int, saved provisional) {
	r := b.room
	r.next = saved
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(b.events) - 1; i >= n; i-- {
		r.uncover(b.events[i].changes)
	}
	b.events = b.events[:n]
}

// uncover removes changes from the overlay of queued changes, beginning with the newest. r.mu is held.
func (r *Room) uncover(changes []*stateChange) {
	for _, c := range slices.Backward(changes) {
		if c.shadowed == nil {
			delete(r.pending.state, c.key)
		} else {
			r.pending.state[c.key] = c.shadowed
		}
		if c.member != nil {
			r.pending.joined -= c.member.joinedMore()
		}
	}
}
