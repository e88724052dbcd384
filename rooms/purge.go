package rooms

import (
	"context"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/expiry"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// purgeBatch is how many events one purge transaction looks at: 500 keep it under about 20 ms, so that sends wait little.
const purgeBatch = 500

// Purge removes message events of a room that have expired by a time from the database, among the next purgeBatch events after an order.
// It returns how many went, where to go on, and whether there may be more. State events stay; an event that the graph
// still needs keeps its redacted skeleton, which no client sees.
func (s *Service) Purge(ctx context.Context, r *Room, by time.Time, after ident.Order) (purged int, next ident.Order, more bool, err error) {
	cutoff, expires := expiry.Cutoff(r.Retention(), by)
	if !expires {
		return 0, after, false, nil
	}
	var gone []storage.Pos
	err = s.touch(ctx, r.id, func(loaded *Room) storage.Write {
		r = loaded
		return storage.Write{Do: func(tx *storage.Tx) error {
			batch, err := tx.PurgeCandidates(r.nid, after, purgeBatch)
			if err != nil {
				return err
			}
			gone, err = s.purge(tx, r, batch, cutoff)
			if err != nil || len(batch) == 0 {
				return err
			}
			next = batch[len(batch)-1].Order
			more = len(batch) == purgeBatch && slices.ContainsFunc(batch, func(c storage.PurgeCandidate) bool { return c.SentAt <= cutoff })
			return tx.SetPurgedBefore(r.nid, cutoff)
		}, Committed: func() { s.purged(r, gone, cutoff) }}
	})
	return len(gone), next, more, err
}

func (s *Service) purge(tx *storage.Tx, r *Room, batch []storage.PurgeCandidate, cutoff int64) (gone []storage.Pos, err error) {
	row, found, err := tx.RoomByNID(r.nid)
	if err != nil || !found {
		return nil, err
	}
	dependents, err := tx.WithDependents(batch)
	if err != nil {
		return nil, err
	}
	var bare []storage.Pos
	for _, c := range batch {
		if c.IsState || c.SentAt > cutoff {
			continue
		}
		needed, skeleton := slices.Contains(row.Extremities, c.Position), c.Flags&storage.SkeletonEvent != 0
		switch {
		case needed && skeleton:
			continue
		case needed:
			err = skeletonize(tx, r.version, c)
		case dependents[c.Position]:
			err = tx.PurgeEvent(c.Position, c.EventID)
		default: // also the skeleton that the graph has grown beyond
			bare = append(bare, c.Position)
		}
		if err != nil {
			return gone, fmt.Errorf("purge %s: %w", c.EventID, err)
		}
		if !skeleton {
			gone = append(gone, c.Position)
		}
	}
	if err := tx.PurgeBare(bare); err != nil {
		return gone, fmt.Errorf("purge %d messages: %w", len(bare), err)
	}
	return gone, nil
}

func skeletonize(tx *storage.Tx, v *pdu.Version, c storage.PurgeCandidate) error {
	row, found, err := tx.EventAt(c.Position)
	if err != nil || !found {
		return err
	}
	e, err := pdu.ParseStored(v, id.EventID(row.EventID), row.JSON)
	if err != nil {
		return err
	}
	redacted, err := e.Redact()
	if err != nil {
		return err
	}
	return tx.SkeletonizeEvent(c.Position, c.EventID, c.Flags, redacted.JSON())
}

// purged is the Committed hook of a purge: memory forgets what is gone from the database.
func (s *Service) purged(r *Room, gone []storage.Pos, cutoff int64) {
	s.commit(&Commit{Room: r, Purged: gone}, headFunc(func(r *Room) {
		r.head.purged = max(r.head.purged, cutoff)
		if len(gone) > 0 {
			r.head.ring = without(r.head.ring, gone)
		}
	}))
}

// without is the ring without what has gone; what was in a thread whose root has gone is in the main timeline.
func without(ring []*Event, gone []storage.Pos) []*Event {
	out := make([]*Event, 0, 2*ringSize)
	for _, e := range ring {
		if slices.Contains(gone, e.Pos) {
			continue
		}
		if e.ThreadRoot != 0 && slices.Contains(gone, e.ThreadRoot) {
			e = e.unthreaded()
		}
		out = append(out, e)
	}
	return out
}

// SetRetentionOverride sets the administrator's policy for a room; nil takes it away and lets the room's own stand.
func (s *Service) SetRetentionOverride(ctx context.Context, roomID id.RoomID, override *expiry.Policy) error {
	var low, high *int64
	if override != nil {
		if override.Min != nil && override.Max != nil && *override.Max < *override.Min {
			return mxerr.InvalidParam("The maximum must not be shorter than the minimum")
		}
		if override.Min != nil {
			ms := override.Min.Milliseconds()
			low = &ms
		}
		if override.Max != nil {
			ms := override.Max.Milliseconds()
			high = &ms
		}
	}
	return s.touch(ctx, roomID, func(r *Room) storage.Write {
		return storage.Write{
			Do: func(tx *storage.Tx) error { return tx.SetRetentionOverride(r.nid, override != nil, low, high) },
			Committed: func() {
				s.commit(&Commit{Room: r, Retention: true}, headFunc(func(r *Room) {
					r.head.override = override
					r.head.policy = s.effective(&r.head)
				}))
			},
		}
	})
}

// Override is the administrator's retention policy for the room, nil where there is none.
func (r *Room) Override() *expiry.Policy {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.override
}
