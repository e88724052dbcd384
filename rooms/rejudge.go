package rooms

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/deletions"
	"ebb/ident"
	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/rooms/stateres"
	"ebb/storage"
)

// rejudgedAtOnce is how many events are read into memory at a time while the events since a join are judged again.
const rejudgedAtOnce = 500

// completion ends the partial state of a room. The full state that a server returned replaces the state before the
// join; each later event is authorised again in the order of arrival; and the resulting states are resolved into the
// current state. The room's writer lock is held all the time, and all queued writes of the room are done before it
// begins. Clients that have received an event which is rejected now keep it; no other client gets it any more.
type completion struct {
	*batch // its events were rejected before and are accepted now
	join   *Event
	p      *graph.Reader

	initialServers []string             // the servers that were in the room according to the answer to the join
	verdicts       []verdict            // in the order in which they were reached
	refused        map[storage.Pos]bool // the events that were accepted before and are rejected now
	cited          map[id.EventID]bool  // the prev_events of accepted events
	uncited        map[id.EventID]bool  // prev_events of newly rejected events, which may be forward extremities again
	heads          []graph.Extremity
	depth          int64
	servers        map[string]bool // servers that had a user in the room at some time since the join

	// The next fields are set only for a decision. A completion has a join instead.
	fresh    map[id.EventID]*incoming // copies of the undecided events that can be judged
	decided  map[id.EventID]error     // the verdicts on the undecided events in fresh
	affected map[id.EventID]bool      // the undecided events in fresh, and the events that follow them
	left     bool                     // other undecided events remain

	changes      []*stateChange
	found, other pendingEvent // the causes of the changes: found for members who became known, other for the rest
	snapshot     *graph.Snapshot
}

// verdict is what is stored about an event after it was authorised again.
type verdict struct {
	id     id.EventID
	pos    storage.Pos
	order  ident.Order
	before *graph.Snapshot
	flags  storage.EventFlags
	sender ident.UserNID // of an event that is replaced by its redacted form
	pruned []byte        // the redacted form of an event that is rejected

	accepted *pendingEvent // set if the event was rejected before and is accepted now
}

func newCompletion(r *Room, join *Event) *completion {
	c := &completion{
		batch: newBatch(r, nil), join: join,
		refused: map[storage.Pos]bool{}, cited: map[id.EventID]bool{}, uncited: map[id.EventID]bool{}, servers: map[string]bool{}, depth: r.next.depth,
		found: pendingEvent{Event: &Event{Room: r.nid}}, other: pendingEvent{Event: &Event{Room: r.nid}},
	}
	if join != nil {
		c.initialServers, c.depth = r.partialState().servers, join.Depth()
	}
	return c
}

// newDecision returns a completion for a room with undecided events that can be authorised now. fresh has copies of
// these. They get a final verdict, and the events that follow them are authorised again.
func newDecision(r *Room, fresh map[id.EventID]*incoming) *completion {
	c := newCompletion(r, nil)
	c.fresh, c.decided, c.affected = fresh, map[id.EventID]error{}, map[id.EventID]bool{}
	return c
}

// judge authorises all events since the join again. full is the full state before the join.
func (c *completion) judge(ctx context.Context, tx *storage.Tx, full graph.State) error {
	c.p = c.room.reader(tx)
	c.room.next.extremities = nil // unknown until the end
	defer func() { c.room.next = c.saved }()
	c.p.Room.Partial = false
	if err := c.begin(full); err != nil {
		return err
	}
	return c.judgeSince(ctx, tx, c.join.Pos)
}

// judgeFresh authorises the undecided events of which fresh has a copy, and the events that follow them.
func (c *completion) judgeFresh(ctx context.Context, tx *storage.Tx) error {
	c.p = c.room.reader(tx)
	c.room.next.extremities = nil
	defer func() { c.room.next = c.saved }()
	for _, x := range c.saved.extremities {
		if x.After == nil {
			var err error
			if x.After, err = c.p.After(x.ID); err != nil {
				return err
			}
		}
		c.heads = append(c.heads, graph.Extremity{ID: x.ID, Pos: x.Position(), After: x.After})
	}
	rows, err := tx.UndecidedEvents(c.room.nid, maxUndecided)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if eventID := id.EventID(row.EventID); c.fresh[eventID] != nil {
			c.affected[eventID] = true
			return c.judgeSince(ctx, tx, row.Position-1)
		}
	}
	return errNotStored
}

// errNotStored is returned if the undecided events are no longer stored.
var errNotStored = errors.New("the undecided events are not stored any more")

