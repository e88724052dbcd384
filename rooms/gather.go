package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/rooms/signatures"
)

// Bounds of the requests that the events of one transaction may cause; docs/limits.md lists them.
const (
	maxMissingRounds = 128      // requests for missing events
	maxMissingPage   = 100      // events per request
	usualMissingPage = 20       // the page size of other servers; a smaller page is the last one
	maxKnownBefore   = 60       // stored events that a request names besides the extremities
	maxMissingEvents = 10_000   // events returned by all of these requests
	maxMissingBytes  = 32 << 20 // and their size: they are kept in memory until the first of them is placed
	maxAuthFetches   = 20       // requests for auth chains
	maxGaps          = 10       // requests for states
	maxGapEvents     = 2000     // events of such a state that are requested one by one
	maxForeignState  = 300_000
)

// fetchTime bounds how long one caller holds the fetching slot, for which others wait. Events that have not arrived by
// then count as missing.
const fetchTime = time.Minute

// gathering is the first step of processing arrivals: it requests what the waiting events lack. Meanwhile only the
// room's fetching slot is held, neither its receiving slot nor a lock, so that other events of the room can be placed.
type gathering struct {
	*arrivals
	from *fetcher

	unavailable map[id.EventID]bool       // auth events that no server returned
	invalid     map[id.EventID]*pdu.Event // invalid received events, used for their prev_events only

	spoilt       bool // a missing event was invalid, so that no event is accepted on a fetched state alone
	events       int  // missing events so far
	bytes        int  // their size
	authRequests int
}

// newGathering returns a gathering for the given arrivals. If remote is nil, it makes no requests.
func newGathering(a *arrivals, remote Remote) *gathering {
	return &gathering{arrivals: a, from: newFetcher(a.storedEvents, remote, a.origin), unavailable: map[id.EventID]bool{}, invalid: map[id.EventID]*pdu.Event{}}
}

// inTime calls ask with a context that ends after fetchTime. It returns nil if ask fails because this time is up, but
// an error if ctx has ended.
func inTime(ctx context.Context, ask func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	err := ask(limited)
	if err != nil && limited.Err() != nil {
		return ctx.Err()
	}
	return err
}

// gather requests everything that is missing for checks 4 to 7. It returns the undecided events that can be authorised
// now.
func (g *gathering) gather(ctx context.Context) (ready decidable, err error) {
	if err := g.lookUpAgain(ctx); err != nil {
		return decidable{}, err
	}
	for _, step := range []func(context.Context) error{
		g.gatherHistory,
		g.gatherMissingEvents,
		g.gatherStates,
		g.gatherAuthEvents,
		g.gatherStates, // also for events that follow one whose auth events cannot be fetched
	} {
		if err := step(ctx); err != nil {
			return decidable{}, err
		}
	}
	g.gatherPolicySignatures(ctx)
	return g.gatherDecidable(ctx)
}

// gatherMissingEvents requests from the origin the events between the stored events and the ones that the origin sent.
// Spec: server-server-api#retrieving-events
func (g *gathering) gatherMissingEvents(ctx context.Context) error {
	if g.from.remote == nil {
		return nil
	}
	extremities := g.room.extremityIDs()
	for range maxMissingRounds {
		latest := g.lackingEvents()
		if len(latest) == 0 || g.events >= maxMissingEvents || g.bytes >= maxMissingBytes {
			return nil
		}
		latest = latest[:min(len(latest), pdu.MaxPrevEvents)]
		earliest := append(g.knownBefore(latest), extremities...)
		raws, err := g.from.remote.GetMissingEvents(ctx, g.origin, g.room.id, earliest, latest, maxMissingPage, g.room.MinDepth())
		if err != nil {
			g.svc.log.DebugContext(ctx, "could not fetch missing events", "room", g.room.id, "server", g.origin, "err", err)
			return ctx.Err()
		}
		raws = raws[:min(len(raws), maxMissingPage)]
		added := g.admit(ctx, raws)
		if err := g.lookUpStored(ctx); err != nil { // stored events no longer wait
			return err
		}
		if err := g.gatherHistory(ctx); err != nil {
			return err
		}
		fresh := slices.ContainsFunc(added, func(eventID id.EventID) bool { return g.waiting[eventID] != nil })
		g.events += len(raws)
		for _, raw := range raws {
			g.bytes += len(raw)
		}
		if !fresh || len(raws) < usualMissingPage {
			return nil
		}
	}
	return nil
}

// lackingEvents returns the waiting events that follow a missing event which is not history.
func (g *gathering) lackingEvents() (ids []id.EventID) {
	for eventID, e := range g.waiting {
		if slices.ContainsFunc(e.PrevEvents(), func(prev id.EventID) bool { return !g.has(prev) && !g.isHistory(prev) }) {
			ids = append(ids, eventID)
		}
	}
	slices.Sort(ids)
	return ids
}

