package retention

import (
	"context"
	"errors"
	"time"

	"ebb/rooms"
	"ebb/storage"
)

// keptPage is how many pairs of a room and a sender with kept messages are read at a time.
const keptPage = 100

// releaseInterval is how often purgeReleased looks for messages whose min_lifetime is over.
const releaseInterval = time.Hour

// purgeReleased purges messages that are hidden because a legal hold or min_lifetime has kept them, if nothing does any
// more. Their rooms may have no retention policy any more. It does nothing if no hold was lifted since the last time,
// except once in releaseInterval and on demand.
func (j *Job) purgeReleased(ctx context.Context, r *run, report *Report) error {
	lifted := j.opts.Rooms.HoldsLifted()
	if lifted == j.lifted && !r.all && !passed(j.released, r.now, releaseInterval) {
		return nil
	}
	if err := j.eachReleased(ctx, func(of storage.KeptBy) error { return j.release(ctx, of, r, report) }); err != nil {
		return err
	}
	j.lifted, j.released = lifted, r.now
	return nil
}

// eachReleased calls f for each room and sender with kept messages that no hold covers.
func (j *Job) eachReleased(ctx context.Context, f func(storage.KeptBy) error) error {
	for after, more := (storage.KeptBy{}), true; more; {
		var page []storage.KeptBy
		err := j.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			page, err = tx.KeptEvents(after, keptPage)
			return err
		})
		if err != nil {
			return err
		}
		for _, of := range page {
			if after = of; j.opts.Rooms.Held(of.Room, of.Sender) {
				continue
			}
			if err := f(of); err != nil {
				return err
			}
		}
		more = len(page) == keptPage
	}
	return nil
}

// release purges the kept messages of a sender in a room.
func (j *Job) release(ctx context.Context, of storage.KeptBy, r *run, report *Report) error {
	room, err := j.opts.Rooms.RoomByNID(ctx, of.Room)
	if errors.Is(err, rooms.ErrNoRoom) {
		return nil
	}
	if err != nil {
		return err
	}
	for after, more := storage.Pos(0), true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		p, last, err := j.opts.Rooms.PurgeReleased(ctx, room, of, after, r.by, r.pace)
		if err != nil {
			return err
		}
		after, more = last, p.More
		report.Events += p.Events
		j.owed = j.owed || p.Events > 0
		r.pace.Rest(ctx, 1, p.More)
	}
	return nil
}