// judgeSince authorises again the events that arrived after the given position.
func (c *completion) judgeSince(ctx context.Context, tx *storage.Tx, after storage.Pos) error {
	r := c.room
	for {
		rows, err := tx.ReceivedSince(r.nid, after, rejudgedAtOnce)
		if err != nil {
			return err
		}
		for i := range rows {
			after = rows[i].Position
			if rows[i].Order != 0 && graph.IsBackfilled(rows[i]) {
				continue
			}
			e, err := graph.LoadEvent(r.version, &rows[i])
			if err != nil {
				return err
			}
			if !c.concerns(e) {
				continue
			}
			if e.Undecided() {
				err = c.decideOne(e)
			} else {
				err = c.rejudge(ctx, e)
			}
			if err != nil {
				return err
			}
		}
		c.p.Forget() // events with another verdict are queued
		if len(rows) < rejudgedAtOnce {
			return c.conclude(ctx)
		}
	}
}

// concerns reports whether the verdict on an event may change.
func (c *completion) concerns(e *Event) bool {
	if c.affected == nil {
		return true
	}
	follows := func(before id.EventID) bool { return c.affected[before] }
	if c.fresh[e.ID()] == nil && !slices.ContainsFunc(e.PrevEvents(), follows) && !slices.ContainsFunc(e.AuthEvents(), follows) {
		return false
	}
	c.affected[e.ID()] = true
	return true
}

// decideOne authorises an undecided event if there is a copy that allows this. Otherwise the event stays undecided.
func (c *completion) decideOne(e *Event) error {
	in := c.fresh[e.ID()]
	if in != nil {
		e = e.Verified(in.Event)
	}
	before, err := c.stateBefore(e)
	if errors.Is(err, stateres.ErrTooLarge) {
		before, err = c.p.Before(e)
	}
	if err != nil || before == nil {
		return err
	}
	refusal := errUndecided
	if in != nil {
		if refusal, err = c.refusal(in, before); err != nil {
			return err
		}
		c.decided[e.ID()] = refusal
	}
	if refusal == nil {
		return c.accept(in, e, before)
	}
	decided := !errors.Is(refusal, errUndecided)
	if decided {
		e.Flags &^= storage.UndecidedEvent
	}
	c.verdicts = append(c.verdicts, verdict{id: e.ID(), pos: e.Pos, before: before, flags: e.Flags})
	if c.p.SetAfter(e.ID(), before); decided {
		c.p.Queue(e, before)
	}
	return nil
}

// begin replaces the state before the join by the given full state.
func (c *completion) begin(full graph.State) error {
	stored, err := c.p.Before(c.join)
	if err != nil {
		return err
	}
	before, err := c.p.SnapshotOf(stored, full)
	if err != nil {
		return err
	}
	key, _ := c.join.StateKey()
	after := before.Over(graph.Entry{Key: pdu.StateKey{Type: typeMember, Key: key}, Pos: c.join.Pos})
	c.p.SetAfter(c.join.ID(), after)
	c.p.BeforeJoin = before
	c.verdicts = append(c.verdicts, verdict{id: c.join.ID(), pos: c.join.Pos, order: c.join.Order, before: before, flags: c.join.Flags})
	c.heads = []graph.Extremity{{ID: c.join.ID(), Pos: c.join.Pos, After: after}}
	for key, ref := range full {
		if key.Type != typeMember || c.servers[ident.ServerOf(key.Key)] {
			continue
		}
		e, err := c.p.EventOf(ref)
		if err != nil {
			return err
		}
		if pdu.Membership(e.Content()) == Join {
			c.servers[ident.ServerOf(key.Key)] = true
		}
	}
	return nil
}

// rejudge authorises again an event that is not undecided.
func (c *completion) rejudge(ctx context.Context, e *Event) error {
	before, err := c.stateBefore(e)
	if errors.Is(err, stateres.ErrTooLarge) { // as it was
		before, err = c.p.Before(e)
	}
	if err != nil || before == nil {
		return err
	}
	refusal, err := c.refusal(&incoming{Event: e.Event}, before)
	if err != nil {
		return err
	}
	if errors.Is(refusal, errUndecided) { // as it was
		refusal = nil
		if e.Flags&storage.RejectedEvent != 0 {
			refusal = errUndecided
		}
	}
	was := e.Flags&storage.RejectedEvent != 0
	after := before
	if key, isState := e.StateKey(); isState && refusal == nil {
		after = before.Over(graph.Entry{Key: pdu.StateKey{Type: e.Type(), Key: key}, Pos: e.Pos})
		if after, err = c.p.Shortened(after); err != nil {
			return err
		}
	}
	switch {
	case refusal != nil:
		return c.refuse(e, before)
	case was:
		in, err := c.room.lookedUp(ctx, e.Event)
		if err != nil {
			return err
		}
		return c.accept(in, e, before)
	}
	c.verdicts = append(c.verdicts, verdict{id: e.ID(), pos: e.Pos, order: e.Order, before: before, flags: e.Flags})
	c.p.SetAfter(e.ID(), after)
	return c.follow(graph.Extremity{ID: e.ID(), Pos: e.Pos, After: after}, e)
}

