// Package pace makes background work of many writes give way to others who write to a database.
package pace

import (
	"context"
	"time"
)

const (
	// busyWrites is the number of writes per second of others from which a Pace counts the database as busy.
	busyWrites = 50
	// restFactor is how many times as long as a step took a Pace rests on a busy database, so that others have most of
	// the committer's time. maxRest bounds a rest.
	restFactor = 2
	maxRest    = 200 * time.Millisecond
	// quietSteps is the number of steps without other writers after which a database no longer counts as busy.
	quietSteps = 8
)

// Pace makes background work of many writes give way to other writers. It is used by one goroutine.
type Pace struct {
	written func() int64 // returns the number of writes that were committed so far
	start   time.Time    // of the current step
	writes  int64        // committed until then
	quiet   int          // the number of steps since others were writing, at most quietSteps
}

// New returns a Pace for work that begins now. written returns the number of writes that were committed so far.
func New(written func() int64) *Pace {
	return &Pace{written: written, start: time.Now(), writes: written()}
}

// Busy reports whether others were writing during one of the last steps, or may be, because the work has just begun.
// Steps should be shorter then.
func (p *Pace) Busy() bool { return p.quiet < quietSteps }

// Rest is called after each step of the work, with the number of writes that the step made. If others were writing
// meanwhile, it waits for a while before the next step.
func (p *Pace) Rest(ctx context.Context, own int64) {
	took, written := time.Since(p.start), p.written()
	p.quiet = min(p.quiet+1, quietSteps)
	if float64(written-p.writes-own) > busyWrites*took.Seconds() {
		p.quiet = 0
		timer := time.NewTimer(min(restFactor*took, maxRest))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		// What others write during the rest does not count, so that the next step measures what it competes with.
		written = p.written()
	}
	p.start, p.writes = time.Now(), written
}
