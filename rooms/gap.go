package rooms

import (
	"context"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/storage"
)

const (
	maxBackfillRounds = 5   // times that one request asks for earlier events
	maxPageGaps       = 100 // gaps of a timeline that are looked at, the newest first
	// backfillRest is how long other servers are not asked again for a gap for which they had nothing.
	backfillRest = 10 * time.Minute
	// exhaustedEntries is how many such gaps are remembered.
	exhaustedEntries = 10_000
)

// pageGap is a position in a room's timeline before which events are missing.
type pageGap struct {
	above int64 // order of the event that the missing ones precede
	found bool
}

type gapKey struct{ room, above int64 }

// gap finds the newest gap in a part of the timeline that other servers may fill, and ends the part there: what lies below must
// not be shown before the gap is filled.
func (v *viewer) gap(tx *storage.Tx, w *window) (pageGap, error) {
	if !v.joined || !v.room.CanBackfill() {
		return pageGap{}, nil
	}
	upTo := w.upTo
	if upTo < everything().upTo { // the event that the last page ended with may be the one above it
		upTo++
	}
	edges, err := tx.BackwardEdges(v.room.NID(), w.after, upTo, maxPageGaps)
	if err != nil {
		return pageGap{}, err
	}
	for _, e := range edges {
		g := pageGap{above: e.Order, found: true}
		if at, tried := v.svc.reader.exhausted.get(gapKey{v.room.NID(), g.above}); tried && v.now.Sub(at) < backfillRest {
			continue
		}
		w.after = max(w.after, min(g.above-1, w.upTo))
		return g, nil
	}
	return pageGap{}, nil
}

// reach reports whether a walk has come to the gap that its window ends with, and lets the walk go on from there.
func (g pageGap) reach(c *cursor) bool {
	if !g.found || !c.done {
		return false
	}
	c.done, c.upTo = false, g.above-1
	return true
}

// filling is reading that runs f again for as long as other servers fill the gaps that f returns.
func (s *Service) filling(ctx context.Context, roomID id.RoomID, to Recipient, f func(tx *storage.Tx, v *viewer) (pageGap, error)) error {
	for round := 0; ; round++ {
		var g pageGap
		var room *Room
		err := s.reading(ctx, roomID, to, func(tx *storage.Tx, v *viewer) (err error) {
			room = v.room
			g, err = f(tx, v)
			return err
		})
		if err != nil || !g.found || round == maxBackfillRounds {
			return err
		}
		if s.Backfill(ctx, room, g.above) {
			s.reader.exhausted.put(gapKey{room.NID(), g.above}, s.Now())
		}
	}
}
