// Package retention removes expired messages from disk. Expired messages are hidden from readers immediately, based on
// the clock (package rooms). This package removes them from the database soon afterwards.
//
// A run purges one room after the other in small transactions. It may be interrupted at any point; the next run
// continues. The first run takes place at startup.
package retention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"ebb/deletions"
	"ebb/ident"
	"ebb/rooms"
	"ebb/search"
	"ebb/storage"
	"ebb/storage/pace"
)

// Options holds the dependencies and settings of a Job.
type Options struct {
	DB        *storage.DB
	Rooms     *rooms.Service
	Commits   *rooms.Commits // by which the job learns of redactions, and reports what it has deleted
	Deletions *deletions.Log
	Policy    rooms.Retention // default policy and limits of the server
	Interval  time.Duration
	// Delay is how long messages are hidden before they are purged if they expired only because a policy was shortened,
	// because the clock jumped, or together with far more messages than usual.
	Delay time.Duration
	// LeftRooms is how long after the last local user has left a room it is removed, and ForgottenRooms the same for
	// rooms that all of them have forgotten. If nil, they stay.
	LeftRooms, ForgottenRooms *time.Duration

	Observe func(Report) // called after every run, for metrics; may be nil
	Now     func() time.Time
	Elapsed func() time.Duration // a steady clock with which Now is compared; if nil, Now is considered right
	Log     *slog.Logger
}

// Job purges expired messages on a schedule and on demand.
type Job struct {
	opts Options
	// running prevents concurrent runs and guards the fields below. It is held during database work, and taken before
	// any other lock.
	running sync.Mutex
	clock   clock
	state   storage.PurgeState
	// owed means that the files may still contain purged bytes, because the last run was interrupted, possibly in an
	// earlier process.
	owed bool
	// redacted is set by a commit that removed content in another way than a purge.
	redacted atomic.Bool
	// lifted is the value of Rooms.HoldsLifted up to which messages that holds had kept were purged; -1 at first.
	lifted int64
	// released is when that was last done.
	released time.Time
	// loose has a value when the database may have become smaller than its file; see compactions.
	loose chan struct{}
	// observed is when the last run began that has seen the policies of all rooms.
	observed time.Time
	// searched is when the rooms that all local users have left were last searched for.
	searched time.Time

	status status
}

// New returns a Job. Run starts it.
func New(ctx context.Context, o Options) (*Job, error) {
	j := &Job{opts: o, owed: true, lifted: -1, loose: make(chan struct{}, 1)}
	o.Commits.Subscribe(j.committed)
	return j, j.noteConfig(ctx)
}

// committed is a rooms.Listener. The content of a redacted event is in the write-ahead log until the next run empties
// it.
func (j *Job) committed(c *rooms.Commit) {
	if len(c.Redacted)+len(c.Rejected)+len(c.Erased)+len(c.Purged) > 0 {
		j.redacted.Store(true)
	}
}

// run holds what stays the same during one run.
type run struct {
	all  bool      // purge everything that has expired, without waiting
	now  time.Time // when it began
	by   time.Time // messages that have expired by then are purged
	left int       // how many more messages may be purged; unlimited: any number
	// released is set if the purge goes on after it was stopped.
	released bool
	pace     *pace.Pace // of the purge of messages
}

// Report is the result of one run.
type Report struct {
	Rooms  int // number of rooms with an effective maximum lifetime
	Events int // number of purged events
	Took   time.Duration

	Originals int // number of deleted originals of redacted events

	Removed       int // number of removed rooms that all local users had left
	RemovedEvents int // number of events deleted with removed rooms

	States int // number of deleted states of rooms that nothing needed any more

	Waiting int           // number of messages that have expired, but wait because a policy was shortened
	Oldest  time.Duration // the longest time between the expiry of a message and its purge
	Owed    bool          // the files may still contain purged bytes

	// StoppedUntil is when the purge goes on after it was stopped, because far more messages have expired than usual.
	StoppedUntil *time.Time
	Stopped      bool // this run was stopped

	// KeptUntil is when messages that expired only because the clock jumped will be purged; nil if it has not jumped.
	KeptUntil *time.Time
}

