package rooms

import (
	"context"
	"errors"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"
	"ebb/rooms/stateres"
	"ebb/storage"
)

// rejudgedAtOnce is how many events are in memory while those since a join are judged anew.
const rejudgedAtOnce = 500

// completion makes a partial room whole: the state before the join becomes what was told, each event since then is judged anew in the
// order in which they came, and the current state becomes what follows from that. The room's writer lock is held throughout, and nothing
// of the room is queued. What clients were shown of an event that is refused now they keep; nobody is shown it any more.
type completion struct {
	*batch // its events are those that were refused and are not any more: they arrive now
	join   *Event
	p      *pastReader

	told     []string             // servers that were said to be in the room
	verdicts []verdict            // in the order in which they were found
	refused  map[storage.Pos]bool // that were accepted
	cited    map[id.EventID]bool  // by accepted events
	freed    map[id.EventID]bool  // cited by events that are refused now, and may be the newest again
	heads    []extremity
	depth    int64
	servers  map[string]bool // that had a user in the room at some time since the join

	changes      []*stateChange
	found, other pendingEvent // what makes the changes: for members who are known now, and for the rest
	snapshot     *snapshot
}

// verdict is what becomes of an event.
type verdict struct {
	pos    storage.Pos
	order  int64
	before *snapshot
	flags  storage.EventFlags
	pruned []byte // of a message that is refused: what is kept of it

	accepted *pendingEvent // it was refused, and arrives now
}

func newCompletion(ctx context.Context, r *Room, join *Event) *completion {
	return &completion{
		batch: &batch{ctx: ctx, svc: r.svc, room: r, saved: r.next}, join: join, told: r.partialState().servers,
		refused: map[storage.Pos]bool{}, cited: map[id.EventID]bool{}, freed: map[id.EventID]bool{}, servers: map[string]bool{}, depth: join.Depth(),
		found: pendingEvent{Event: &Event{Room: r.nid}}, other: pendingEvent{Event: &Event{Room: r.nid}},
	}
}

// judge finds out what the room is, given the state before the join.
func (c *completion) judge(tx *storage.Tx, told state) error {
	r := c.room
	r.next.extremities = nil // the states after them are what is to be found out
	defer func() { r.next = c.saved }()
	c.p = newPastReader(r, tx, nil, newPastFacts())
	c.p.partial = false
	if err := c.begin(told); err != nil {
		return err
	}
	for after := c.join.Pos; ; {
		rows, err := tx.TakenIn(r.nid, after, rejudgedAtOnce)
		if err != nil {
			return err
		}
		for i := range rows {
			after = rows[i].Position
			if rows[i].Order != 0 && isPast(rows[i]) {
				continue
			}
			e, err := fromRow(r.version, &rows[i])
			if err != nil {
				return err
			}
			if err := c.rejudge(e); err != nil {
				return err
			}
		}
		clear(c.p.events) // what has another verdict is in queued
		if len(rows) < rejudgedAtOnce {
			return c.conclude()
		}
	}
}

// begin puts the join on the state that was told.
func (c *completion) begin(whole state) error {
	stored, err := c.p.before(c.join)
	if err != nil {
		return err
	}
	before, err := differing(c.p, stored, whole)
	if err != nil {
		return err
	}
	key, _ := c.join.StateKey()
	after := before.over(stateRef{key: pdu.StateKey{Type: typeMember, Key: key}, pos: c.join.Pos})
	c.p.afters[c.join.ID()], c.p.beforeJoin = after, before
	c.verdicts = append(c.verdicts, verdict{pos: c.join.Pos, order: c.join.Order, before: before, flags: c.join.Flags})
	c.heads = []extremity{{id: c.join.ID(), pos: c.join.Pos, after: after}}
	for key, ref := range whole {
		if key.Type != typeMember || c.servers[serverOf(key.Key)] {
			continue
		}
		e, err := c.p.of(ref)
		if err != nil {
			return err
		}
		if membershipIn(e.Content()) == Join {
			c.servers[serverOf(key.Key)] = true
		}
	}
	return nil
}

