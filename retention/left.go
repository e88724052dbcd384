package retention

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ebb/ident"
	"ebb/storage"
)

// searchInterval is how often rooms are searched for those that all local users have left. The search looks at the
// members of every room that is not in memory.
const searchInterval = time.Hour

// removedPage is how many rooms that are being removed are read at a time.
const removedPage = 100

// removeBatch is how many rows of a removed room one transaction deletes, at most.
const removeBatch = 500

// removeLeft removes rooms that all local users have left, if the configuration says so, and continues what an earlier
// run has begun.
func (j *Job) removeLeft(ctx context.Context, r *run, report *Report) error {
	err := j.deleteRemoved(ctx, report)
	settled := r.all || r.by.Sub(time.UnixMilli(j.state.ConfigSince)) >= j.opts.Delay && passed(j.searched, r.now, searchInterval)
	if err != nil || !settled || j.opts.LeftRooms == nil && j.opts.ForgottenRooms == nil {
		return err
	}
	var errs []error
	steps := j.opts.DB.Pace(roomsPerPage)
	for after, more := ident.RoomNID(0), true; more && ctx.Err() == nil; {
		measured := steps.Measure()
		var page, left []ident.RoomNID
		err := j.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			if page, err = tx.AllRooms(after, roomsPerPage); err == nil && len(page) > 0 {
				after = page[len(page)-1]
				left, err = tx.LeftRooms(page)
			}
			return err
		})
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		for _, nid := range left {
			if err := j.removeRoom(ctx, nid, r, report); err != nil {
				errs = append(errs, fmt.Errorf("remove room %d: %w", nid, err))
			}
		}
		more = len(page) == roomsPerPage
		measured()
		steps.Rest(ctx, 1, false)
	}
	if len(errs) == 0 && ctx.Err() == nil {
		j.searched = r.now
	}
	return errors.Join(append(errs, j.deleteRemoved(ctx, report))...)
}

// removeRoom removes a room if it was left long enough ago.
func (j *Job) removeRoom(ctx context.Context, nid ident.RoomNID, r *run, report *Report) error {
	var left storage.LeftRoom
	err := j.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		left, err = tx.LeftRoom(nid)
		return err
	})
	over := func(lifetime *time.Duration) bool {
		return lifetime != nil && r.by.Sub(time.UnixMilli(left.Since)) >= *lifetime
	}
	if err != nil || left.Needed || !over(j.opts.LeftRooms) && !(left.Forgotten && over(j.opts.ForgottenRooms)) {
		return err
	}
	removed, err := j.opts.Rooms.RemoveLeft(ctx, nid)
	if removed {
		report.Removed++
		j.status.progress(report)
	}
	return err
}

// deleteRemoved deletes, in small transactions, what is left of the rooms that were removed.
func (j *Job) deleteRemoved(ctx context.Context, report *Report) error {
	for after, more := ident.RoomNID(0), true; more; {
		var page []storage.RemovedRoom
		err := j.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			page, err = tx.RemovedRooms(after, removedPage)
			return err
		})
		if err != nil {
			return err
		}
		for _, of := range page {
			if after, err = of.NID, j.deleteRows(ctx, of, report); err != nil {
				return fmt.Errorf("delete what is left of room %d: %w", of.NID, err)
			}
		}
		more = len(page) == removedPage
	}
	return nil
}

func (j *Job) deleteRows(ctx context.Context, of storage.RemovedRoom, report *Report) error {
	j.owed = true
	steps := j.opts.DB.Pace(removeBatch)
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, again, err := j.opts.Rooms.RemoveRows(ctx, of, steps)
		if err != nil {
			return err
		}
		more = again
		report.RemovedEvents += n
		j.status.progress(report)
		steps.Rest(ctx, 1, more)
	}
	return nil
}
