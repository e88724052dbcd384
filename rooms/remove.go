package rooms

import (
	"context"
	"errors"

	"ebb/deletions"
	"ebb/ident"
	"ebb/storage"
	"ebb/storage/pace"
)

// RemoveLeft removes a room that no local user is in, is invited to or knocks on. From then on, this server does not
// know the room, so somebody who joins it again gets it as if for the first time; RemoveRows deletes what was stored of
// it. RemoveLeft returns false if the room has to stay for now: because somebody is in it or is about to join, or
// because something needs it (see storage.LeftRoom).
func (s *Service) RemoveLeft(ctx context.Context, nid ident.RoomNID) (removed bool, err error) {
	known, err := s.RoomByNID(ctx, nid)
	if err != nil || s.joining.Busy(known.id) {
		if errors.Is(err, ErrNoRoom) {
			err = nil
		}
		return false, err
	}
	release, err := s.joining.Acquire(ctx, known.id)
	if err != nil {
		return false, err
	}
	defer release()
	r, err := s.lockRoom(ctx, known.id)
	if err != nil {
		return false, err
	}
	removed, err = s.removeLocked(ctx, r)
	r.writer.Unlock()
	if removed {
		s.loading.Lock() // so that no load that began earlier adds the room again
		s.cache.Drop(r.nid)
		s.loading.Unlock()
	}
	return removed, err
}

// removeLocked does the work of RemoveLeft, except for the cache. The writer lock is held until the write is committed,
// so that nothing is added to the room.
func (s *Service) removeLocked(ctx context.Context, r *Room) (removed bool, err error) {
	users, some := s.formerUsers(r)
	if some || !r.idle() {
		return false, nil
	}
	p := s.db.Enqueue(storage.Write{
		Rooms: []ident.RoomNID{r.nid},
		Do: func(tx *storage.Tx) error {
			removed = false
			left, err := tx.LeftRoom(r.nid)
			if err != nil || left.Needed {
				return err
			}
			removed = true
			return tx.RemoveRoom(storage.RemovedRoom{NID: r.nid, RoomID: string(r.id), Servers: r.OtherServers()}, users)
		},
		Committed: func() {
			if removed {
				s.commit(&Commit{Room: r, Removed: true, Rejudged: true, Published: true, Aliases: true, Forgotten: users}, headFunc(func(*Room) {}))
			}
		},
	})
	r.next.queued = p
	err = p.Wait(context.WithoutCancel(ctx))
	removed = removed && err == nil
	r.next.retired = removed
	return removed, err
}

// formerUsers returns the local users who were in a room, and whether some are in it, are invited or knock.
func (s *Service) formerUsers(r *Room) (users []ident.UserNID, some bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, m := range r.head.members {
		if !s.IsLocal(m.User) {
			continue
		}
		users = append(users, m.NID)
		some = some || m.Membership != Leave && m.Membership != Ban
	}
	return users, some
}

// RemoveRows deletes some rows of a room that RemoveLeft has removed, and returns the number of events among them and
// whether there may be more rows. With the last ones, the receipt about the room is complete.
func (s *Service) RemoveRows(ctx context.Context, of storage.RemovedRoom, at *pace.Pace) (events int, more bool, err error) {
	err = s.db.Enqueue(storage.Write{
		Rests: true, Do: func(tx *storage.Tx) error {
			defer at.Measure()()
			media := tx.DeletedMedia()
			if events, more, err = tx.RemoveRoomRows(of.NID, at.Step()); err != nil {
				return err
			}
			err := s.opts.Deletions.Count(tx, of.NID, deletions.Left, int64(events), tx.DeletedMedia()-media)
			if err != nil || more {
				return err
			}
			if err := s.opts.Deletions.CloseLeft(tx, of); err != nil {
				return err
			}
			return tx.FinishRemovedRoom(of.NID)
		},
		Committed: func() { s.opts.Commits.Deliver(&Commit{Originals: true}) },
	}).Wait(ctx)
	return events, more, err
}