// rejudge judges an event again.
func (c *completion) rejudge(e *Event) error {
	before, err := c.stateBefore(e)
	if errors.Is(err, stateres.ErrTooLarge) { // as it was
		before, err = c.p.before(e)
	}
	if err != nil || before == nil {
		return err
	}
	refusal, err := c.refusal(e, before)
	if err != nil {
		return err
	}
	was := e.Flags&storage.RejectedEvent != 0
	after := before
	if key, isState := e.StateKey(); isState && refusal == nil {
		after = before.over(stateRef{key: pdu.StateKey{Type: e.Type(), Key: key}, pos: e.Pos})
		if after, err = c.shortened(after); err != nil {
			return err
		}
	}
	switch {
	case refusal != nil:
		return c.refuse(e, before)
	case was:
		return c.accept(e, before)
	}
	c.verdicts = append(c.verdicts, verdict{pos: e.Pos, order: e.Order, before: before, flags: e.Flags})
	c.p.afters[e.ID()] = after
	return c.follow(extremity{id: e.ID(), pos: e.Pos, after: after}, e)
}

// refuse notes that an event is refused, as it may have been before.
func (c *completion) refuse(e *Event, before *snapshot) error {
	pruned, err := e.Redact()
	if err != nil {
		return err
	}
	v := verdict{pos: e.Pos, before: before, flags: e.Flags | storage.RejectedEvent, pruned: pruned.JSON()}
	c.verdicts = append(c.verdicts, v)
	c.p.afters[e.ID()] = before
	if e.Flags != v.flags {
		c.refused[e.Pos] = true
		e.Flags = v.flags
		c.p.queued[e.ID()] = &pendingEvent{Event: e, before: before, after: before}
		before, err := c.superseded(c.p, e.PrevEvents())
		maps.Copy(c.freed, before)
		return err
	}
	return nil
}

// stateBefore is the state before an event as it is known now; nil where it never was, as of refused events of the past.
func (c *completion) stateBefore(e *Event) (*snapshot, error) {
	if s, err := c.p.bridge(e.PrevEvents()); s != nil || err != nil {
		return s, err
	}
	var points []*snapshot
	missing, told := false, e.Flags&storage.GapEvent != 0
	for _, prev := range e.PrevEvents() {
		s, err := c.p.after(prev)
		if err != nil {
			return nil, err
		}
		if s == nil {
			history, err := c.p.isHistory(prev)
			if err != nil {
				return nil, err
			}
			missing, told = true, told || history && e.Flags&storage.RejectedEvent == 0
			continue
		}
		points = append(points, s)
	}
	switch {
	case !missing:
	case told: // the state after it came from a server that knew the whole
		told, err := c.p.before(e)
		if err != nil {
			return nil, err
		}
		points = append(points, told)
	case e.Flags&storage.RejectedEvent != 0:
		return nil, nil
	default: // its time was over, and it is gone
		for _, x := range c.heads {
			points = append(points, x.after)
		}
	}
	if len(points) == 0 {
		return nil, nil
	}
	return meeting(c.p, points)
}

// shortened makes a snapshot a full one where the chain has grown long.
func (c *completion) shortened(s *snapshot) (*snapshot, error) {
	if s.length <= maxSnapshotChain {
		return s, nil
	}
	all, err := c.p.all(s)
	if err != nil {
		return nil, err
	}
	return fullSnapshot(all), nil
}

// refusal is why the rules refuse an event (checks 4 and 5), nil where they do not.
func (c *completion) refusal(e *Event, before *snapshot) (refusal, err error) {
	auth, refusal, err := c.authOf(c.p, &incoming{Event: e.Event})
	if errors.Is(err, errNoAuthEvent) { // as it was
		if e.Flags&storage.RejectedEvent != 0 {
			return err, nil
		}
		return nil, nil
	}
	if err != nil || refusal != nil {
		return refusal, err
	}
	if refusal = eventauth.Check(c.room.version, e.Event, auth); refusal != nil {
		return refusal, nil
	}
	v := &pastView{p: c.p, s: before}
	refusal = eventauth.Check(c.room.version, e.Event, v)
	return refusal, v.err
}

