package rooms

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/eventauth"
	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/rooms/signatures"
	"ebb/rooms/stateres"
	"ebb/storage"
)

const (
	// placeChunk is the number of events stored in one write.
	placeChunk = 50
	// manyExtremities is the number of forward extremities above which a dummy event merges them.
	manyExtremities = 10
)

// placing is the second step of processing arrivals: it authorises and stores the waiting events, each one after the
// events that it refers to. The room's receiving slot is held, and no requests are made to other servers.
type placing struct{ *arrivals }

func newPlacing(a *arrivals) *placing { return &placing{a} }

// placeAll places all waiting events.
func (p *placing) placeAll(ctx context.Context) error {
	p.markFollowed()
	for len(p.waiting) > 0 {
		ready := p.inOrder()
		if len(ready) == 0 {
			p.refuseBlocked()
			continue
		}
		for part := range slices.Chunk(ready, placeChunk) {
			if err := p.placeChunk(ctx, part); err != nil {
				return err
			}
		}
	}
	return nil
}

// refuseBlocked rejects the waiting events when none of them can be placed: they follow missing events, or each other
// in a cycle. A cycle is possible where servers choose the event IDs, and, in any version, if auth events are wrong.
func (p *placing) refuseBlocked() {
	if len(p.lackingState()) > 0 {
		p.refuseLackingState()
		return
	}
	for eventID := range p.waiting {
		p.finish(eventID, errors.New("the event precedes itself"))
	}
}

// inOrder returns the waiting events that can be placed. Each one comes after its prev_events and auth events;
// otherwise they are sorted by depth.
func (p *placing) inOrder() (out []*incoming) {
	open := map[id.EventID]int{} // the number of events that must come first
	followers := map[id.EventID][]*incoming{}
	var next []*incoming // sorted in reverse
	enter := func(e *incoming) {
		at, _ := slices.BinarySearchFunc(next, e, func(a, b *incoming) int { return -byDepth(a, b) })
		next = slices.Insert(next, at, e)
	}
	for _, e := range p.waiting {
		first, possible := p.before(e)
		if !possible {
			continue
		}
		for _, b := range first {
			followers[b] = append(followers[b], e)
		}
		if open[e.ID()] = len(first); len(first) == 0 {
			enter(e)
		}
	}
	for len(next) > 0 {
		e := next[len(next)-1]
		next = next[:len(next)-1]
		out = append(out, e)
		for _, f := range followers[e.ID()] {
			if open[f.ID()]--; open[f.ID()] == 0 {
				enter(f)
			}
		}
	}
	return out
}

// before returns the waiting events that must be placed before e. It returns false if e cannot be placed, because a
// prev_event is missing and the state after it is unknown.
func (p *placing) before(e *incoming) (first []id.EventID, possible bool) {
	add := func(eventID id.EventID) {
		if !slices.Contains(first, eventID) {
			first = append(first, eventID)
		}
	}
	for _, auth := range e.AuthEvents() {
		if p.waiting[auth] != nil && auth != e.ID() {
			add(auth)
		}
	}
	for _, prev := range e.PrevEvents() {
		switch {
		case p.isPlaced(prev), e.fetchedAfter[prev] != nil, e.fetchedBefore != nil, p.waiting[prev] == nil && p.knownFromJoin(e, prev):
		case p.waiting[prev] != nil:
			add(prev)
		default:
			return nil, false
		}
	}
	return first, true
}

