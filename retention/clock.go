package retention

import (
	"context"
	"sync"
	"time"

	"ebb/storage"
)

const (
	// recordInterval is how often the current time is recorded, so that the next start knows when the server last ran.
	recordInterval = 10 * time.Minute
	// maxUnseen is the longest time between two checks of the clock that is not considered a jump.
	maxUnseen = time.Hour
)

// clock determines the time by which messages are purged. If the clock is wrong, messages are hidden only until it is
// right again, but a purge would remove them permanently. Therefore messages that expired only because the clock jumped
// are not purged until a delay is over, so that an administrator can notice.
type clock struct {
	mu      sync.Mutex    // guards the fields below; held during a read and a write; taken after Job.running
	known   storage.Clock // as recorded in the database
	started bool          // whether this process has checked the clock
	wall    time.Time     // wall-clock time at the last check
	elapsed time.Duration // time of the steady clock at the last check
}

// Time returns the time by which expired messages are removed permanently.
func (j *Job) Time(ctx context.Context) (time.Time, error) {
	j.clock.mu.Lock()
	defer j.clock.mu.Unlock()
	if !j.clock.started {
		by, _, err := j.readLocked(ctx)
		return by, err
	}
	now := j.opts.Now()
	if known := j.clock.known; known.JumpedTo != 0 && now.Sub(time.UnixMilli(known.JumpedTo)) < j.opts.Delay {
		return withoutJump(known, now), nil
	}
	return now, nil
}

// read returns the time up to which expired messages may be purged now, and the time from which messages that expired
// only through a jump of the clock may be purged too. It records that the clock was checked.
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
	next, jumped := j.clock.compare(known, now, j.opts.Delay, j.opts.Elapsed)
	if next != known {
		err = j.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.SetClock(next) })
	}
	if err != nil {
		j.clock.started = !first // as if this check had not taken place
		return by, keptUntil, err
	}
	j.clock.known = next
	by = now
	if next.JumpedTo != 0 {
		by, keptUntil = withoutJump(next, now), time.UnixMilli(next.JumpedTo).Add(j.opts.Delay)
	}
	if jumped || first && next.JumpedTo != 0 {
		j.opts.Log.Warn("The clock is far ahead of the time when this server last ran. Messages that expired in between are hidden now and will be purged permanently after retention.purge_delay; if the clock is wrong, correct it before then",
			"last_seen", time.UnixMilli(next.JumpedFrom).UTC(), "now", now.UTC(), "kept_until", keptUntil.UTC())
	}
	return by, keptUntil, nil
}

// correct replaces recorded times that are in the future by the current one. The clock was wrong then and has been set
// back, and nothing should wait until such a time, which may be years away.
func (j *Job) correct(ctx context.Context, now time.Time) error {
	state := j.state
	state.ConfigSince, state.Tripped = min(state.ConfigSince, now.UnixMilli()), min(state.Tripped, now.UnixMilli())
	if state == j.state {
		return nil
	}
	j.state = state
	return j.saveState(ctx)
}

// passed reports whether a time has passed since another one. If that is in the future, the clock was set back, and
// nothing waits for it.
func passed(since, now time.Time, wait time.Duration) bool {
	return now.Sub(since) >= wait || since.After(now)
}

// withoutJump returns what the time would be if the clock had not jumped.
func withoutJump(c storage.Clock, now time.Time) time.Time {
	return time.UnixMilli(c.JumpedFrom + now.UnixMilli() - c.JumpedTo)
}

// compare compares the clock with its recorded state and returns the new state. It sets jumped if the clock has jumped.
func (c *clock) compare(known storage.Clock, now time.Time, delay time.Duration, elapsed func() time.Duration) (next storage.Clock, jumped bool) {
	next, last := known, known.Seen
	if c.started {
		last = now.UnixMilli() // without a steady clock, the clock is considered right
		if elapsed != nil {
			last = c.wall.Add(elapsed() - c.elapsed).UnixMilli()
		}
	}
	c.started, c.wall = true, now
	if elapsed != nil {
		c.elapsed = elapsed()
	}
	next.Seen = now.UnixMilli()
	jumped = last != 0 && delay > 0 && now.Sub(time.UnixMilli(last)) > maxUnseen
	if !jumped {
		last = now.UnixMilli()
	}
	if over := last - known.JumpedTo; over < 0 || over >= delay.Milliseconds() {
		next.JumpedFrom, next.JumpedTo = 0, 0 // the clock was set back, or the waiting time is over
	}
	switch {
	case !jumped:
	case next.JumpedTo == 0:
		next.JumpedFrom, next.JumpedTo = last, next.Seen
	default: // on a second jump, messages that expired through the first one wait too
		next.JumpedFrom, next.JumpedTo = next.JumpedFrom+last-next.JumpedTo, next.Seen
	}
	return next, jumped
}
