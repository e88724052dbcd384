package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/rooms/signatures"
	"ebb/storage"
)

// An event is undecided while the key that signed it, or one of its auth events, cannot be fetched. That is never
// final: the signature is not part of the event ID, so anybody can send a valid event with a signature that nobody can
// check.
//
// An undecided event is dropped, unless a valid event follows it: then its redacted form becomes part of the graph,
// flagged as rejected and undecided. It changes no state, is no forward extremity and is sent to nobody, and events
// that follow it are authorised without it. An event that cites an undecided one is undecided too. When a copy with a
// valid signature, the key or the missing auth event arrives, the event is authorised, and so is again what follows it;
// see deciding.go.

const (
	// maxUndecided bounds the undecided events of a room, and maxUndecidedBytes their size. The oldest are dropped
	// first; the events that follow them stay.
	maxUndecided      = 100
	maxUndecidedBytes = 1 << 20
)

// errUndecided means that an event cannot be authorised yet.
var errUndecided = errors.New("a key or an auth event could not be fetched yet")

// keepUnproven keeps an event whose signature cannot be checked, in its redacted form. The event is needed if a valid
// event follows it.
func (a *arrivals) keepUnproven(raw json.RawMessage) *incoming {
	e, err := pdu.Parse(a.room.version, raw)
	if err != nil || e.RoomID() != a.room.id {
		return nil
	}
	if e, err = e.Redact(); err != nil {
		return nil
	}
	kept := &incoming{Event: e, unverified: true, asked: true}
	a.unproven[e.ID()] = kept
	return kept
}

// admitUnproven moves events whose signature cannot be checked to the waiting events, if a waiting event follows them
// or if their ID is in followed.
func (a *arrivals) admitUnproven(followed ...id.EventID) {
	if len(a.unproven) == 0 {
		return
	}
	for _, e := range a.waiting {
		followed = append(followed, e.PrevEvents()...)
	}
	for len(followed) > 0 {
		eventID := followed[len(followed)-1]
		followed = followed[:len(followed)-1]
		e := a.unproven[eventID]
		if e == nil {
			continue
		}
		if delete(a.unproven, eventID); a.waiting[eventID] == nil {
			a.waiting[eventID] = e
			followed = append(followed, e.PrevEvents()...)
		}
	}
}

// decidable holds undecided events of a room that can be authorised now.
type decidable struct {
	arrived    map[id.EventID]*incoming // complete copies of events that arrived as new
	historical []*Event                 // events of the history
}

func (d decidable) none() bool { return len(d.arrived)+len(d.historical) == 0 }

// answerCopies sets the results for the copies in a.copies whose events still cannot be authorised.
func (a *arrivals) answerCopies(ready decidable) {
	for eventID := range a.copies {
		if ready.arrived[eventID] == nil {
			a.results[eventID], a.lost = nil, true
		}
	}
}

// gatherDecidable finds the undecided events that can be authorised now.
func (g *gathering) gatherDecidable(ctx context.Context) (ready decidable, err error) {
	defer func() { g.answerCopies(ready) }()
	if !g.room.maybeDecidable() || g.from.remote == nil {
		return decidable{}, nil
	}
	events, err := g.svc.provable(ctx, g.room, g.copies)
	if err != nil {
		return decidable{}, err
	}
	return g.chooseDecidable(ctx, events, false)
}

// maybeDecidable reports whether the room has undecided events and full state. Events of a partial-state room are not
// tried: when the room gets its full state, all of them are authorised again.
func (r *Room) maybeDecidable() bool { return r.hasUndecided() && !r.Partial() }

// provable returns the undecided events of a room that are known to come from their sender's server: their signature
// can be verified now, or there is a verified copy of them in copies. They are in the order of arrival.
func (s *Service) provable(ctx context.Context, r *Room, copies map[id.EventID]*incoming) ([]*Event, error) {
	stored, err := s.undecided(ctx, r)
	if err != nil {
		return nil, err
	}
	events := make([]*pdu.Event, 0, len(stored))
	for _, e := range stored {
		if copies[e.ID()] == nil {
			events = append(events, e.Event)
		}
	}
	keys := s.verifier.KeysOf(ctx, events)
	return slices.DeleteFunc(stored, func(e *Event) bool { return copies[e.ID()] == nil && signatures.Check(e.Event, keys) != nil }), nil
}

// undecided returns the undecided events of a room in the order of arrival.
func (s *Service) undecided(ctx context.Context, r *Room) (events []*Event, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.UndecidedEvents(r.nid, maxUndecided)
		for i := range rows {
			e, err := graph.LoadEvent(r.version, &rows[i])
			if err != nil {
				return err
			}
			events = append(events, e)
		}
		return err
	})
	return events, err
}

// chooseDecidable returns those of the provable events whose auth events are all stored, and fetches complete copies of
// them. If ask is true, it first requests auth events that are missing.
func (g *gathering) chooseDecidable(ctx context.Context, provable []*Event, ask bool) (decidable, error) {
	ready := decidable{arrived: map[id.EventID]*incoming{}}
	if !g.room.maybeDecidable() {
		return ready, nil
	}
	for _, e := range provable {
		if copied := g.copies[e.ID()]; copied != nil {
			e = e.Verified(copied.Event)
		}
		complete, err := g.hasAuthEvents(ctx, e, ready, ask)
		switch {
		case err != nil:
			return ready, err
		case !complete:
		case e.Order != 0:
			ready.historical = append(ready.historical, e)
		default:
			ready.arrived[e.ID()] = g.completeCopy(ctx, e)
		}
	}
	return ready, ctx.Err()
}

// hasAuthEvents reports whether all auth events of an undecided event are stored, and none of them is undecided except
// those in ready, which are decided first. If ask is true, it first requests auth events that are missing.
func (g *gathering) hasAuthEvents(ctx context.Context, e *Event, ready decidable, ask bool) (bool, error) {
	if err := g.find(ctx, e.AuthEvents()); err != nil {
		return false, err
	}
	if ask && len(unknownOf(g.known, e.AuthEvents())) > 0 {
		if err := g.gatherAuthEventsOf(ctx, &incoming{Event: e.Event}); err != nil {
			return false, err
		}
	}
	for _, auth := range e.AuthEvents() {
		known := g.known[auth]
		if known == nil && !g.elsewhere[auth] || known != nil && known.AsAuth().Undecided() && ready.arrived[auth] == nil {
			return false, nil
		}
	}
	return true, nil
}

// completeCopy returns a complete copy of an event that is stored only in its redacted form. If no server returns one,
// it returns the redacted form, whose signature is valid.
func (g *gathering) completeCopy(ctx context.Context, e *Event) *incoming {
	if copied := g.copies[e.ID()]; copied != nil {
		return copied
	}
	for _, server := range g.serversFor(e.Sender()) {
		raw, err := g.from.remote.GetEvent(ctx, server, e.ID())
		if err != nil {
			continue
		}
		if events, _ := g.svc.verifier.Verify(ctx, g.room.version, []json.RawMessage{raw}); events[0] != nil && events[0].ID() == e.ID() {
			return &incoming{Event: events[0]}
		}
	}
	return &incoming{Event: e.Event}
}