// knownBefore returns the stored events that the given waiting events name in prev_events, for a request of missing
// events: the origin goes back no further than to these. The forward extremities alone are not enough, because a
// missing event may follow an older stored one.
func (g *gathering) knownBefore(events []id.EventID) (known []id.EventID) {
	for _, eventID := range events {
		for _, prev := range g.waiting[eventID].PrevEvents() {
			if g.waiting[prev] == nil && g.has(prev) && len(known) < maxKnownBefore && !slices.Contains(known, prev) {
				known = append(known, prev)
			}
		}
	}
	return known
}

// admit verifies requested events and adds the valid ones to the waiting events. It returns the IDs of the added
// events, and of events with a signature that cannot be checked, which are added later if a valid event follows them.
func (g *gathering) admit(ctx context.Context, raws []json.RawMessage) (added []id.EventID) {
	events, errs := g.svc.verifier.Verify(ctx, g.room.version, raws)
	for i, e := range events {
		switch {
		case e == nil && errors.Is(errs[i], signatures.ErrNoKey):
			if e := g.keepUnproven(raws[i]); e != nil {
				added = append(added, e.ID())
			}
		case e == nil:
			g.spoilt = true
			if bad, err := pdu.Parse(g.room.version, raws[i]); err == nil {
				g.invalid[bad.ID()] = bad
			}
			g.svc.log.DebugContext(ctx, "a missing event is not valid", "room", g.room.id, "server", g.origin, "err", errs[i])
		case e.RoomID() == g.room.id && g.waiting[e.ID()] == nil:
			g.waiting[e.ID()] = &incoming{Event: e, asked: true}
			added = append(added, e.ID())
		}
	}
	return added
}

var (
	errSpoilt   = errors.New("a missing event is not valid")
	errWithheld = errors.New("the server does not return the prev_events of the event that it sent")
)

// gatherStates requests the states after missing prev_events. An event for which no server returns the state is
// rejected, and so are the events that follow it.
func (g *gathering) gatherStates(ctx context.Context) error {
	refused := false
	for _, e := range g.lackingState() {
		ok, err := g.gatherStatesOf(ctx, e)
		if err != nil {
			return err
		}
		refused = refused || !ok
	}
	if refused {
		g.refuseLackingState()
	}
	return nil
}

// gatherStatesOf is like gatherStates, but for one event. It returns false if the event was rejected.
func (g *gathering) gatherStatesOf(ctx context.Context, e *incoming) (ok bool, err error) {
	for _, prev := range e.PrevEvents() {
		if !g.lacksState(e, prev) {
			continue
		}
		after, err := g.fetchStateAfter(ctx, e, prev)
		if err != nil {
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			g.svc.log.InfoContext(ctx, "could not fetch the state after an event", "room", g.room.id, "event", prev, "err", err)
			g.finish(e.ID(), errNoPrevEvent)
			received.WithLabelValues("refused").Inc()
			return false, nil
		}
		g.noteState(prev, after)
	}
	return true, nil
}

// fetchStateAfter requests the state after a missing prev_event.
func (g *gathering) fetchStateAfter(ctx context.Context, e *incoming, prev id.EventID) (graph.State, error) {
	if err := g.mayFetchState(e, prev); err != nil {
		return nil, err
	}
	after, err := g.from.stateAfter(ctx, prev)
	if err != nil && ctx.Err() == nil { // servers do not return events that they rejected
		return g.from.stateBefore(ctx, e.ID())
	}
	return after, err
}

// mayFetchState returns an error if the state after prev, a missing prev_event of e, must not be fetched: a server that
// sends an event but withholds the events before it could make this event the only forward extremity, and so dictate
// the room's state. If prev precedes the join, nothing is withheld, since this server does not request such events.
func (g *gathering) mayFetchState(e *incoming, prev id.EventID) error {
	switch {
	case g.isHistory(prev):
		return nil
	case g.spoilt:
		return errSpoilt
	case !e.asked && e.Depth() > g.room.MinDepth()+1:
		return errWithheld
	}
	return nil
}

// noteState records the state after prev, a missing event, in each waiting event that follows prev.
func (g *gathering) noteState(prev id.EventID, after graph.State) {
	for _, e := range g.waiting {
		if !slices.Contains(e.PrevEvents(), prev) {
			continue
		}
		if e.fetchedAfter == nil {
			e.fetchedAfter = map[id.EventID]graph.State{}
		}
		if e.fetchedAfter[prev] = after; g.isHistory(prev) {
			e.behind = append(e.behind, prev)
		}
	}
}
