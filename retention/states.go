package retention

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ebb/ident"
	"ebb/storage"
	"ebb/storage/statechain"
)

const (
	// stateDelay is how long after states of a room may have become unneeded they are searched for. The search reads an
	// index of all events of the room, so it is not done after each purge.
	stateDelay = 24 * time.Hour
	// stateTime bounds the time for which a run searches. The next run continues with the other rooms.
	stateTime = time.Minute
	// statePage is how many events or states of a room are read at a time, in a few milliseconds.
	statePage = 5000
	// stateBatch is how many rows of states one transaction deletes, at most.
	stateBatch = 500
)

// deleteStates deletes states of rooms that nothing needs any more, because the events that referred to them were
// purged or authorised again, or because the graph forked.
func (j *Job) deleteStates(ctx context.Context, r *run, report *Report) error {
	start := time.Now()
	var errs []error
	for after, more := ident.RoomNID(0), true; more; {
		var page []storage.MarkedRoom
		err := j.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			page, err = tx.MarkedRooms(after, roomsPerPage)
			return err
		})
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		for _, room := range page {
			after = room.NID
			if !r.all && !room.Begun && !passed(time.UnixMilli(room.Since), r.now, stateDelay) {
				continue
			}
			if err := j.deleteStatesOf(ctx, room.NID, report); err != nil {
				errs = append(errs, fmt.Errorf("delete states of room %d: %w", room.NID, err))
			}
			if ctx.Err() != nil || !r.all && time.Since(start) > stateTime {
				return errors.Join(errs...)
			}
		}
		more = len(page) == roomsPerPage
	}
	return errors.Join(errs...)
}

// deleteStatesOf searches for unneeded states of a room, and deletes them.
func (j *Job) deleteStatesOf(ctx context.Context, nid ident.RoomNID, report *Report) error {
	unneeded, known, err := j.unneededStates(ctx, nid)
	if err != nil || !known {
		return err
	}
	if err := j.deleteAll(ctx, unneeded, report); err != nil {
		return err
	}
	return j.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.EndStateSweep(nid) })
}

// unneededStates returns the states of a room that neither an event nor another state that is needed refers to. It
// returns false if too much was written meanwhile to tell.
func (j *Job) unneededStates(ctx context.Context, nid ident.RoomNID) (unneeded []int64, known bool, err error) {
	if err := j.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.BeginStateSweep(nid) }); err != nil {
		return nil, false, err
	}
	states, err := j.statesOf(ctx, nid)
	if err != nil {
		return nil, false, err
	}
	steps := j.opts.DB.Pace(statePage)
	for from := storage.FirstStateRefs; from.More; {
		var refs []int64
		measured := steps.Measure()
		err := j.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			refs, from, err = tx.StatesReferredTo(nid, from, statePage)
			return err
		})
		if err != nil {
			return nil, false, err
		}
		for _, state := range refs {
			states.Need(state)
		}
		measured()
		steps.Rest(ctx, 0, false)
	}
	if len(states.Unneeded()) == 0 {
		return nil, true, nil
	}
	room, err := j.opts.Rooms.RoomByNID(ctx, nid)
	if err == nil {
		known, err = j.opts.Rooms.NeedStates(ctx, room.ID(), states)
	}
	return states.Unneeded(), known, err
}

// statesOf returns all states of a room. The one of the room's head is needed.
func (j *Job) statesOf(ctx context.Context, nid ident.RoomNID) (states statechain.Set, err error) {
	var head int64
	for after, more := int64(0), true; more; {
		err := j.opts.DB.Read(ctx, func(tx *storage.Tx) error {
			row, found, err := tx.RoomByNID(nid)
			if err != nil || !found {
				more = false
				return err
			}
			page, err := tx.RoomStates(nid, after, statePage)
			head, states = row.Snapshot, append(states, page...)
			if more = len(page) == statePage; more {
				after = page[len(page)-1].NID
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	states.Need(head)
	return states, nil
}

// deleteAll deletes states in small transactions. Nothing refers to them.
func (j *Job) deleteAll(ctx context.Context, states []int64, report *Report) error {
	steps := j.opts.DB.Pace(stateBatch)
	for j.owed = j.owed || len(states) > 0; len(states) > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		var left []int64
		limit := steps.Step()
		err := j.opts.DB.Enqueue(storage.Write{Rests: true, Do: func(tx *storage.Tx) (err error) {
			defer steps.Measure()()
			left, err = tx.DeleteStates(states, limit)
			return err
		}}).Wait(ctx)
		if err != nil {
			return err
		}
		report.States += len(states) - len(left)
		states = left
		j.status.progress(report)
		steps.Rest(ctx, 1, len(left) > 0)
	}
	return nil
}
