package lifetimes_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"ebb/ident"
	"ebb/lifetimes"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// many is more than one write deletes.
const many = 450

func TestSweepDeletesWhatHasExpiredByTheSteadyClock(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		start := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC) // adding a token deletes those that have expired by now
		write := func(f func(tx *storage.Tx) error) {
			t.Helper()
			if err := db.Write(t.Context(), f); err != nil {
				t.Fatal(err)
			}
		}
		var alice ident.UserNID
		write(func(tx *storage.Tx) (err error) { alice, err = tx.UserNID("@alice:x"); return err })
		write(func(tx *storage.Tx) error {
			for i := range many {
				if err := tx.AddOpenIDToken(fmt.Sprintf("token %d", i), alice, start.Add(time.Hour).UnixMilli(), many); err != nil {
					return err
				}
				if err := tx.AddReport(storage.Report{Reporter: alice, TS: start.UnixMilli(), Room: "!a:x"}, nil, many, many); err != nil {
					return err
				}
			}
			return nil
		})
		left := func() (reports int) {
			t.Helper()
			write(func(tx *storage.Tx) error {
				rows, err := tx.Reports(0, many)
				reports = len(rows)
				return err
			})
			return reports
		}
		now := start
		sweep := func(keep time.Duration) {
			t.Helper()
			job := lifetimes.New(lifetimes.Options{DB: db, Time: func(context.Context) (time.Time, error) { return now, nil }, Reports: keep})
			if err := job.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		now = start.Add(30 * time.Minute)
		sweep(31 * time.Minute)
		if n := left(); n != many {
			t.Errorf("%d reports are left before their time", n)
		}
		now = start.Add(2 * time.Hour)
		sweep(0)
		if n := left(); n != many {
			t.Errorf("%d reports are left although they are kept for ever", n)
		}
		sweep(time.Hour)
		if n := left(); n != 0 {
			t.Errorf("%d reports are left after their time", n)
		}
		write(func(tx *storage.Tx) error {
			if more, err := tx.DropExpired(now.UnixMilli(), 1); err != nil || more {
				return fmt.Errorf("expired rows are left: %v, %w", more, err)
			}
			return nil
		})
	})
}

func TestSweepDeletesNothingIfTheClockCannotBeJudged(t *testing.T) {
	broken := errors.New("broken")
	job := lifetimes.New(lifetimes.Options{Time: func(context.Context) (time.Time, error) { return time.Time{}, broken }, Reports: time.Hour})
	if err := job.Sweep(t.Context()); !errors.Is(err, broken) {
		t.Error(err)
	}
}