// Run purges immediately and then at every interval, until ctx ends.
func (j *Job) Run(ctx context.Context) error {
	tick, record := time.NewTicker(j.opts.Interval), time.NewTicker(recordInterval)
	defer tick.Stop()
	defer record.Stop()
	var compacting sync.WaitGroup
	defer compacting.Wait()
	compacting.Go(func() { j.compactions(ctx) })
	for {
		if _, err := j.Purge(ctx, false); err != nil && ctx.Err() == nil {
			j.opts.Log.Error("Cannot purge expired messages; trying again", "err", err)
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

// record records the current time as one at which the server was running.
func (j *Job) record(ctx context.Context) {
	j.running.Lock()
	defer j.running.Unlock()
	if _, _, err := j.read(ctx); err != nil && ctx.Err() == nil {
		j.opts.Log.Warn("Cannot record the current time", "err", err)
	}
}

// Purge removes all messages that have expired, and returns the freed space to the file system. Unless all is set,
// messages that expired in an unusual way wait for the delay (see Options.Delay).
func (j *Job) Purge(ctx context.Context, all bool) (Report, error) {
	j.running.Lock()
	defer j.running.Unlock()
	start := time.Now()
	var report Report
	r, err := j.begin(ctx, all, &report)
	if err != nil {
		return report, err
	}
	j.status.begin(r.now)
	defer j.status.end(&report)
	errs := []error{
		j.cleanSearch(ctx), // what an interrupted run has left
		j.purgeReleased(ctx, r, &report), j.purgeRooms(ctx, r, &report), j.purgeOriginals(ctx, r, &report),
		j.removeLeft(ctx, r, &report), j.deleteStates(ctx, r, &report),
	}
	cleaned := j.cleanSearch(ctx)
	if ctx.Err() != nil {
		return report, ctx.Err()
	}
	errs = append(errs, j.account(ctx, r, &report), j.opts.Rooms.ForgetPurged(ctx))
	if all {
		errs = append(errs, j.opts.DB.RetireKeys(ctx, true))
	}
	if j.redacted.Swap(false) {
		j.owed = true
	}
	if j.owed {
		err := errors.Join(cleaned, j.opts.DB.Maintain(ctx))
		j.owed = err != nil
		errs = append(errs, err)
		j.compactSoon()
	}
	if !j.owed {
		errs = append(errs, j.signReceipts(ctx))
	}
	if report.Events+report.Originals > 0 {
		j.opts.Log.Info("purged expired messages", "rooms", report.Rooms, "events", report.Events, "originals", report.Originals, "took", time.Since(start))
	}
	if report.Removed+report.RemovedEvents > 0 {
		j.opts.Log.Info("removed rooms that all local users have left", "rooms", report.Removed, "events", report.RemovedEvents)
	}
	if report.States > 0 {
		j.opts.Log.Info("deleted states of rooms that nothing needs any more", "states", report.States)
	}
	report.Took, report.Owed = time.Since(start), j.owed
	if j.opts.Observe != nil {
		j.opts.Observe(report)
	}
	return report, errors.Join(errs...)
}

// cleanSearch removes the words of purged messages from the search index.
func (j *Job) cleanSearch(ctx context.Context) error {
	some, err := search.Clean(ctx, j.opts.DB)
	j.owed = j.owed || some || err != nil
	return err
}

// begin checks the clock and determines what may be purged in a run.
func (j *Job) begin(ctx context.Context, all bool, report *Report) (*run, error) {
	by, keptUntil, err := j.read(ctx)
	if err != nil {
		return nil, fmt.Errorf("check the clock: %w", err)
	}
	r := &run{all: all, now: j.opts.Now(), by: by, pace: j.opts.DB.Pace(rooms.PurgeBatch)}
	switch {
	case all:
		r.by = r.now
	case !keptUntil.IsZero():
		report.KeptUntil = &keptUntil
	}
	if err := j.correct(ctx, r.now); err != nil {
		return nil, err
	}
	r.left, err = j.allowance(ctx, r)
	return r, err
}

// roomsPerPage is the number of rooms that are listed at a time.
const roomsPerPage = 100

// purgeRooms purges, in all rooms, the messages that have expired by the given time. An error in one room does not stop
// the purge of the others.
func (j *Job) purgeRooms(ctx context.Context, r *run, report *Report) error {
	var errs []error
	for after, more := ident.RoomNID(0), true; more; {
		page, err := j.rooms(ctx, after)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		for _, nid := range page {
			err := j.purgeRoom(ctx, nid, r, report)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if report.Stopped {
				return errors.Join(append(errs, err)...)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("room %d: %w", nid, err))
			}
		}
		if more = len(page) == roomsPerPage; more {
			after = page[len(page)-1]
		}
	}
	if len(errs) == 0 {
		j.observed = r.now
	}
	return errors.Join(errs...)
}

// rooms returns the next page of rooms that may have expired messages.
func (j *Job) rooms(ctx context.Context, after ident.RoomNID) (page []ident.RoomNID, err error) {
	err = j.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		if j.opts.Policy.Default.Max != nil || j.opts.Policy.ByKind.Any() || j.opts.Policy.Limits.MaxLifetime.Max != nil {
			page, err = tx.AllRooms(after, roomsPerPage)
		} else {
			page, err = tx.RoomsWithPolicy(after, roomsPerPage)
		}
		return err
	})
	return page, err
}

// purgeRoom purges the messages in one room, batch by batch.
func (j *Job) purgeRoom(ctx context.Context, nid ident.RoomNID, r *run, report *Report) error {
	room, err := j.opts.Rooms.RoomByNID(ctx, nid)
	if err != nil {
		return err
	}
	rule, expires, err := j.rule(ctx, room, r)
	if err != nil || !expires {
		return err
	}
	report.Rooms++
	for after, more := (rooms.PurgeCursor{}), true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if r.left == 0 {
			report.Stopped = true
			return nil
		}
		p, err := j.opts.Rooms.Purge(ctx, room, rule, after, r.pace)
		if err != nil {
			return err
		}
		after, more = p.Next, p.More
		report.Events += p.Events
		report.Waiting += p.Waiting
		report.Oldest = max(report.Oldest, p.Oldest)
		j.owed = j.owed || p.Events > 0
		r.spend(p.Events)
		j.status.progress(report)
		r.pace.Rest(ctx, 1, p.More)
	}
	return nil
}
