// Package pace makes background work of many writes give way to others who write to a database: its steps take little
// of the committer's time, and while others write it rests between them.
package pace

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	// busyWrites is the number of writes per second of others from which a Pace counts the database as busy.
	busyWrites = 50
	// restFactor is how many times as long as a step has kept the committer a Pace rests on a busy database, so that
	// others have most of the committer's time. The sync at the end of a commit does not count: writes of others share
	// it. maxRest bounds a rest.
	restFactor = 4
	maxRest    = 200 * time.Millisecond
	// quietSteps is the number of steps without other writers after which a database no longer counts as busy.
	quietSteps = 8

	// quietStep and busyStep are how long a step should keep the committer, apart from the commit, which takes about as
	// long again: while nobody else writes, and while others do, who wait meanwhile.
	quietStep = 10 * time.Millisecond
	busyStep  = 2500 * time.Microsecond
	// sizes is how many times as large as the smallest step the largest is. However slow the database is, the work goes
	// on in steps of the smallest size.
	sizes = 25
	// first is the part of the largest step with which work begins, because its speed is not known.
	first = 5
)

// Pace makes background work of many writes give way to other writers. It is used by one goroutine, except for Measure.
type Pace struct {
	written func() int64 // returns the number of writes that were committed so far; nil: all steps have size
	rested  time.Time    // when the last rest began
	writes  int64        // committed until then
	quiet   int          // the number of steps since others were writing, at most quietSteps
	shared  bool         // others have been writing since the work began

	most  int           // the size of the largest step
	size  int           // of the current step
	each  time.Duration // how long an item of a step has kept the committer of late; 0: not known
	spent atomic.Int64  // ns for which the current step has kept the committer
}

// New returns a Pace for work that begins now, in steps of at most a number of items. written returns the number of
// writes that were committed so far.
func New(written func() int64, most int) *Pace {
	return &Pace{written: written, rested: time.Now(), writes: written(), most: most, size: max(most/first, 1)}
}

// Fixed returns a Pace for work that does not give way, in steps of a fixed size.
func Fixed(size int) *Pace { return &Pace{size: size} }

// Step begins a step, and returns how many items it should have at most.
func (p *Pace) Step() int {
	budget := quietStep
	if p.busy() {
		budget = busyStep
	}
	if p.each > 0 {
		p.size = min(max(int(budget/p.each), p.most/sizes, 1), p.most)
	}
	return p.size
}

// Measure begins to measure for how long the current step keeps the committer, or readers of many rows. The function
// that it returns ends that.
func (p *Pace) Measure() func() {
	start := time.Now()
	return func() { p.spent.Add(int64(time.Since(start))) }
}

// busy reports whether others were writing during one of the last steps, or may be, because the work has just begun.
func (p *Pace) busy() bool { return p.quiet < quietSteps }

// Rest is called after each step of the work, with the number of writes that the step made. full says that the step had
// as many items as it should. On a busy database, Rest waits for a while before the next step.
func (p *Pace) Rest(ctx context.Context, own int64, full bool) {
	if p.written == nil {
		return
	}
	spent := time.Duration(p.spent.Swap(0))
	p.learn(spent, full)
	now, written := time.Now(), p.written()
	p.quiet = min(p.quiet+1, quietSteps)
	// The rest before the step counts, because during the step others may have waited behind it.
	if float64(written-p.writes-own) > busyWrites*now.Sub(p.rested).Seconds() {
		p.quiet, p.shared = 0, true
	}
	p.rested, p.writes = now, written
	if p.shared && p.busy() {
		timer := time.NewTimer(min(restFactor*spent, maxRest))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// learn derives from the last step how long an item takes. A step with fewer items than it could have tells that only
// if it took longer than a full one.
func (p *Pace) learn(spent time.Duration, full bool) {
	each := spent / time.Duration(p.size)
	switch {
	case each == 0 || !full && each <= p.each:
	case p.each == 0:
		p.each = each
	default: // the mean of the last few steps, because single ones wait for the disk or for the collection of garbage
		p.each = (3*p.each + each) / 4
	}
}