// accept lets an event in that was refused: it arrives now.
func (c *completion) accept(e *Event, before *snapshot) error {
	in := &incoming{Event: e.Event}
	look := &ingest{ctx: c.ctx, svc: c.svc, room: c.room}
	if _, err := look.lookUp([]*incoming{in}); err != nil {
		return err
	}
	pe := &pendingEvent{Event: &Event{
		Event: e.Event, Room: c.room.nid, SenderNID: e.SenderNID, ReceivedTS: e.ReceivedTS, ThreadRoot: in.threadRoot, built: true,
		Flags: e.Flags &^ storage.RejectedEvent,
	}, relation: in.relation, before: before, after: before, awaited: in.awaited}
	revealInPlace(in, pe)
	if err := c.dress(in, pe); err != nil {
		return err
	}
	if err := c.applyRedaction(c.p, in, pe); err != nil {
		return err
	}
	if key, isState := e.StateKey(); isState {
		var err error
		if pe.after, err = c.shortened(before.over(stateRef{key: pdu.StateKey{Type: e.Type(), Key: key}, event: pe.Event})); err != nil {
			return err
		}
	}
	c.p.queued[e.ID()] = pe
	c.events = append(c.events, pe)
	c.verdicts = append(c.verdicts, verdict{accepted: pe})
	return c.follow(extremity{id: e.ID(), event: pe.Event, after: pe.after}, e)
}

// follow makes an event that was not refused one of the newest, unless something follows it.
func (c *completion) follow(x extremity, e *Event) error {
	c.depth = max(c.depth, e.Depth())
	if e.Flags&storage.SoftFailedEvent != 0 {
		return nil
	}
	if key, isState := e.StateKey(); isState && e.Type() == typeMember && membershipIn(e.Content()) == Join {
		c.servers[serverOf(key)] = true
	}
	superseded, err := c.superseded(c.p, e.PrevEvents())
	if err != nil {
		return err
	}
	for prev := range superseded {
		c.cited[prev] = true
	}
	c.heads = slices.DeleteFunc(c.heads, func(h extremity) bool { return superseded[h.id] })
	if c.cited[e.ID()] {
		return nil
	}
	c.heads = append(c.heads, x)
	c.heads = c.heads[max(0, len(c.heads)-maxExtremities):]
	return nil
}

// conclude finds the current state and how it differs from what it was taken for.
func (c *completion) conclude() error {
	c.dropFollowed()
	now, err := c.meet()
	for errors.Is(err, stateres.ErrTooLarge) && len(c.heads) > 1 { // one end less is better than none
		c.heads = c.heads[1:]
		now, err = c.meet()
	}
	if err != nil {
		return err
	}
	if c.changes, err = c.changesTo(c.p, &c.other, now); err != nil {
		return err
	}
	for _, change := range c.changes {
		if m := change.member; m != nil && m.from == "" {
			change.by, change.joinedSince = &c.found, c.join.Pos
		}
	}
	return nil
}

// dropFollowed drops ends of the graph that were none before and have not become some: what follows them has expired, and is gone.
func (c *completion) dropFollowed() {
	ends := map[id.EventID]bool{}
	for _, x := range c.saved.extremities {
		ends[x.id] = true
	}
	for _, e := range c.events {
		ends[e.ID()] = true
	}
	heads := slices.DeleteFunc(slices.Clone(c.heads), func(x extremity) bool { return !ends[x.id] && !c.freed[x.id] })
	if len(heads) > 0 {
		c.heads = heads
	}
}

// meet is the state where the newest events meet.
func (c *completion) meet() (now state, err error) {
	var points []*snapshot
	for _, x := range c.heads {
		points = append(points, x.after)
	}
	if c.snapshot, err = meeting(c.p, points); err != nil {
		return nil, err
	}
	return c.p.all(c.snapshot)
}

