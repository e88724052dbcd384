package retention

import (
	"context"
	"sync"
	"time"

	"ebb/storage"
)

const (
	// recordInterval is how often the time is recorded, so that the next start knows when the server last ran.
	recordInterval = 10 * time.Minute
	// maxUnseen is the longest time between two looks at the clock that is not taken for a jump.
	maxUnseen = time.Hour
	// jumpWait is how long what expired only by a jump of the clock is hidden before it is purged.
	jumpWait = 24 * time.Hour
)

// clock decides which time a purge goes by. A clock that is wrong hides messages, and shows them again once it is right;
// a purge would have removed them for good. So what expired only by a jump of the clock waits a day for somebody to notice.
type clock struct {
	mu      sync.Mutex    // guards what follows; held over a read and a write of the database, under Job.running
	known   storage.Clock // as it was recorded
	started bool          // whether the clock was looked at in this process
	wall    time.Time     // what it showed then
	elapsed time.Duration // and what the steady clock showed
}

// Time returns the time by which to remove for good what expires.
func (j *Job) Time(ctx context.Context) (time.Time, error) {
	j.clock.mu.Lock()
	defer j.clock.mu.Unlock()
	if !j.clock.started {
		by, _, err := j.readLocked(ctx)
		return by, err
	}
	now := j.opts.Now()
	if known := j.clock.known; known.JumpedTo != 0 && now.Sub(time.UnixMilli(known.JumpedTo)) < jumpWait {
		return without(known, now), nil
	}
	return now, nil
}

// read returns the time by which to purge, records that the clock was seen, and says until when what a jump expired is kept.
func (j *Job) read(ctx context.Context) (by, keptUntil time.Time, err error) {
	j.clock.mu.Lock()
	defer j.clock.mu.Unlock()
	return j.readLocked(ctx)
}

func (j *Job) readLocked(ctx context.Context) (by, keptUntil time.Time, err error) {
	var known storage.Clock
	err = j.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		known, err = tx.Clock()
		return err
	})
	if err != nil {
		return by, keptUntil, err
	}
	now := j.opts.Now()
	first := !j.clock.started
	next, jumped := j.clock.look(known, now, j.opts.Elapsed)
	if next != known {
		err = j.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.SetClock(next) })
	}
	if err != nil {
		j.clock.started = !first // as if it had not been looked at
		return by, keptUntil, err
	}
	j.clock.known = next
	by = now
	if next.JumpedTo != 0 {
		by, keptUntil = without(next, now), time.UnixMilli(next.JumpedTo).Add(jumpWait)
	}
	if jumped || first && next.JumpedTo != 0 {
		j.opts.Log.Warn("the clock is far ahead of when this server last ran: messages that expired in between are hidden now and will be purged for good in a day; if the clock is wrong, correct it before then",
			"last_seen", time.UnixMilli(next.JumpedFrom).UTC(), "now", now.UTC(), "kept_until", keptUntil.UTC())
	}
	return by, keptUntil, nil
}

// without is the time that it would be if the clock had not jumped.
func without(c storage.Clock, now time.Time) time.Time {
	return time.UnixMilli(c.JumpedFrom + now.UnixMilli() - c.JumpedTo)
}

// look compares the clock with what is known of it.
func (c *clock) look(known storage.Clock, now time.Time, elapsed func() time.Duration) (next storage.Clock, jumped bool) {
	next, last := known, known.Seen
	if c.started {
		last = now.UnixMilli() // a clock that is not compared with a steady one counts as right
		if elapsed != nil {
			last = c.wall.Add(elapsed() - c.elapsed).UnixMilli()
		}
	}
	c.started, c.wall = true, now
	if elapsed != nil {
		c.elapsed = elapsed()
	}
	next.Seen = now.UnixMilli()
	jumped = last != 0 && now.Sub(time.UnixMilli(last)) > maxUnseen
	if !jumped {
		last = now.UnixMilli()
	}
	if over := last - known.JumpedTo; over < 0 || over >= jumpWait.Milliseconds() {
		next.JumpedFrom, next.JumpedTo = 0, 0 // the clock was set back, or the day is over
	}
	switch {
	case !jumped:
	case next.JumpedTo == 0:
		next.JumpedFrom, next.JumpedTo = last, next.Seen
	default: // a second jump: what the first one expired is kept on
		next.JumpedFrom, next.JumpedTo = next.JumpedFrom+last-next.JumpedTo, next.Seen
	}
	return next, jumped
}