// refuse records that an event is rejected, whether or not it was rejected before.
func (c *completion) refuse(e *Event, before *graph.Snapshot) error {
	pruned, err := e.Redact()
	if err != nil {
		return err
	}
	v := verdict{id: e.ID(), pos: e.Pos, before: before, flags: e.Flags | storage.RejectedEvent, pruned: pruned.JSON(), sender: e.SenderNID}
	c.verdicts = append(c.verdicts, v)
	c.p.SetAfter(e.ID(), before)
	if e.Flags != v.flags {
		c.refused[e.Pos] = true
		e.Flags = v.flags
		c.p.Queue(e, before)
		before, err := c.p.Superseded(e.PrevEvents())
		maps.Copy(c.uncited, before)
		return err
	}
	return nil
}

// stateBefore returns the state before an event, as far as it is known now. It returns nil if the state was never
// known, which is the case for an event that was backfilled and rejected.
func (c *completion) stateBefore(e *Event) (*graph.Snapshot, error) {
	if s, err := c.p.Bridge(e.PrevEvents()); s != nil || err != nil {
		return s, err
	}
	var points []*graph.Snapshot
	missing, fetched := false, e.Flags&storage.GapEvent != 0 || e.Undecided()
	for _, prev := range e.PrevEvents() {
		s, err := c.p.After(prev)
		if err != nil {
			return nil, err
		}
		if s == nil {
			history, err := c.p.IsHistory(prev)
			if err != nil {
				return nil, err
			}
			missing, fetched = true, fetched || history && e.Flags&storage.RejectedEvent == 0
			continue
		}
		points = append(points, s)
	}
	switch {
	case !missing:
	case fetched: // the state came from a server that had the full state
		stored, err := c.p.Before(e)
		if err != nil {
			return nil, err
		}
		points = append(points, stored)
	case e.Flags&storage.RejectedEvent != 0:
		return nil, nil
	default: // the prev_events have expired and were purged
		for _, x := range c.heads {
			points = append(points, x.After)
		}
	}
	if len(points) == 0 {
		return nil, nil
	}
	return c.p.ResolvedSnapshot(points)
}

// refusal performs checks 4 and 5 and returns the reason why the authorisation rules reject an event, or nil if they
// allow it. It returns errUndecided if the rules cannot be evaluated.
func (c *completion) refusal(e *incoming, before *graph.Snapshot) (refusal, err error) {
	refusal, err = c.checkAuthEvents(c.p, e) // 4
	if errors.Is(err, errNoAuthEvent) {
		return errUndecided, nil
	}
	if err != nil || refusal != nil {
		return refusal, err
	}
	return checkStateBefore(c.p, e.Event, before) // 5
}

// accept adds an event to the batch that was rejected before. It counts as arriving now, and so gets a new position.
func (c *completion) accept(in *incoming, e *Event, before *graph.Snapshot) error {
	pe := &pendingEvent{Event: &Event{
		Event: in.Event, Room: c.room.nid, SenderNID: in.sender, ReceivedTS: e.ReceivedTS, ThreadRoot: in.threadRoot, Built: true,
		Flags: e.Flags &^ (storage.RejectedEvent | storage.UndecidedEvent),
	}, relation: in.relation, before: before, after: before, hasRedactions: in.hasRedactions, late: in.late}
	if e.Undecided() {
		pe.replaces = e.Pos
	}
	if err := c.noteMissing(pe); err != nil {
		return err
	}
	revealInPlace(in, pe)
	expired, err := c.room.hasExpired(in.Event, pe.ReceivedTS)
	if err != nil {
		return err
	}
	if err := c.redactIfNeeded(in, pe, expired); err != nil {
		return err
	}
	if i := slices.IndexFunc(c.events, func(e *pendingEvent) bool { return e.ID() == in.Redacts() }); i >= 0 { // it was rejected until now
		in.redacted = c.events[i].Event
	}
	if err := c.applyRedaction(c.p, in, pe); err != nil {
		return err
	}
	if key, isState := e.StateKey(); isState {
		var err error
		if pe.after, err = c.p.Shortened(before.Over(graph.Entry{Key: pdu.StateKey{Type: e.Type(), Key: key}, Event: pe.Event})); err != nil {
			return err
		}
	}
	c.p.Queue(pe.Event, pe.after)
	c.events = append(c.events, pe)
	c.verdicts = append(c.verdicts, verdict{accepted: pe})
	return c.follow(graph.Extremity{ID: e.ID(), Event: pe.Event, After: pe.after}, e)
}

