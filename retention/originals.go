package retention

import (
	"context"
	"errors"
	"slices"
	"time"

	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/expiry"
	"ebb/storage"
	"ebb/storage/pace"
)

// originalsPage is how many originals of redacted events are read at a time, and deleted in one write, at most.
const originalsPage = 500

// purgeOriginals deletes the originals of redacted events that nothing keeps any more: their time is over, their sender
// was erased, or the legal hold or min_lifetime that kept them ended.
func (j *Job) purgeOriginals(ctx context.Context, r *run, report *Report) error {
	until := r.by.UnixMilli() - j.opts.Policy.Redacted.Milliseconds()
	steps := j.opts.DB.Pace(originalsPage)
	for after, more := (storage.OriginalCursor{}), true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		var page []storage.Original
		limit := steps.Step()
		err := j.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			page, err = tx.DueOriginals(after, until, limit)
			return err
		})
		if err != nil || len(page) == 0 {
			return err
		}
		last := page[len(page)-1]
		after, more = last.After(j.opts.Rooms.Held(last.Room, last.Sender)), len(page) == limit
		n, err := j.deleteOriginals(ctx, page, r.by, steps)
		if err != nil {
			return err
		}
		if n > 0 {
			report.Originals += n
			j.owed = true
			j.status.progress(report)
			steps.Rest(ctx, 1, n == limit)
		}
	}
	return nil
}

// deleteOriginals deletes those of the given originals that nothing keeps, and returns their number.
func (j *Job) deleteOriginals(ctx context.Context, page []storage.Original, by time.Time, at *pace.Pace) (n int, err error) {
	policy, err := j.policies(ctx, page)
	if err != nil {
		return 0, err
	}
	gone := func(o storage.Original) bool { return j.opts.Rooms.FateOfOriginal(&o, policy(o.Room), by).Gone() }
	due := slices.DeleteFunc(page, func(o storage.Original) bool { return !gone(o) })
	if len(due) == 0 {
		return 0, nil
	}
	err = j.opts.DB.Enqueue(storage.Write{
		Rests: true,
		Do: func(tx *storage.Tx) error {
			defer at.Measure()()
			n = 0
			for _, o := range due {
				if !gone(o) { // a hold was added meanwhile
					continue
				}
				if err := j.opts.Rooms.DeleteOriginal(tx, &o); err != nil {
					return err
				}
				n++
			}
			return nil
		},
		Committed: func() { j.opts.Commits.Deliver(&rooms.Commit{Originals: true}) },
	}).Wait(ctx)
	return n, err
}

// policies returns a function that returns the retention policies of the rooms of originals that no hold covers.
func (j *Job) policies(ctx context.Context, page []storage.Original) (func(ident.RoomNID) expiry.Policy, error) {
	known := map[ident.RoomNID]*rooms.Room{}
	for i := range page {
		o := &page[i]
		if _, done := known[o.Room]; done || j.opts.Rooms.Held(o.Room, o.Sender) {
			continue
		}
		room, err := j.opts.Rooms.RoomByNID(ctx, o.Room)
		if err != nil && !errors.Is(err, rooms.ErrNoRoom) {
			return nil, err
		}
		known[o.Room] = room // nil if there is no such room
	}
	return func(nid ident.RoomNID) expiry.Policy {
		if room := known[nid]; room != nil {
			return room.Retention()
		}
		return expiry.Policy{}
	}, nil
}

// Originals returns the number of originals of redacted events that are stored.
func (j *Job) Originals(ctx context.Context) (n int64, err error) {
	err = j.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		n, err = tx.CountOriginals()
		return err
	})
	return n, err
}
