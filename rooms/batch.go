package rooms

import (
	"context"
	"fmt"

	"maunium.net/go/mautrix/id"

	"ebb/push"
	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// batch is events of one room that become one write. It is used under the room's writer lock until it is queued.
type batch struct {
	ctx    context.Context
	svc    *Service
	room   *Room
	create *storage.RoomRow // the room is new: its row; nil otherwise

	events []*pendingEvent
	txn    *claim                                 // the client's transaction id, if any
	extra  func(tx *storage.Tx, room int64) error // written with the events
	saved  provisional                            // the head before the batch

	alongside *batch // of a room that is created in the same write
}

// pendingEvent is an event on its way to the disk.
type pendingEvent struct {
	*Event
	before, after *snapshot
	full          bool // after is a full snapshot
	shadowed      *pendingEvent
	member        *memberChange
	relation      *relation
	redacts       *redaction
	push          push.Outcome
}

type memberChange struct {
	user     id.UserID
	nid      int64
	from, to Membership
}

// joinedMore is by how much the change raises the number of joined users.
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
}

// proto is an event to be built.
type proto struct {
	typ      string
	stateKey *string
	sender   Sender
	content  []byte
	ts       int64 // ms; 0: now

	member     *memberChange
	relation   *relation
	threadRoot storage.Pos
	target     *Event     // what an m.room.redaction redacts; nil where that is redacted already
	redacts    id.EventID // its id
	txnID      string
}

// view is the provisional state as the authorisation rules read it.
type view struct {
	r   *Room
	err error // the first failure to read a member's event
}

// Get is one entry of the provisional state.
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

// Levels are the provisional power levels.
func (v *view) Levels() *eventauth.PowerLevels { return v.r.next.levels }

// provisionalState is one entry of the state that the next event is built on; nil where there is none.
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
		return queued.Event, nil
	case m != nil:
		return r.svc.memberEvent(r, m)
	}
	return committed, nil
}

// provisionalMembership is a user's membership on the provisional head.
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

// memberEvent reads a member's event, from memory where it is.
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
		e, err = fromRow(r.version, &row)
		return err
	})
	if err != nil {
		return nil, err
	}
	m.remember(r, e)
	return e, nil
}

// add builds an event on the provisional head, checks it and makes it part of the head.
func (b *batch) add(p proto) (*Event, error) {
	v := &view{r: b.room}
	e, err := b.build(&p, v)
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
	pe := &pendingEvent{
		Event: &Event{
			Event: e, Room: b.room.nid, SenderNID: p.sender.NID, DeviceNID: p.sender.Device, TxnID: p.txnID,
			ReceivedTS: b.svc.Now().UnixMilli(), ThreadRoot: p.threadRoot, built: true,
		},
		member: p.member, relation: p.relation,
	}
	if p.target != nil {
		if err := b.redact(pe, p.target); err != nil {
			return nil, err
		}
	}
	b.advance(pe)
	b.events = append(b.events, pe)
	if b.svc.Push != nil {
		pe.push = b.svc.Push.Evaluate(e, pushRoom{b.room})
		pe.Event.Push, pe.singled = pe.push.Default, pe.push.Users
	}
	return pe.Event, nil
}

func (b *batch) build(p *proto, v *view) (*pdu.Event, error) {
	n := &b.room.next
	out := pdu.Proto{
		RoomID: b.room.id, Type: p.typ, StateKey: p.stateKey, Sender: p.sender.ID, Content: p.content, Redacts: p.redacts,
		PrevEvents: make([]id.EventID, 0, len(n.extremities)), Depth: n.depth + 1, OriginServerTS: p.ts,
	}
	if out.OriginServerTS == 0 {
		out.OriginServerTS = b.svc.Now().UnixMilli()
	}
	for _, x := range n.extremities {
		out.PrevEvents = append(out.PrevEvents, x.id)
	}
	for _, k := range eventauth.AuthKeysFor(b.room.version, p.typ, p.stateKey, p.sender.ID, p.content) {
		if e := v.Get(k.Type, k.Key); e != nil {
			out.AuthEvents = append(out.AuthEvents, e.ID())
		}
	}
	e, err := pdu.Build(b.room.version, out, b.svc.Signer)
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
	pe.redacts = &redaction{target: target, pruned: pruned}
	return nil
}

// advance makes an event the provisional head.
func (b *batch) advance(e *pendingEvent) {
	r := b.room
	n := &r.next
	e.before, e.after = n.snapshot, n.snapshot
	key, isState := e.StateKey()
	r.mu.Lock()
	if isState {
		k := pdu.StateKey{Type: e.Type(), Key: key}
		e.shadowed = r.pending.state[k]
		r.pending.state[k] = e
		if e.member != nil {
			r.pending.joined += e.member.joinedMore()
		}
		e.after = &snapshot{length: n.snapshot.length + 1}
		if e.after.length > max(64, int64(len(r.head.state)+len(r.head.members))/8) {
			e.after.length, e.full = 0, true
		}
	}
	r.mu.Unlock()
	n.extremities = []extremity{{id: e.ID(), event: e.Event}}
	n.depth, n.snapshot = e.Depth(), e.after
	b.relevel(e)
}

// relevel computes the provisional power levels anew where an event changes what they are made of.
func (b *batch) relevel(e *pendingEvent) {
	changed := e.IsStateKey(typePowerLevels, "") || e.IsStateKey(typeCreate, "")
	if e.redacts != nil {
		t := e.redacts.target
		changed = t.IsStateKey(typePowerLevels, "") || t.IsStateKey(typeCreate, "")
	}
	if !changed {
		return
	}
	current := func(typ string) *pdu.Event {
		s, _ := b.room.provisionalState(typ, "") // reads no database: it is no member
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

// abort takes back what the batch has made of the provisional head; nothing of it is queued.
func (b *batch) abort() {
	r := b.room
	r.next = b.saved
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(b.events) - 1; i >= 0; i-- {
		e := b.events[i]
		key, isState := e.StateKey()
		if !isState {
			continue
		}
		k := pdu.StateKey{Type: e.Type(), Key: key}
		if e.shadowed == nil {
			delete(r.pending.state, k)
		} else {
			r.pending.state[k] = e.shadowed
		}
		if e.member != nil {
			r.pending.joined -= e.member.joinedMore()
		}
	}
}
