package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// fetcher requests states and auth events of a room from other servers, and stores them as outliers.
type fetcher struct {
	*storedEvents
	remote Remote // nil: no requests may be made
	server string // the server from which states are requested

	states     int  // number of requests so far
	incomplete bool // the server did not return all of the last state
}

func newFetcher(stored *storedEvents, remote Remote, server string) *fetcher {
	return &fetcher{storedEvents: stored, remote: remote, server: server}
}

var errTooManyGaps = errors.New("too many gaps in one transaction")

// stateAfter requests the state after an event that this server does not have.
func (f *fetcher) stateAfter(ctx context.Context, eventID id.EventID) (graph.State, error) {
	entries, chain, err := f.stateIDs(ctx, eventID)
	if err != nil {
		return nil, err
	}
	return f.fetchState(ctx, eventID, append(entries, eventID), chain)
}

// stateBefore requests the state before an event.
func (f *fetcher) stateBefore(ctx context.Context, eventID id.EventID) (graph.State, error) {
	entries, chain, err := f.stateIDs(ctx, eventID)
	if err != nil {
		return nil, err
	}
	return f.fetchState(ctx, eventID, entries, chain)
}

// stateIDs requests the IDs of the events in the state before an event, and those in the auth chain of that state.
func (f *fetcher) stateIDs(ctx context.Context, eventID id.EventID) (entries, chain []id.EventID, err error) {
	if f.states++; f.states > maxGaps {
		return nil, nil, errTooManyGaps
	}
	if f.remote == nil {
		return nil, nil, errors.New("federation is disabled")
	}
	return f.remote.StateIDs(ctx, f.server, f.room.id, eventID)
}

// fetchState returns a state, given the IDs of its events (entries) and of the events in its auth chain (chain). at is
// the event before or after which the room had this state. fetchState fetches missing events of both lists. The state
// lacks rejected events and events that the server does not return.
func (f *fetcher) fetchState(ctx context.Context, at id.EventID, entries, chain []id.EventID) (graph.State, error) {
	if len(entries) > maxForeignState || len(chain) > maxForeignState {
		return nil, errors.New("the state is too large")
	}
	if err := f.fetchStateEvents(ctx, at, append(slices.Clone(chain), entries...)); err != nil {
		return nil, err
	}
	out := graph.State{}
	for _, entry := range entries {
		e := f.known[entry]
		if e == nil {
			continue
		}
		if e = e.AsAuth(); e.Flags&storage.RejectedEvent != 0 {
			continue
		}
		if key, isState := e.StateKey(); isState {
			k := pdu.StateKey{Type: e.Type(), Key: key}
			out[k] = graph.Entry{Key: k, Pos: e.Pos}
		}
	}
	if _, ok := out[pdu.StateKey{Type: typeCreate}]; !ok {
		return nil, errors.New("the state has no create event")
	}
	return out, nil
}

// fetchStateEvents fetches and stores the events of a state and of its auth chain that are not stored yet.
func (f *fetcher) fetchStateEvents(ctx context.Context, at id.EventID, ids []id.EventID) error {
	if err := f.read(ctx, unknownOf(f.known, ids)); err != nil {
		return err
	}
	missing := unknownOf(f.known, ids)
	var raws []json.RawMessage
	defer func() { f.incomplete = f.lacksSome(raws, missing) }()
	switch {
	case len(missing) == 0:
		return nil
	case len(missing) <= 20: // 20: cheaper than a whole state
		raws = f.fetchEach(ctx, f.server, missing)
	default:
		entries, chain, err := f.remote.State(ctx, f.server, f.room.id, at, f.oneOf(missing))
		if err != nil {
			raws = f.fetchEach(ctx, f.server, missing[:min(len(missing), maxGapEvents)])
			break
		}
		raws = append(chain, entries...)
		if slices.Contains(missing, at) {
			raws = append(raws, f.fetchEach(ctx, f.server, []id.EventID{at})...)
		}
	}
	return f.storeOutliers(ctx, raws)
}

// oneOf returns a function that reports whether an event has one of the given IDs. It returns true only once for each
// ID, since a response may contain an event twice, in the state and in the auth chain.
func (f *fetcher) oneOf(ids []id.EventID) func(json.RawMessage) bool {
	wanted := make(map[id.EventID]bool, len(ids))
	for _, eventID := range ids {
		wanted[eventID] = true
	}
	return func(raw json.RawMessage) bool {
		eventID := idOf(f.room.version, raw)
		defer delete(wanted, eventID)
		return wanted[eventID]
	}
}

// lacksSome reports whether a response lacks some of the expected events.
func (f *fetcher) lacksSome(raws []json.RawMessage, wanted []id.EventID) bool {
	given := make(map[id.EventID]bool, len(raws))
	for _, raw := range raws {
		given[idOf(f.room.version, raw)] = true
	}
	return slices.ContainsFunc(wanted, func(eventID id.EventID) bool { return !given[eventID] })
}

// fetchEach requests events one by one, and leaves out those that the server does not return.
func (f *fetcher) fetchEach(ctx context.Context, server string, ids []id.EventID) (raws []json.RawMessage) {
	for _, eventID := range ids {
		raw, err := f.remote.GetEvent(ctx, server, eventID)
		if ctx.Err() != nil {
			return raws
		}
		if err == nil {
			raws = append(raws, raw)
		}
	}
	return raws
}

// storeOutliers verifies events, authorises them by their auth events and stores them as outliers.
func (f *fetcher) storeOutliers(ctx context.Context, raws []json.RawMessage) error {
	if len(raws) == 0 {
		return nil
	}
	raws = raws[:min(len(raws), maxForeignState)]
	events, _ := f.svc.verifier.Verify(ctx, f.room.version, raws)
	events = slices.DeleteFunc(events, func(e *pdu.Event) bool { return e == nil || e.RoomID() != f.room.id })
	var ids []id.EventID
	for _, e := range events {
		ids = append(append(ids, e.ID()), e.AuthEvents()...)
	}
	if err := f.read(ctx, ids); err != nil {
		return err
	}
	if create := f.room.State(typeCreate, ""); create != nil {
		f.known[create.ID()] = create
	}
	outliers := authorised(f.room.version, events, f.known, f.elsewhere)
	if err := f.svc.storeOutliers(ctx, f.room.nid, outliers); err != nil {
		return err
	}
	for _, e := range outliers {
		f.known[e.ID()] = e
	}
	return nil
}
