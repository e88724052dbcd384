// Package retention removes expired messages from disk. What is expired is hidden from every reader at once, by the
// clock (rooms); this package only makes sure that it is soon gone from the database too, with its bytes.
//
// A run goes room by room, in small transactions, and can stop anywhere: the next one goes on. The first run is at boot.
package retention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

// Options is what a Job is made of.
type Options struct {
	DB       *storage.DB
	Rooms    *rooms.Service
	Policy   rooms.Retention // the server's default and limits
	Interval time.Duration
	Observe  func(Report) // after every run, for metrics; nil: nobody is told
	Now      func() time.Time
	Elapsed  func() time.Duration // a clock that nobody sets, to compare Now with while the server runs; nil: Now counts as right
	Log      *slog.Logger
}

// Job purges on a schedule and on demand.
type Job struct {
	opts Options
	// running keeps runs from overlapping, and guards what follows; held over database work, under no other lock.
	running sync.Mutex
	clock   clock
	// owed says that purged bytes may still be in the files: the last run, perhaps of another process, was broken off.
	owed bool
}

// New makes a Job; Run starts it.
func New(o Options) *Job { return &Job{opts: o, owed: true} }

// Report is what one run did.
type Report struct {
	Rooms  int // with an effective maximum lifetime
	Events int // purged
	Took   time.Duration

	// KeptUntil is when messages that expired only by a jump of the clock are purged; nil: the clock has not jumped.
	KeptUntil *time.Time
}

// Run purges now and then at every interval, until ctx ends.
func (j *Job) Run(ctx context.Context) error {
	tick, record := time.NewTicker(j.opts.Interval), time.NewTicker(recordInterval)
	defer tick.Stop()
	defer record.Stop()
	for {
		if _, err := j.Purge(ctx); err != nil && ctx.Err() == nil {
			j.opts.Log.Error("the purge of expired messages failed and will be tried again", "err", err)
		}
		for purge := false; !purge; {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				purge = true
			case <-record.C:
				j.record(ctx)
			}
		}
	}
}

// record notes that the server runs at this time.
func (j *Job) record(ctx context.Context) {
	j.running.Lock()
	defer j.running.Unlock()
	if _, _, err := j.read(ctx); err != nil && ctx.Err() == nil {
		j.opts.Log.Warn("the time could not be recorded", "err", err)
	}
}

// Purge removes everything that is expired now, and gives the space back.
func (j *Job) Purge(ctx context.Context) (Report, error) {
	j.running.Lock()
	defer j.running.Unlock()
	start := time.Now()
	var report Report
	by, keptUntil, err := j.read(ctx)
	if err != nil {
		return report, fmt.Errorf("check the clock: %w", err)
	}
	if !keptUntil.IsZero() {
		report.KeptUntil = &keptUntil
	}
	errs := []error{j.purgeRooms(ctx, by, &report)}
	if ctx.Err() != nil {
		return report, ctx.Err()
	}
	errs = append(errs, j.opts.Rooms.ForgetPurged(ctx))
	if j.owed {
		err := j.opts.DB.Maintain(ctx)
		j.owed = err != nil
		errs = append(errs, err)
	}
	if report.Events > 0 {
		j.opts.Log.Info("purged expired messages", "rooms", report.Rooms, "events", report.Events, "took", time.Since(start))
	}
	report.Took = time.Since(start)
	if j.opts.Observe != nil {
		j.opts.Observe(report)
	}
	return report, errors.Join(errs...)
}

// roomsPerPage is how many rooms are listed at a time.
const roomsPerPage = 100

// purgeRooms purges what has expired by the given time in all rooms, page by page. If a room fails, it goes on with the others.
func (j *Job) purgeRooms(ctx context.Context, by time.Time, report *Report) error {
	var errs []error
	for after, more := ident.RoomNID(0), true; more; {
		page, err := j.rooms(ctx, after)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		for _, nid := range page {
			n, has, err := j.purgeRoom(ctx, nid, by)
			report.Events += n
			j.owed = j.owed || n > 0
			if has {
				report.Rooms++
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("room %d: %w", nid, err))
			}
		}
		if more = len(page) == roomsPerPage; more {
			after = page[len(page)-1]
		}
	}
	return errors.Join(errs...)
}

// rooms returns a page of the rooms that may have expired messages: those after a room, by number.
func (j *Job) rooms(ctx context.Context, after ident.RoomNID) (page []ident.RoomNID, err error) {
	err = j.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		if j.opts.Policy.Default.Max != nil || j.opts.Policy.Limits.MaxLifetime.Max != nil {
			page, err = tx.AllRooms(after, roomsPerPage)
		} else {
			page, err = tx.RoomsWithPolicy(after, roomsPerPage)
		}
		return err
	})
	return page, err
}

// purgeRoom purges what has expired in one room by the given time, batch after batch.
func (j *Job) purgeRoom(ctx context.Context, nid ident.RoomNID, by time.Time) (events int, hasPolicy bool, err error) {
	room, err := j.opts.Rooms.RoomByNID(ctx, nid)
	if err != nil {
		return 0, false, err
	}
	hasPolicy = room.Retention().Max != nil
	for after, more := ident.Order(0), hasPolicy; more; {
		if err := ctx.Err(); err != nil {
			return events, hasPolicy, err
		}
		var n int
		if n, after, more, err = j.opts.Rooms.Purge(ctx, room, by, after); err != nil {
			return events, hasPolicy, err
		}
		events += n
	}
	return events, hasPolicy, nil
}
