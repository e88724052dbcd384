package retention

import (
	"context"
	"time"

	"ebb/storage/pace"
)

// compactBatch is how many events one step stores together, at most (see storage.DB.Compact).
const compactBatch = 500

// compact stores together what purges have left between the events that they deleted, so that the file becomes smaller.
// Nothing depends on when that happens, so it gives way to purges and to others who write.
func (j *Job) compact(ctx context.Context) error {
	defer j.status.compacting(false)
	at, start, steps := j.opts.DB.Pace(compactBatch), time.Now(), 0
	for more := true; more; steps++ {
		var err error
		if more, err = j.compactStep(ctx, at); err != nil {
			return err
		}
		at.Rest(ctx, 0, more)
	}
	if steps == 1 {
		return nil
	}
	j.running.Lock()
	defer j.running.Unlock()
	err := j.opts.DB.Maintain(ctx)
	j.opts.Log.Info("the database is smaller after a purge", "took", time.Since(start))
	return err
}

// compactStep waits for a purge that is running, since that may leave more to do.
func (j *Job) compactStep(ctx context.Context, at *pace.Pace) (more bool, err error) {
	j.running.Lock()
	defer j.running.Unlock()
	return j.opts.DB.Compact(ctx, at)
}

// compactions calls compact after purges, until ctx ends.
func (j *Job) compactions(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-j.loose:
		}
		if err := j.compact(ctx); err != nil && ctx.Err() == nil {
			j.opts.Log.Error("Cannot make the database smaller after a purge; trying again after the next one", "err", err)
		}
	}
}

// compactSoon makes compactions look whether there is something to do.
func (j *Job) compactSoon() {
	j.status.compacting(true)
	select {
	case j.loose <- struct{}{}:
	default: // it is going to
	}
}
