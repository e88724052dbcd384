package rooms

import (
	"context"
	"errors"
	"slices"

	"ebb/ident"
	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// placeHistory stores the waiting events, which are history, below the event at order above, each one after its
// prev_events. It returns the number of events that it stored.
func (p *placing) placeHistory(ctx context.Context, above ident.Order) (stored int, err error) {
	if err := p.lookUpAgain(ctx); err != nil {
		return 0, err
	}
	q, err := p.svc.findGap(ctx, p.room, above) // other requests may have filled the gap
	if err != nil || q.above == nil {
		return 0, err
	}
	ready := p.inOrder()
	for _, e := range ready {
		e.missing = slices.DeleteFunc(slices.Clone(e.PrevEvents()), p.has)
	}
	if err := q.arrange(ready); err != nil {
		return 0, err
	}
	for len(ready) > 0 {
		n, err := p.lookUp(ctx, ready)
		if err != nil {
			return stored, err
		}
		m, err := p.writeHistory(ctx, ready[:n])
		if err != nil {
			return stored, err
		}
		stored, ready = stored+m, ready[n:]
	}
	return stored, nil
}

var errNoSpace = errors.New("no space is left in the timeline")

// arrange assigns an order to each of the given events, which are sorted: each goes below all events of the timeline
// with a greater depth. This also holds for an event on another branch of the graph: the event that follows it may
// still be missing, and must end up above it.
func (q *gap) arrange(events []*incoming) error {
	slots := make([][]*incoming, len(q.anchors)) // the events to insert below each anchor
	lowest := len(q.anchors) - 2                 // nothing is inserted below the last one
	for i := len(events) - 1; i >= 0; i-- {
		e := events[i]
		at := 0
		for below := 1; below <= lowest; below++ {
			if q.anchors[below].depth > e.Depth() {
				at = below
			}
		}
		for at <= lowest && q.space(at) <= ident.Order(len(slots[at])) {
			at++
		}
		if at > lowest {
			return errNoSpace
		}
		slots[at] = append(slots[at], e)
		e.base = q.above.Snapshot
	}
	for at, slot := range slots {
		if len(slot) == 0 {
			continue
		}
		step := max(1, min(historyStep, q.space(at)/ident.Order(4*len(slot))))
		for i, e := range slot {
			e.order = q.anchors[at].order - step*ident.Order(i+1)
		}
	}
	return nil
}

// space returns how many events can be inserted directly below the anchor with the given index.
func (q *gap) space(at int) ident.Order { return q.anchors[at].order - q.anchors[at+1].order - 1 }

// writeHistory stores events of the history in one write, and returns their number. They do not change the room's
// current state.
func (p *placing) writeHistory(ctx context.Context, events []*incoming) (int, error) {
	r, err := p.svc.lockRoom(ctx, p.room.id)
	if err != nil {
		return 0, err
	}
	b := newBatch(r, nil)
	err = r.settled(ctx, func(tx *storage.Tx) error {
		past := b.reader(tx)
		for _, e := range events {
			if err := b.addHistory(past, e); err != nil && !isTemporary(err) {
				return err
			}
		}
		return nil
	})
	if err != nil || len(b.events) == 0 {
		r.writer.Unlock()
		return 0, err
	}
	pending := b.enqueueHistory()
	r.writer.Unlock()
	if err := pending.Wait(context.WithoutCancel(ctx)); err != nil {
		return 0, err
	}
	for _, e := range b.events {
		p.known[e.ID()] = e.Event
	}
	return len(b.events), nil
}

// enqueueHistory queues a batch of events of the history for the committer. The writer lock is held.
func (b *batch) enqueueHistory() *storage.Pending {
	r := b.room
	r.next.queued = b.svc.db.Enqueue(storage.Write{
		Rooms: []ident.RoomNID{r.nid},
		Do: func(tx *storage.Tx) error {
			for _, e := range b.events {
				if err := b.writeEvent(tx, e); err != nil {
					return err
				}
			}
			return nil
		},
		Committed: func() {
			c := &Commit{Room: r}
			c.add(b.svc, b.events)
			b.svc.commit(c, headFunc(b.applyHistory))
		},
	})
	return r.next.queued
}

// applyHistory updates the committed head after events of the history were stored. They change nothing in memory except
// the events that they redact.
func (b *batch) applyHistory(r *Room) {
	for _, e := range b.events {
		r.head.undecided = r.head.undecided || e.Undecided()
		r.applyRedactions(e)
	}
}

// addHistory performs checks 4 and 5 on an event of the history and adds it to the batch. The later checks are about
// the current state, and do not apply to history.
func (b *batch) addHistory(p *graph.Reader, in *incoming) error {
	verdict, err := b.checkAuthEvents(p, in) // 4
	if err != nil {
		return err
	}
	if errors.Is(verdict, errUndecided) && !in.followed {
		return verdict
	}
	pe := b.newPending(in)
	pe.past, pe.head = in.order, &graph.Snapshot{}
	if pe.before, err = b.stateBeforeHistory(p, in); err != nil {
		return err
	}
	if verdict == nil { // 5
		if verdict, err = checkStateBefore(p, in.Event, pe.before); err != nil {
			return err
		}
	}
	if pe.after = pe.before; verdict != nil {
		pe.Flags, pe.relation = pe.Flags|rejectedFlags(verdict), nil
	}
	if err := b.finishHistory(p, in, pe); err != nil {
		return err
	}
	if key, isState := in.StateKey(); isState && verdict == nil {
		pe.after = pe.before.Over(graph.Entry{Key: pdu.StateKey{Type: in.Type(), Key: key}, Event: pe.Event})
	}
	p.Queue(pe.Event, pe.after)
	b.events = append(b.events, pe)
	return nil
}

// stateBeforeHistory returns the state before an event of the history. If another server has returned this state, it is
// used; otherwise it is resolved from the states after the event's prev_events.
func (b *batch) stateBeforeHistory(p *graph.Reader, in *incoming) (*graph.Snapshot, error) {
	if in.fetchedBefore == nil {
		return b.stateBefore(p, in)
	}
	base, err := p.Snapshot(in.base)
	if err != nil {
		return nil, err
	}
	return p.SnapshotOf(base, in.fetchedBefore)
}

// finishHistory redacts an event of the history if needed, records its missing prev_events, and applies the event if it
// is itself a redaction. Missing prev_events are not recorded if messages of that time have expired, so that they are
// not fetched.
func (b *batch) finishHistory(p *graph.Reader, in *incoming, pe *pendingEvent) error {
	revealInPlace(in, pe)
	if err := b.redactIfNeeded(in, pe, b.room.isOver(in.Event, pe.ReceivedTS)); err != nil {
		return err
	}
	rejected := pe.Flags&storage.RejectedEvent != 0
	if !rejected && len(in.missing) > 0 && !b.room.isOver(in.Event, pe.ReceivedTS) {
		pe.missing = in.missing
		pe.Flags |= storage.GapEvent
	}
	if err := b.noteGaps(p, in, pe); err != nil {
		return err
	}
	if rejected {
		return nil
	}
	return b.applyRedaction(p, in, pe)
}
