package rooms

import (
	"context"
	"slices"
	"time"

	"ebb/deletions"
	"ebb/ident"
	"ebb/rooms/legalhold"
	"ebb/storage"
	"ebb/storage/pace"
)

// CommittedHold is a legal hold that was added or lifted.
type CommittedHold = legalhold.Change

// followHolds extends legal holds if changes of the current state decide which room replaces which.
func (b *batch) followHolds(tx *storage.Tx, changes []*stateChange) error {
	linked := slices.ContainsFunc(changes, func(c *stateChange) bool {
		return c.key.Key == "" && (c.key.Type == typeCreate || c.key.Type == typeTombstone)
	})
	if !linked || !b.svc.holds.AnyRoom() {
		return nil
	}
	added, err := legalhold.Follow(tx, b.room.nid)
	b.commit.Holds = append(b.commit.Holds, added...)
	return err
}

// Held reports whether a legal hold covers the events of a sender in a room. Such events, their originals if they were
// redacted, and their media must not be deleted, but this does not make them visible to anybody. Held takes no lock and
// does not use the database.
//
// A hold counts when its Commit was delivered, that is, before anybody learns that it was added. Within a write, call
// Held in Write.Do: no other write commits before that one ends.
func (s *Service) Held(room ident.RoomNID, sender ident.UserNID) bool {
	return s.holds.Held(room, sender)
}

// RoomHeld reports whether there is a legal hold on a room.
func (s *Service) RoomHeld(room ident.RoomNID) bool { return s.holds.Room(room) }

// UserHeld reports whether there is a legal hold on a user.
func (s *Service) UserHeld(user ident.UserNID) bool { return s.holds.User(user) }

// HoldsLifted returns how many legal holds were lifted since the server started. When it has grown, there may be
// messages to purge that a hold had kept.
func (s *Service) HoldsLifted() int64 { return s.holds.Lifted() }

// PurgeReleased removes messages of a sender in a room that a legal hold or min_lifetime has kept, and that nothing
// keeps any more at the time by: those after the given position, in a step of a size that at determines.
func (s *Service) PurgeReleased(ctx context.Context, r *Room, of storage.KeptBy, after storage.Pos, by time.Time, at *pace.Pace) (out Purged, last storage.Pos, err error) {
	limit, gone := at.Step(), []storage.Pos(nil)
	err = s.touch(ctx, r.id, func(loaded *Room) storage.Write {
		r = loaded
		return storage.Write{Rests: true, Do: func(tx *storage.Tx) error {
			defer at.Measure()()
			out, last, gone = Purged{}, after, nil
			if s.Held(of.Room, of.Sender) {
				return nil
			}
			batch, err := tx.KeptCandidates(of, after, limit)
			if err != nil || len(batch) == 0 {
				return err
			}
			last, out.More = batch[len(batch)-1].Position, len(batch) == limit
			policy := r.Retention()
			batch = slices.DeleteFunc(batch, func(c storage.PurgeCandidate) bool {
				return !c.IsState && policy.WithinMin(c.ReceivedTS, by.UnixMilli())
			})
			row, found, err := tx.RoomByNID(r.nid)
			if err != nil || !found {
				return err
			}
			media := tx.DeletedMedia()
			p := purging{tx: tx, room: r, ends: row.Extremities}
			for _, c := range batch {
				if err := p.remove(c); err != nil {
					return err
				}
			}
			gone = p.gone
			if err := p.finish(batch, &out); err != nil {
				return err
			}
			return s.receipt(tx, r, deletions.Released, &out, tx.DeletedMedia()-media)
		}, Committed: func() { s.purged(r, gone, 0) }}
	})
	return out, last, err
}
