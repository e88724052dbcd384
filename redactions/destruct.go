package redactions

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

const (
	// maxDestructs is how many messages that are due are read at a time. maxVersions is how many edits of each go with
	// it.
	maxDestructs = 100
	maxVersions  = 45
	// maxReaders bounds the members of a room in which messages are destroyed after everybody has read them. In large
	// rooms somebody never reads, and each receipt would cause a search for them.
	maxReaders = 1000
	// maxWaitingRooms bounds the rooms of which memory knows that messages wait there to be read. Beyond it, receipts
	// in every room cause a check.
	maxWaitingRooms = 10_000
	// destructPause is the time between two steps, so that a burst of receipts causes one check, and others' sends do
	// not suffer. maxDestructPause bounds how long Run waits, since the system clock may be changed.
	destructPause    = 100 * time.Millisecond
	maxDestructPause = time.Minute
	relReplace       = "m.replace"
)

// destructs knows in which rooms somebody may have read a message that is to be destroyed when everybody has.
type destructs struct {
	wake chan struct{} // wakes runDestructs

	stepping sync.Mutex // held during a step; guards loaded; taken before mu
	loaded   bool       // whether the rooms from before the start are known

	mu      sync.Mutex                 // guards the fields below; a leaf lock
	waiting map[ident.RoomNID]struct{} // rooms in which such messages may wait to be read
	more    bool                       // there may be others, for which waiting has no space
	rooms   map[ident.RoomNID]struct{} // rooms that must be checked
}

// committed is the rooms.Listener that finds out about messages that ask to be destroyed, and about receipts and
// members that left, after which everybody may have read such a message.
func (d *destructs) committed(c *rooms.Commit) {
	if !c.SelfDestructs && len(c.Receipts)+len(c.Members) == 0 || c.Room == nil {
		return
	}
	nid := c.Room.NID()
	d.mu.Lock()
	if c.SelfDestructs {
		d.wait(nid)
	}
	_, wake := d.waiting[nid]
	if wake = wake || d.more; wake {
		d.rooms[nid] = struct{}{}
	}
	d.mu.Unlock()
	if wake {
		select {
		case d.wake <- struct{}{}:
		default: // it has been woken already
		}
	}
}

// wait records that messages may wait to be read in a room. The caller holds mu.
func (d *destructs) wait(nid ident.RoomNID) {
	if _, known := d.waiting[nid]; !known && len(d.waiting) >= maxWaitingRooms {
		d.more = true
		return
	}
	d.waiting[nid] = struct{}{}
}

// forget records that a check has found no message that waits in a room. A commit since take, which the check may not
// have seen, has added the room to rooms again: then the next check decides.
func (d *destructs) forget(nid ident.RoomNID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, changed := d.rooms[nid]; !changed {
		delete(d.waiting, nid)
	}
}

// take returns the rooms that must be checked, and forgets them.
func (d *destructs) take() (list []ident.RoomNID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for nid := range d.rooms {
		list = append(list, nid)
	}
	clear(d.rooms)
	return list
}

// again has rooms checked that could not be.
func (d *destructs) again(list []ident.RoomNID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, nid := range list {
		d.rooms[nid] = struct{}{}
	}
}

// loadDestructs finds the rooms in which messages wait to be read.
func (s *Service) loadDestructs(ctx context.Context) error {
	for after, more := ident.RoomNID(0), true; more; {
		var list []ident.RoomNID
		err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			list, err = tx.RoomsWithUnread(after, page)
			return err
		})
		if err != nil {
			return err
		}
		if more = len(list) == page; len(list) > 0 {
			after = list[len(list)-1]
		}
		s.destructs.mu.Lock()
		for _, nid := range list {
			s.destructs.wait(nid)
		}
		s.destructs.mu.Unlock()
		s.destructs.again(list)
	}
	return nil
}

// runDestructs destroys messages that ask for it, until ctx ends: first those that fell due while the server was
// stopped.
func (s *Service) runDestructs(ctx context.Context) {
	for ctx.Err() == nil {
		next, err := s.StepDestructs(ctx)
		pause := min(maxDestructPause, time.UnixMilli(next).Sub(s.opts.Now()))
		if err != nil && ctx.Err() == nil {
			s.opts.Log.Error("Cannot destroy messages now; trying again later", "err", err)
			pause = retryAfter
		}
		s.wait(ctx, destructPause, nil)
		if pause > destructPause {
			s.wait(ctx, pause-destructPause, s.destructs.wake)
		}
	}
}

