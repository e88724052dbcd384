package history

import (
	"context"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

const (
	maxBackfillRounds = 5   // backfill requests on behalf of one client request
	maxGaps           = 100 // gaps of a timeline that are checked, newest first
	// backfillRest is how long other servers are not asked again about a gap for which they had no events.
	backfillRest = 10 * time.Minute
	// exhaustedEntries bounds the number of such gaps in memory.
	exhaustedEntries = 10_000
)

// gap is a point of a room's timeline before which events are missing.
type gap struct {
	above ident.Order // order of the event before which events are missing
	found bool
}

type gapKey struct {
	room  ident.RoomNID
	above ident.Order
}

// gap finds the newest gap in a window that other servers may be able to fill. It ends the window at the gap, because
// older events must not be shown before the gap is filled.
func (v *viewer) gap(tx *storage.Tx, w *window) (gap, error) {
	if !v.joined || !v.room.CanBackfill() {
		return gap{}, nil
	}
	upTo := w.upTo
	if upTo < everything().upTo { // the last event of the previous page may be just above the gap
		upTo++
	}
	edges, err := tx.BackwardEdges(v.room.NID(), w.after, upTo, maxGaps)
	if err != nil {
		return gap{}, err
	}
	for _, e := range edges {
		g := gap{above: e.Order, found: true}
		if at, tried := v.svc.exhausted.Get(gapKey{v.room.NID(), g.above}); tried && v.now.Sub(at) < backfillRest {
			continue
		}
		w.after = max(w.after, min(g.above-1, w.upTo))
		return g, nil
	}
	return gap{}, nil
}

// reach reports whether a walk has reached the gap at the end of its window. If so, it prepares c so that the walk can
// continue from there after the gap was filled.
func (g gap) reach(c *cursor) bool {
	if !g.found || !c.done {
		return false
	}
	c.done, c.upTo = false, g.above-1
	return true
}

// filling is like reading, but if f returns a gap, it fills the gap with events from other servers and calls f again,
// up to maxBackfillRounds times.
func (s *Service) filling(ctx context.Context, roomID id.RoomID, to ident.Requester, f func(tx *storage.Tx, v *viewer) (gap, error)) error {
	for round := 0; ; round++ {
		var g gap
		var room *rooms.Room
		err := s.reading(ctx, roomID, to, func(tx *storage.Tx, v *viewer) (err error) {
			room = v.room
			g, err = f(tx, v)
			return err
		})
		if err != nil || !g.found || round == maxBackfillRounds {
			return err
		}
		if s.rooms.Backfill(ctx, room, g.above) {
			s.exhausted.Put(gapKey{room.NID(), g.above}, s.now())
		}
	}
}