// noteMissing records the missing prev_events of an accepted event.
func (c *completion) noteMissing(pe *pendingEvent) (err error) {
	gaps, err := c.p.Gaps(pe.PrevEvents(), true)
	if err != nil || len(gaps) == 0 || c.room.isOver(pe.Event.Event, pe.ReceivedTS) {
		return err
	}
	for _, missing := range gaps {
		if history, err := c.p.IsHistory(missing); err != nil || !history {
			pe.missing = append(pe.missing, missing)
			pe.Flags |= storage.GapEvent
		}
	}
	return err
}

// follow makes an accepted event a forward extremity, unless a later event follows it already.
func (c *completion) follow(x graph.Extremity, e *Event) error {
	c.depth = max(c.depth, e.Depth())
	if e.Flags&(storage.SoftFailedEvent|storage.PrecedingEvent) != 0 {
		return nil
	}
	if key, isState := e.StateKey(); isState && e.Type() == typeMember && pdu.Membership(e.Content()) == Join {
		c.servers[ident.ServerOf(key)] = true
	}
	superseded, err := c.p.Superseded(e.PrevEvents())
	if err != nil {
		return err
	}
	for prev := range superseded {
		c.cited[prev] = true
	}
	c.heads = slices.DeleteFunc(c.heads, func(h graph.Extremity) bool { return superseded[h.ID] || h.ID == e.ID() })
	if c.cited[e.ID()] {
		return nil
	}
	c.heads = append(c.heads, x)
	c.heads = c.heads[max(0, len(c.heads)-maxExtremities):]
	return nil
}

// conclude resolves the current state from the forward extremities, and computes the changes from the previous current
// state.
func (c *completion) conclude(ctx context.Context) error {
	c.dropFollowed()
	now, err := c.resolveCurrent()
	for errors.Is(err, stateres.ErrTooLarge) && len(c.heads) > 1 { // dropping one extremity is better than failing
		c.heads = c.heads[1:]
		now, err = c.resolveCurrent()
	}
	if err != nil {
		return err
	}
	if c.changes, err = c.changesTo(ctx, c.p, &c.other, now); err != nil {
		return err
	}
	for _, change := range c.changes {
		if m := change.member; m != nil && m.from == "" && c.join != nil {
			change.by, change.joinedSince = &c.found, c.join.Pos
		}
	}
	return nil
}

// dropFollowed drops events that only seem to be forward extremities, because the events that followed them have
// expired and were purged.
func (c *completion) dropFollowed() {
	ends := map[id.EventID]bool{}
	for _, x := range c.saved.extremities {
		ends[x.ID] = true
	}
	for _, e := range c.events {
		ends[e.ID()] = true
	}
	heads := slices.DeleteFunc(slices.Clone(c.heads), func(x graph.Extremity) bool { return !ends[x.ID] && !c.uncited[x.ID] })
	if len(heads) > 0 {
		c.heads = heads
	}
}

// resolveCurrent resolves the states after the forward extremities into the current state.
func (c *completion) resolveCurrent() (now graph.State, err error) {
	var points []*graph.Snapshot
	for _, x := range c.heads {
		points = append(points, x.After)
	}
	if c.snapshot, err = c.p.ResolvedSnapshot(points); err != nil {
		return nil, err
	}
	return c.p.All(c.snapshot)
}