// StepDestructs notes which messages everybody has read, and destroys those that are due. It returns when the next one
// is due, in ms.
func (s *Service) StepDestructs(ctx context.Context) (next int64, err error) {
	s.destructs.stepping.Lock()
	defer s.destructs.stepping.Unlock()
	if !s.destructs.loaded {
		if err := s.loadDestructs(ctx); err != nil {
			return 0, err
		}
		s.destructs.loaded = true
	}
	list := s.destructs.take()
	for i, nid := range list {
		if err := s.noteRead(ctx, nid); err != nil {
			s.destructs.again(list[i:])
			return 0, err
		}
	}
	return s.destroyDue(ctx)
}

// destroyDue destroys messages that are due, and returns when the next one is.
func (s *Service) destroyDue(ctx context.Context) (next int64, err error) {
	var due []storage.SelfDestruct
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if due, err = tx.DueSelfDestructs(s.opts.Now().UnixMilli(), maxDestructs); err == nil && len(due) == 0 {
			next, err = tx.NextSelfDestruct()
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	var errs []error
	for i := range due {
		errs = append(errs, s.destroy(ctx, &due[i]))
	}
	return next, errors.Join(errs...)
}

// noteRead sets when the messages of a room are destroyed that everybody has read. If somebody has not read a message,
// they have not read later ones of the same sender either.
func (s *Service) noteRead(ctx context.Context, nid ident.RoomNID) error {
	var read []storage.SelfDestruct
	waits := true
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		if n, err := tx.MembersUpTo(nid, maxReaders+1); err != nil || n > maxReaders {
			return err
		}
		for sender, after := ident.UserNID(0), storage.Pos(0); ; {
			d, found, err := tx.NextUnread(nid, sender, after)
			if err != nil || !found {
				waits = sender != 0
				return err
			}
			all, err := tx.ReadByAll(&d)
			if err != nil {
				return err
			}
			sender, after = d.Sender, math.MaxInt64
			if all {
				read, after = append(read, d), d.Position
			}
		}
	})
	if err == nil && !waits {
		s.destructs.forget(nid)
	}
	if err != nil || len(read) == 0 {
		return err
	}
	now := s.opts.Now().UnixMilli()
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		for _, d := range read {
			if err := tx.SelfDestructAt(d.Position, min(d.DueTS, now+d.AfterRead)); err != nil {
				return err
			}
		}
		return nil
	})
}

// destroy destroys a message and its edits: by redactions, if its sender is a user of this server who can send them,
// and otherwise by removing them from this server.
func (s *Service) destroy(ctx context.Context, d *storage.SelfDestruct) error {
	room, err := s.opts.Rooms.RoomByNID(ctx, d.Room)
	if errors.Is(err, rooms.ErrNoRoom) {
		return s.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.DeleteSelfDestruct(d.Position) })
	}
	if err != nil {
		return err
	}
	all, err := s.versions(ctx, d)
	if err != nil {
		return err
	}
	done := func(tx *storage.Tx, _ int) error { return tx.DeleteSelfDestruct(d.Position) }
	user := ident.Requester{UserID: id.UserID(d.UserID), UserNID: d.Sender}
	if s.opts.Rooms.IsLocal(user.UserID) {
		err = s.opts.Rooms.RedactMessages(ctx, room, user, "", all, done)
		if !cannotRedact(err) {
			return err
		}
	}
	if policy := room.Retention(); policy.WithinMin(d.ReceivedTS, s.opts.Now().UnixMilli()) {
		return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
			return tx.SelfDestructAt(d.Position, d.ReceivedTS+policy.Min.Milliseconds())
		})
	}
	return s.opts.Rooms.RemoveMessages(ctx, room, d.Sender, all, done)
}

// versions returns the positions of a message and of its edits by the same sender.
func (s *Service) versions(ctx context.Context, d *storage.SelfDestruct) (all []storage.Pos, err error) {
	all = []storage.Pos{d.Position}
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		edits, err := tx.RelatedEvents(storage.RelationFilter{
			Room: d.Room, Parent: d.EventID, RelType: relReplace, After: math.MinInt64, UpTo: math.MaxInt64, Limit: maxVersions,
		})
		if err != nil {
			return err
		}
		positions := make([]storage.Pos, len(edits))
		for i, e := range edits {
			positions[i] = e.Position
		}
		rows, err := tx.EventsAt(positions)
		for i := range rows {
			if rows[i].Sender == d.Sender {
				all = append(all, rows[i].Position)
			}
		}
		return err
	})
	return all, err
}