// store writes it all, and makes it what readers see.
func (c *completion) store(ctx context.Context) error {
	r := c.room
	generation := r.next.generation
	p := c.svc.db.Enqueue(storage.Write{
		Rooms:     []int64{r.nid},
		Do:        func(tx *storage.Tx) error { return c.write(tx, generation) },
		Committed: c.committed,
	})
	if err := p.Wait(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	r.next = provisional{
		extremities: c.heads, depth: c.depth, generation: generation + 1, snapshot: c.snapshot, levels: r.Levels(), epoch: r.next.epoch + 1,
		queued: p, batch: p,
	}
	return nil
}

func (c *completion) write(tx *storage.Tx, generation int64) error {
	for _, v := range c.verdicts { // each after those of whom the state before it is made
		if err := c.writeVerdict(tx, v); err != nil {
			return err
		}
	}
	c.found.Pos, c.other.Pos = tx.NextPos(), tx.NextPos()
	for _, change := range c.changes {
		if err := change.write(tx, c.room.nid); err != nil {
			return err
		}
	}
	if err := c.snapshot.write(tx, c.room.nid); err != nil {
		return err
	}
	row := c.headRow(generation, c.snapshot, c.depth, c.heads)
	if ok, err := tx.AdvanceRoom(&row); err != nil || !ok {
		return firstError(err, errStale)
	}
	if err := tx.RepeatDeviceChanges(c.room.nid, c.found.Pos, c.join.Pos); err != nil {
		return err
	}
	return tx.CompleteRoom(c.room.nid, c.found.Pos)
}

func (c *completion) writeVerdict(tx *storage.Tx, v verdict) error {
	if e := v.accepted; e != nil {
		e.head = e.before
		return c.writeEvent(tx, e)
	}
	if err := v.before.write(tx, c.room.nid); err != nil {
		return err
	}
	if err := tx.RejudgeEvent(v.pos, v.order, v.before.nid, v.flags); err != nil || v.pruned == nil {
		return err
	}
	return tx.RedactEvent(v.pos, v.pruned, 0)
}

// committed makes memory know it.
func (c *completion) committed() {
	r := c.room
	r.mu.Lock()
	for _, change := range c.changes {
		if change.member != nil {
			r.pending.joined += change.member.joinedMore() // which applyState takes away again
		}
		r.applyState(change)
	}
	h := &r.head
	h.setPartial(nil)
	h.completed, h.last = c.found.Pos, c.found.Pos
	for _, change := range c.changes {
		h.last = max(h.last, change.by.Pos)
	}
	h.extremities = h.extremities[:0:0]
	for i := range c.heads {
		c.heads[i].pos, c.heads[i].event = c.heads[i].position(), nil
		h.extremities = append(h.extremities, c.heads[i])
	}
	h.depth, h.snapshot = c.depth, c.snapshot
	h.ring = c.rejudgedRing(h.ring)
	for _, e := range c.events {
		h.order = max(h.order, e.Order)
		if !e.Hidden() {
			h.push(e.Event)
		}
		for _, redaction := range e.revealed {
			r.insert(redaction)
		}
	}
	h.generation++
	r.mu.Unlock()
	c.count()
	for _, change := range c.changes {
		if change.member != nil && c.svc.IsLocal(change.member.user) {
			c.svc.own.update(change.member.nid, r.nid, change.updateMembership)
			c.svc.Hub.Users(change.member.nid)
		}
	}
	c.svc.unread.forgetRoom(r.nid)
	c.svc.Hub.Members(r.LocalMembers())
	c.svc.Hub.Room(r.nid)
	c.svc.Hub.EachOf(r.LocalMembers()) // of the devices of others there may be news
	c.svc.partials.end(r.nid)
	if c.svc.Met != nil {
		c.svc.Met(r.nid, "")
	}
}

// rejudgedRing is the newest events as they are now.
func (c *completion) rejudgedRing(old []*Event) []*Event {
	states := make(map[storage.Pos]int64, len(c.verdicts))
	for _, v := range c.verdicts {
		if v.accepted == nil && !c.refused[v.pos] {
			states[v.pos] = v.before.nid
		}
	}
	var ring []*Event
	for _, e := range old {
		if c.refused[e.Pos] {
			continue
		}
		if state, rejudged := states[e.Pos]; rejudged {
			e = e.after(state)
		}
		ring = append(ring, e)
	}
	return ring
}

// discovered are the servers that were in the room at some time since the join without counting as such from the first.
func (c *completion) discovered() []string {
	delete(c.servers, c.svc.Server)
	for _, server := range c.told {
		delete(c.servers, server)
	}
	return slices.Sorted(maps.Keys(c.servers))
}
