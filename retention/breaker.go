package retention

import (
	"context"
	"time"

	"ebb/storage"
)

const (
	// breakerDays is how many days with purges must be on record before a day's number of purged messages can count as
	// unusual.
	breakerDays = 3
	// breakerFactor is the factor by which a day must exceed the busiest day on record to count as unusual.
	breakerFactor = 10
	// breakerFloor is the number of messages that may always be purged on one day.
	breakerFloor = 10_000
	// usualDays is how many days are on record.
	usualDays = 30
)

const dayMillis = int64(24 * time.Hour / time.Millisecond)

// allowance returns how many messages may be purged in this run. On a day on which far more messages expire than usual,
// the purge stops until the delay is over, so that an administrator can notice. On other days the result is unlimited.
func (j *Job) allowance(ctx context.Context, r *run) (int, error) {
	if r.all || j.opts.Delay == 0 {
		return unlimited, nil
	}
	if t := j.state.Tripped; t != 0 && r.now.Sub(time.UnixMilli(t)) >= j.opts.Delay {
		r.released = true
		return unlimited, nil
	}
	var days, most, today int64
	err := j.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if days, most, err = tx.UsualPurges(r.day()); err == nil {
			today, err = tx.PurgedOn(r.day())
		}
		return err
	})
	if err != nil || days < breakerDays {
		return unlimited, err
	}
	return int(max(0, max(breakerFloor, breakerFactor*most)-today)), nil
}

// unlimited is the allowance of a run that may purge everything.
const unlimited = -1

// spend counts purged messages against the allowance of the run.
func (r *run) spend(events int) {
	if r.left != unlimited {
		r.left = max(0, r.left-events)
	}
}

// day returns the number of the run's day since 1970, without a jump of the clock, which would end what is on record.
func (r *run) day() int64 { return r.by.UnixMilli() / dayMillis }

// account records how many messages a run has purged, and whether it was stopped.
func (j *Job) account(ctx context.Context, r *run, report *Report) error {
	tripped := j.state.Tripped
	switch {
	case report.Stopped && tripped == 0:
		tripped = r.now.UnixMilli()
		j.opts.Log.Warn("Far more messages have expired than on any other day, so the purge has stopped. They are hidden, and the purge goes on after retention.purge_delay; if they have expired by mistake, correct the policy or the clock before then",
			"purged", report.Events, "goes_on", r.now.Add(j.opts.Delay).UTC())
	case !report.Stopped && r.left == unlimited:
		tripped = 0
	}
	if tripped != j.state.Tripped {
		j.state.Tripped = tripped
		if err := j.saveState(ctx); err != nil {
			return err
		}
	}
	if tripped != 0 {
		until := time.UnixMilli(tripped).Add(j.opts.Delay)
		report.StoppedUntil = &until
	}
	if report.Events == 0 || r.all || r.released { // not what is usual
		return nil
	}
	return j.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.AddPurged(r.day(), int64(report.Events), r.day()-usualDays) })
}