// placeChunk places sorted events, in one write if possible.
func (p *placing) placeChunk(ctx context.Context, events []*incoming) error {
	for len(events) > 0 {
		n, err := p.lookUp(ctx, events)
		if err != nil {
			return err
		}
		if err := p.placeTogether(ctx, events[:n]); err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}

var errUnjudged = errors.New("this server cannot authorise the event")

// placeTogether places events in one write. If that fails, it places them one by one. So an event that cannot be
// authorised, for example because state resolution would take too much, does not block the others.
func (p *placing) placeTogether(ctx context.Context, events []*incoming) error {
	err := p.writeTogether(ctx, events)
	if err == nil || ctx.Err() != nil || storage.IsOutage(err) {
		return err
	}
	if len(events) == 1 {
		level := slog.LevelError
		if errors.Is(err, stateres.ErrTooLarge) { // caused by the room, not by this server
			level = slog.LevelInfo
		}
		p.svc.log.Log(ctx, level, "cannot authorise an event", "room", p.room.id, "event", events[0].ID(), "err", err)
		received.WithLabelValues("refused").Inc()
		p.finish(events[0].ID(), errUnjudged)
		p.lost = p.lost || !errors.Is(err, stateres.ErrTooLarge) // a retry would fail the same way
		return nil
	}
	for _, e := range events {
		if err := p.placeTogether(ctx, []*incoming{e}); err != nil {
			return err
		}
	}
	return nil
}

// writeTogether places either all of the given events, in one write, or none of them.
func (p *placing) writeTogether(ctx context.Context, events []*incoming) error {
	verdicts := make([]error, len(events))
	var added []*Event
	err := p.svc.change(ctx, p.room.id, func(b *batch) error {
		added = added[:0]
		for i, e := range events {
			verdict, err := b.addForeign(ctx, e)
			if isTemporary(err) {
				verdict, err = err, nil
			}
			if err != nil {
				return err
			}
			verdicts[i] = verdict
		}
		for _, e := range b.events {
			added = append(added, e.Event)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, e := range added {
		p.known[e.ID()] = e
	}
	for i, e := range events {
		p.record(e.ID(), verdicts[i])
	}
	return nil
}

// record records the verdict on an event as its result. For a soft failure the sender gets no error, since the event is
// part of the graph.
func (p *placing) record(eventID id.EventID, verdict error) {
	var soft softFailed
	var rejection *eventauth.Rejection
	result := "refused"
	switch {
	case errors.Is(verdict, errUndecided):
		result = "undecided"
	case verdict == nil:
		result = "accepted"
	case errors.As(verdict, &soft):
		result, verdict = "soft_failed", nil
	case errors.As(verdict, &rejection):
		result = "rejected"
	}
	received.WithLabelValues(result).Inc()
	p.finish(eventID, verdict)
}

// lookUp finds out how many of the first events can be placed in one write, and returns their number n. It also reads
// what is needed to place them. An event must be placed in a later write if it relates to one of the events before it,
// redacts one of them, or is redacted by one of them.
func (p *placing) lookUp(ctx context.Context, events []*incoming) (n int, err error) {
	listed, redacted := map[id.EventID]bool{}, map[id.EventID]bool{}
	for _, e := range events {
		e.relation = pdu.RelationOf(e.Content())
		if e.relation != nil && listed[e.relation.Parent] || listed[e.Redacts()] || redacted[e.ID()] {
			break
		}
		listed[e.ID()], redacted[e.Redacts()] = true, true
		if known := p.known[e.ID()]; known != nil {
			e.outlier = graph.OutlierOf(known)
		}
		e.elsewhere = slices.ContainsFunc(e.AuthEvents(), func(auth id.EventID) bool { return p.elsewhere[auth] })
		n++
	}
	return n, p.room.lookUp(ctx, events[:n]...)
}

// lookedUp returns e as an incoming event, after it has looked up what is needed to place it.
func (r *Room) lookedUp(ctx context.Context, e *pdu.Event) (*incoming, error) {
	in := &incoming{Event: e, lookup: lookup{relation: pdu.RelationOf(e.Content())}}
	return in, r.lookUp(ctx, in)
}

// lookUp looks up the users and events to which the given events refer.
func (r *Room) lookUp(ctx context.Context, events ...*incoming) error {
	for _, e := range events {
		if err := r.lookUpUsers(ctx, e); err != nil {
			return err
		}
		if err := r.lookUpTargets(ctx, e); err != nil {
			return err
		}
	}
	return r.svc.db.ReadInner(ctx, func(tx *storage.Tx) error {
		for _, e := range events {
			if err := r.lookUpEarlier(tx, e); err != nil {
				return err
			}
		}
		return nil
	})
}

// lookUpUsers looks up the numbers of an event's sender and of the user whom a member event is about.
func (r *Room) lookUpUsers(ctx context.Context, e *incoming) (err error) {
	if e.sender, err = r.svc.UserNID(ctx, e.Sender()); err != nil {
		return err
	}
	if key, isState := e.StateKey(); isState && e.Type() == typeMember {
		e.target, err = r.svc.UserNID(ctx, id.UserID(key))
	}
	return err
}

// lookUpTargets looks up the events to which an event relates, or which it redacts.
func (r *Room) lookUpTargets(ctx context.Context, e *incoming) (err error) {
	if e.relation != nil {
		parent, err := r.FindEvent(ctx, e.relation.Parent)
		if err != nil {
			return err
		}
		if parent != nil && !parent.Hidden() {
			e.threadRoot = parent.ThreadRoot
			if e.relation.RelType == relThread && pdu.RelationOf(parent.Content()) == nil {
				e.threadRoot = parent.Pos
			}
		}
	}
	if e.Type() == typeRedaction && e.Redacts() != "" {
		e.redacted, e.purgedSender, err = r.lookUpTarget(ctx, e.Redacts())
	}
	return err
}

// lookUpEarlier finds the events that arrived before an event although they come after it in the graph: those that
// follow the event, and redactions of it.
func (r *Room) lookUpEarlier(tx *storage.Tx, e *incoming) (err error) {
	if e.lateOrder, e.late, err = tx.MissingBefore(r.nid, string(e.ID())); err != nil {
		return err
	}
	return r.lookUpEarlierRedactions(tx, e)
}

// extremityIDs returns the IDs of the room's forward extremities.
func (r *Room) extremityIDs() []id.EventID {
	r.mu.RLock()
	defer r.mu.RUnlock()
	ids := make([]id.EventID, len(r.head.extremities))
	for i, x := range r.head.extremities {
		ids[i] = x.ID
	}
	return ids
}

// mergeExtremities sends a dummy event in the name of a local user if the room has many forward extremities. Until an
// event follows all of them, every new event needs a state resolution.
func (s *Service) mergeExtremities(ctx context.Context, r *Room) error {
	if len(r.extremityIDs()) < manyExtremities {
		return nil
	}
	for _, m := range r.Members(Join) {
		if !s.IsLocal(m.User) || r.Levels().UserLevel(m.User) < r.Levels().EventLevel(typeDummy, false) {
			continue
		}
		err := s.change(ctx, r.id, func(b *batch) error {
			_, err := b.add(proto{typ: typeDummy, sender: ident.Requester{UserNID: m.NID, UserID: m.User}, content: []byte(`{}`)})
			if mxerr.Code(err) == mxerr.CodeForbidden { // the user has lost the permission meanwhile
				return nil
			}
			return err
		})
		if errors.Is(err, signatures.ErrPolicy) { // the extremities stay
			return nil
		}
		return err
	}
	return nil
}
