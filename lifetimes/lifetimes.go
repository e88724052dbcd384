// Package lifetimes deletes what the server stores about people, other than messages, once its time is over: codes,
// links and sessions that have expired, old reports, and what only the users of closed accounts could read.
//
// Other packages do the same for what they own: audit for its records, notices for networks and addresses, accounts for
// unused devices and guests, media for files, deletions for receipts. docs/storage.md has the lifetime of every table.
package lifetimes

import (
	"context"
	"errors"
	"time"

	"ebb/storage"
)

// batch is the number of rows, or closed accounts, that one write deletes. It keeps writes short.
const batch = 200

// Options are the dependencies and settings of a Job; all are required.
type Options struct {
	DB *storage.DB
	// Time is the current time without a jump of the clock that may be a mistake (retention.Job.Time).
	Time    func(ctx context.Context) (time.Time, error)
	Reports time.Duration // how long reports are kept; 0: for ever
}

// Job deletes what has expired.
type Job struct{ opts Options }

// New returns a Job.
func New(o Options) *Job { return &Job{o} }

// Sweep deletes everything that has expired, in small writes. If one kind fails, it continues with the others.
func (j *Job) Sweep(ctx context.Context) error {
	now, err := j.opts.Time(ctx)
	if err != nil {
		return err
	}
	errs := []error{
		j.repeat(ctx, func(tx *storage.Tx) (bool, error) { return tx.DropExpired(now.UnixMilli(), batch) }),
		j.repeat(ctx, func(tx *storage.Tx) (bool, error) {
			n, err := tx.EmptyClosedAccounts(1) // an account can have 16 MiB, and key backups
			return n == 1, err
		}),
	}
	if j.opts.Reports > 0 {
		errs = append(errs, j.repeat(ctx, func(tx *storage.Tx) (bool, error) {
			n, err := tx.DropReports(now.Add(-j.opts.Reports).UnixMilli(), batch)
			return n == batch, err
		}))
	}
	return errors.Join(errs...)
}

// repeat calls part in writes of their own until nothing is left.
func (j *Job) repeat(ctx context.Context, part func(tx *storage.Tx) (more bool, err error)) error {
	for more := true; more; {
		err := j.opts.DB.Write(ctx, func(tx *storage.Tx) (err error) {
			more, err = part(tx)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
