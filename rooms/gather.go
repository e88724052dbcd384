package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/pdu"
)

// Bounds of the requests that the events of one transaction may cause; docs/limits.md lists them.
const (
	maxMissingRounds = 128      // requests for missing events
	maxMissingPage   = 100      // events that one of them asks for
	usualMissingPage = 20       // what other servers return at most; with fewer there are no more
	maxKnownBefore   = 60       // stored events that one of them names besides the extremities; servers look at a hundred or so
	maxMissingEvents = 10_000   // events that all of them may bring
	maxMissingBytes  = 32 << 20 // and their size: they are kept in memory until the first of them is placed
	maxAuthFetches   = 20       // requests for auth chains
	maxGaps          = 10       // requests for states
	maxGapEvents     = 2000     // events of such a state that are asked for one by one
	maxForeignState  = 300_000
)

// fetchTime bounds how long one caller keeps others waiting who need the network too. What has not come by then is
// missing.
const fetchTime = time.Minute

// gathering is the first step of arrivals: it asks other servers for what the waiting events lack. The room's fetching
// slot is held, but neither its receiving slot nor a lock: meanwhile others may place events in the room.
type gathering struct {
	*arrivals
	from *fetcher

	unavailable map[id.EventID]bool       // auth events that no server returned
	invalid     map[id.EventID]*pdu.Event // received and not valid: only their prev_events are looked at

	spoilt       bool // a missing event was not valid: what follows it is not accepted on a fetched state alone
	events       int  // missing events so far
	bytes        int  // and their size
	authRequests int
}

// newGathering returns a gathering for arrivals. Without a remote it asks nobody.
func newGathering(a *arrivals, remote Remote) *gathering {
	return &gathering{arrivals: a, from: newFetcher(a.storedEvents, remote, a.origin), unavailable: map[id.EventID]bool{}, invalid: map[id.EventID]*pdu.Event{}}
}

// inTime calls ask with a context that ends after fetchTime. Running out of that time is not an error; the end of ctx
// is.
func inTime(ctx context.Context, ask func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	err := ask(limited)
	if err != nil && limited.Err() != nil {
		return ctx.Err()
	}
	return err
}

// gather asks for everything that checks 4 to 7 need and that is missing. It returns the undecided events that can be
// authorised now.
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

// gatherMissingEvents asks the origin for the events between those that are stored and those that it sent.
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
			g.svc.log.DebugContext(ctx, "missing events could not be fetched", "room", g.room.id, "server", g.origin, "err", err)
			return ctx.Err()
		}
		raws = raws[:min(len(raws), maxMissingPage)]
		added := g.admit(ctx, raws)
		if err := g.lookUpStored(ctx); err != nil { // the known ones among them do not wait any more
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

// lackingEvents lists the waiting events that have a missing prev_event from after the join.
func (g *gathering) lackingEvents() (ids []id.EventID) {
	for eventID, e := range g.waiting {
		if slices.ContainsFunc(e.PrevEvents(), func(prev id.EventID) bool { return !g.has(prev) && !g.isHistory(prev) }) {
			ids = append(ids, eventID)
		}
	}
	slices.Sort(ids)
	return ids
}

// knownBefore lists stored prev_events of waiting events. The origin need not go back beyond them: the extremities
// alone do not name an event that has been followed since.
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

// admit verifies events that were asked for, and adds the valid ones to the waiting events. It returns these, and those
// that may be added because a valid event follows them.
func (g *gathering) admit(ctx context.Context, raws []json.RawMessage) (added []id.EventID) {
	events, errs := g.svc.verify(ctx, g.room.version, raws)
	for i, e := range events {
		switch {
		case e == nil && errors.Is(errs[i], errNoKey):
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
	errWithheld = errors.New("the server does not return what came before the event that it sent")
)

// gatherStates asks for the states after missing prev_events. Events for which no server returns it are refused, and so
// are those that follow.
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

// gatherStatesOf is gatherStates for one event. It returns false if the event was refused.
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
			g.svc.log.InfoContext(ctx, "the state after an event could not be fetched", "room", g.room.id, "event", prev, "err", err)
			g.finish(e.ID(), errNoPrevEvent)
			received.WithLabelValues("refused").Inc()
			return false, nil
		}
		g.noteState(prev, after)
	}
	return true, nil
}

// fetchStateAfter asks for the state after a missing prev_event.
func (g *gathering) fetchStateAfter(ctx context.Context, e *incoming, prev id.EventID) (state, error) {
	if err := g.mayFetchState(e, prev); err != nil {
		return nil, err
	}
	after, err := g.from.stateAfter(ctx, prev)
	if err != nil && ctx.Err() == nil { // servers do not return what they rejected
		return g.from.stateBefore(ctx, e.ID())
	}
	return after, err
}

// mayFetchState returns an error if the state after a missing prev_event must not be fetched. A server that sends an
// event but withholds its predecessors could make the event the room's only forward extremity and then dictate the
// room's state. Predecessors from before the join are not withheld: this server does not ask for them.
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

// noteState notes the state after a missing event on each waiting event that follows it.
func (g *gathering) noteState(prev id.EventID, after state) {
	for _, e := range g.waiting {
		if !slices.Contains(e.PrevEvents(), prev) {
			continue
		}
		if e.fetchedAfter == nil {
			e.fetchedAfter = map[id.EventID]state{}
		}
		if e.fetchedAfter[prev] = after; g.isHistory(prev) {
			e.behind = append(e.behind, prev)
		}
	}
}
