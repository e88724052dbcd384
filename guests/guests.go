// Package guests removes guests from rooms that no longer admit them. Other rules about guests are enforced elsewhere:
// package rooms checks their joins, and httpapi checks which operations they may use.
//
// The job listens for commits that change m.room.guest_access and checks those rooms at once. When it starts, and then
// every hour, it checks all rooms with guests, so that no change is missed because of a crash.
package guests

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

const (
	interval = time.Hour
	// page is the number of memberships that are read at a time.
	page = 100
	// maxPending bounds the rooms that wait for a check; beyond it, all rooms with guests are checked.
	maxPending = 1000
)

// Options are the dependencies of a Job; all fields but Log are required.
type Options struct {
	DB      *storage.DB
	Rooms   *rooms.Service
	Commits *rooms.Commits // the commits of Rooms
	Log     *slog.Logger
}

// Job removes guests from rooms that no longer admit them.
type Job struct {
	opts Options
	wake chan struct{}

	// mu guards the fields below; a leaf lock.
	mu      sync.Mutex
	pending map[ident.RoomNID]bool // rooms to check
	all     bool                   // whether to check all rooms
}

// New returns a Job.
func New(o Options) *Job {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	j := &Job{opts: o, wake: make(chan struct{}, 1), pending: map[ident.RoomNID]bool{}}
	o.Commits.Subscribe(j.committed)
	return j
}

// committed is a rooms.Listener that records rooms whose guest access may have ended, so that Run checks them.
func (j *Job) committed(c *rooms.Commit) {
	if c.Room == nil || !mayChange(c) || c.Room.AdmitsGuests() {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.pending) < maxPending {
		j.pending[c.Room.NID()] = true
	} else {
		j.all = true
	}
	select {
	case j.wake <- struct{}{}:
	default: // Run has been woken already
	}
}

// mayChange reports whether a commit may have ended the guest access of its room.
func mayChange(c *rooms.Commit) bool {
	if c.Rejudged || c.Entered || c.Completed != 0 {
		return true
	}
	for i := range c.Events {
		if e := c.Events[i].Event; e.IsStateKey("m.room.guest_access", "") {
			return true
		}
	}
	for _, r := range c.Redacted { // a redacted m.room.guest_access allows no guests
		if e := c.Room.State("m.room.guest_access", ""); e != nil && e.Pos == r.Pos {
			return true
		}
	}
	return false
}

// Run removes guests until ctx ends.
func (j *Job) Run(ctx context.Context) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	j.mu.Lock()
	j.all = true
	j.mu.Unlock()
	for {
		if err := j.Remove(ctx); err != nil && ctx.Err() == nil {
			j.opts.Log.Error("Cannot remove guests from rooms yet; retrying within the hour", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-j.wake:
		case <-tick.C:
			j.mu.Lock()
			j.all = true
			j.mu.Unlock()
		}
	}
}

// Remove checks the rooms that committed has recorded. It makes guests leave those that do not admit guests.
func (j *Job) Remove(ctx context.Context) error {
	j.mu.Lock()
	all, pending := j.all, j.pending
	j.all, j.pending = false, map[ident.RoomNID]bool{}
	j.mu.Unlock()
	if all {
		return j.removeAll(ctx)
	}
	var errs []error
	for room := range pending {
		errs = append(errs, j.removeFrom(ctx, room))
	}
	return errors.Join(errs...)
}

// removeAll makes guests leave every room that does not admit guests.
func (j *Job) removeAll(ctx context.Context) error {
	return j.each(ctx, func(tx *storage.Tx, after storage.GuestMember) ([]storage.GuestMember, error) {
		return tx.JoinedGuests(after, page)
	})
}

// removeFrom makes the guests in one room leave, unless the room admits guests.
func (j *Job) removeFrom(ctx context.Context, room ident.RoomNID) error {
	return j.each(ctx, func(tx *storage.Tx, after storage.GuestMember) ([]storage.GuestMember, error) {
		return tx.GuestsIn(room, after.User, page)
	})
}

// each reads memberships of guests page by page, with the function next, and ends those in rooms that do not admit
// guests. It continues after an error, so that one room cannot hold up the others.
func (j *Job) each(ctx context.Context, next func(*storage.Tx, storage.GuestMember) ([]storage.GuestMember, error)) error {
	var errs []error
	for after := (storage.GuestMember{}); ; {
		var members []storage.GuestMember
		err := j.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			members, err = next(tx, after)
			return err
		})
		if err != nil || len(members) == 0 {
			return errors.Join(append(errs, err)...)
		}
		for _, m := range members {
			if err := j.check(ctx, m); err != nil {
				errs = append(errs, err)
			}
		}
		after = members[len(members)-1]
	}
}

// check makes a guest leave a room that does not admit guests.
func (j *Job) check(ctx context.Context, m storage.GuestMember) error {
	room, err := j.opts.Rooms.RoomByNID(ctx, m.Room)
	if err != nil || room.AdmitsGuests() {
		return err
	}
	return j.opts.Rooms.Leave(ctx, ident.Requester{UserNID: m.User, UserID: id.UserID(m.UserID)}, room.ID(), "")
}