// store writes the new verdicts and the new current state to the database, and replaces the provisional head. The
// committed head changes when the write is committed.
func (c *completion) store(ctx context.Context) error {
	r := c.room
	generation := r.next.generation
	p := c.svc.db.Enqueue(storage.Write{
		Rooms:     []ident.RoomNID{r.nid},
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
	for _, v := range c.verdicts { // in order: the state before an event builds on earlier ones
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
	if err := c.snapshot.Write(tx, c.room.nid); err != nil {
		return err
	}
	row := c.headRow(generation, c.snapshot, c.depth, c.heads)
	if ok, err := tx.AdvanceRoom(&row); err != nil || !ok {
		return cmp.Or(err, errStale)
	}
	if err := c.followHolds(tx, c.changes); err != nil {
		return err
	}
	if c.join == nil {
		left, err := tx.UndecidedEvents(c.room.nid, 1)
		c.left = len(left) > 0
		return err
	}
	for _, server := range c.discovered() {
		if err := tx.OweSticky(server, c.room.nid, c.svc.nowMS()); err != nil {
			return err
		}
	}
	if err := tx.RepeatDeviceChanges(c.room.nid, c.found.Pos, c.join.Pos); err != nil {
		return err
	}
	return tx.CompleteRoom(c.room.nid, c.found.Pos)
}

func (c *completion) writeVerdict(tx *storage.Tx, v verdict) error {
	if e := v.accepted; e != nil {
		e.head = e.before
		if err := c.writeEvent(tx, e); err != nil || e.replaces == 0 {
			return err
		}
		return tx.PurgeBare([]storage.Pos{e.replaces})
	}
	if err := v.before.Write(tx, c.room.nid); err != nil {
		return err
	}
	if err := tx.RejudgeEvent(v.pos, string(v.id), v.order, v.before.NID, v.flags); err != nil || v.pruned == nil {
		return err
	}
	if c.svc.Held(c.room.nid, v.sender) {
		o := &storage.Original{Position: v.pos, Room: c.room.nid, RedactedTS: c.svc.nowMS()}
		return tx.RedactKeepingOriginal(o, string(v.id), v.pruned, 0)
	}
	return c.svc.counted(tx, c.room.nid, deletions.Redacted, 1, func() error { return tx.RedactEvent(c.room.nid, v.pos, string(v.id), v.pruned, 0) })
}

// committed is the Committed hook of a completion.
func (c *completion) committed() {
	out := &Commit{Room: c.room, Rejudged: true, Rejected: slices.Sorted(maps.Keys(c.refused)), Holds: c.commit.Holds, advances: true}
	if c.join != nil {
		out.Completed, out.Discovered = c.found.Pos, c.discovered()
	}
	out.add(c.svc, c.events)
	out.addChanges(c.svc, c.changes)
	c.svc.commit(out, c)
}

// applyTo implements headChange.
func (c *completion) applyTo(r *Room) {
	for _, change := range c.changes {
		if change.member != nil {
			r.pending.joined += change.member.joinedMore() // which applyState subtracts again
		}
		r.applyState(change)
	}
	h := &r.head
	if c.join != nil {
		h.setPartial(nil)
		h.completed, h.last = c.found.Pos, c.found.Pos
	} else {
		h.undecided = c.left
	}
	for _, change := range c.changes {
		h.last = max(h.last, change.by.Pos)
	}
	h.extremities = h.extremities[:0:0]
	for i := range c.heads {
		c.heads[i].Pos, c.heads[i].Event = c.heads[i].Position(), nil
		h.extremities = append(h.extremities, c.heads[i])
	}
	h.depth, h.snapshot = c.depth, c.snapshot
	for _, e := range c.events {
		h.order, h.last = max(h.order, e.Order), max(h.last, e.Pos)
		if !e.Hidden() {
			h.push(e.Event)
		}
		r.applyRedactions(e)
	}
	h.ring = c.rejudgedRing(h.ring)
}

// rejudgedRing returns the given ring without the events that are rejected now. The other events get the new state
// before them.
func (c *completion) rejudgedRing(old []*Event) []*Event {
	states := make(map[storage.Pos]int64, len(c.verdicts))
	for _, v := range c.verdicts {
		if v.accepted == nil && !c.refused[v.pos] {
			states[v.pos] = v.before.NID
		}
	}
	var ring []*Event
	for _, e := range old {
		if c.refused[e.Pos] {
			continue
		}
		if state, rejudged := states[e.Pos]; rejudged {
			e = e.WithStateBefore(state)
		}
		ring = append(ring, e)
	}
	return ring
}

// discovered returns the servers that were in the room at some time since the join, as is now known, but that the
// answer to the join did not list.
func (c *completion) discovered() []string {
	delete(c.servers, c.svc.opts.Server)
	for _, server := range c.initialServers {
		delete(c.servers, server)
	}
	return slices.Sorted(maps.Keys(c.servers))
}
