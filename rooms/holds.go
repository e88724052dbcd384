package rooms

import (
	"context"
	"maps"
	"sync/atomic"

	"ebb/deletions"
	"ebb/ident"
	"ebb/storage"
)

// legalHolds knows on which rooms and users there are legal holds. Readers take no lock.
type legalHolds struct {
	current atomic.Pointer[heldSet] // never nil; never modified
	lifted  atomic.Int64            // how many holds were lifted since the start
}

// heldSet counts the holds on each room and user.
type heldSet struct {
	rooms map[ident.RoomNID]int
	users map[ident.UserNID]int
}

func (l *legalHolds) load(ctx context.Context, db *storage.DB) error {
	set := &heldSet{rooms: map[ident.RoomNID]int{}, users: map[ident.UserNID]int{}}
	l.current.Store(set)
	return db.Read(ctx, func(tx *storage.Tx) error {
		holds, err := tx.StandingHolds()
		for _, h := range holds {
			set.add(h.Room, h.User, 1)
		}
		return err
	})
}

// add changes the number of holds on a room or a user.
func (h *heldSet) add(room ident.RoomNID, user ident.UserNID, n int) {
	if room != 0 {
		count(h.rooms, room, n)
	}
	if user != 0 {
		count(h.users, user, n)
	}
}

func count[K comparable](m map[K]int, k K, n int) {
	if m[k] += n; m[k] <= 0 {
		delete(m, k)
	}
}

// committed is the Listener that records holds that were added or lifted.
func (l *legalHolds) committed(c *Commit) {
	if len(c.Holds) == 0 {
		return
	}
	old := l.current.Load()
	set := &heldSet{rooms: maps.Clone(old.rooms), users: maps.Clone(old.users)}
	lifted := int64(0)
	for _, h := range c.Holds {
		if h.Lifted {
			set.add(h.Room, h.User, -1)
			lifted++
		} else {
			set.add(h.Room, h.User, 1)
		}
	}
	l.current.Store(set)
	l.lifted.Add(lifted) // afterwards, so that who sees it sees the new set
}

// Held reports whether a legal hold covers the events of a sender in a room. Such events, their originals if they were
// redacted, and their media must not be deleted, but this does not make them visible to anybody. Held takes no lock and
// does not use the database.
//
// A hold counts when its Commit was delivered, that is, before anybody learns that it was added. Within a write, call
// Held in Write.Do: no other write commits before that one ends.
func (s *Service) Held(room ident.RoomNID, sender ident.UserNID) bool {
	set := s.holds.current.Load()
	return set.rooms[room] > 0 || set.users[sender] > 0
}

// RoomHeld reports whether there is a legal hold on a room.
func (s *Service) RoomHeld(room ident.RoomNID) bool { return s.holds.current.Load().rooms[room] > 0 }

// UserHeld reports whether there is a legal hold on a user.
func (s *Service) UserHeld(user ident.UserNID) bool { return s.holds.current.Load().users[user] > 0 }

// HoldsLifted returns how many legal holds were lifted since the server started. When it has grown, there may be
// messages to purge that a hold had kept.
func (s *Service) HoldsLifted() int64 { return s.holds.lifted.Load() }

// PurgeReleased removes messages of a sender in a room that a legal hold kept when they expired, and that none covers
// any more: at most PurgeBatch after the given position.
func (s *Service) PurgeReleased(ctx context.Context, r *Room, of storage.KeptBy, after storage.Pos) (out Purged, last storage.Pos, err error) {
	var gone []storage.Pos
	err = s.touch(ctx, r.id, func(loaded *Room) storage.Write {
		r = loaded
		return storage.Write{Do: func(tx *storage.Tx) error {
			out, last, gone = Purged{}, after, nil
			if s.Held(of.Room, of.Sender) {
				return nil
			}
			batch, err := tx.KeptCandidates(of, after, PurgeBatch)
			if err != nil || len(batch) == 0 {
				return err
			}
			last, out.More = batch[len(batch)-1].Position, len(batch) == PurgeBatch
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

// originalsBatch is how many originals one write deletes.
const originalsBatch = 500

// DeleteOriginals deletes originals of redacted events of a sender in a room, unless a legal hold covers them. It
// reports whether there may be more.
func (s *Service) DeleteOriginals(ctx context.Context, of storage.KeptBy) (more bool, err error) {
	err = s.db.Enqueue(storage.Write{
		Do: func(tx *storage.Tx) error {
			if more = false; s.Held(of.Room, of.Sender) {
				return nil
			}
			n, err := tx.DeleteOriginals(of, originalsBatch)
			more = n == originalsBatch
			return err
		},
		Committed: func() { s.opts.Commits.Deliver(&Commit{Originals: true}) },
	}).Wait(ctx)
	return more, err
}
