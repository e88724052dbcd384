package pace

import (
	"context"
	"sync/atomic"
	"testing"
	"time"
)

// work returns a Pace whose rests take no time, and a function that takes a step during which others write.
func work(t *testing.T) (p *Pace, step func(others int64, spent time.Duration, full bool)) {
	var written atomic.Int64
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	p = New(written.Load, 500)
	return p, func(others int64, spent time.Duration, full bool) {
		p.rested = time.Now().Add(-time.Second)
		p.spent.Add(int64(spent))
		written.Add(others + 2)
		p.Rest(ended, 2, full)
	}
}

func TestBackgroundWorkTakesShortStepsWhileOthersWrite(t *testing.T) {
	p, step := work(t)
	if !p.busy() {
		t.Error("work begins with long steps")
	}
	for i := range quietSteps {
		if step(0, 0, true); p.busy() != (i < quietSteps-1) {
			t.Errorf("after %d quiet steps: busy %v", i+1, p.busy())
		}
	}
	if step(busyWrites/2, 0, true); p.busy() {
		t.Error("a few writes of others count as busy")
	}
	if step(3*busyWrites, 0, true); !p.busy() {
		t.Error("many writes of others do not count as busy")
	}
}

func TestStepsTakeAsManyItemsAsTheTimeAllows(t *testing.T) {
	p, step := work(t)
	each := func(others int64, each time.Duration) int {
		for range 4 * quietSteps {
			step(others, time.Duration(p.Step())*each, true)
		}
		return p.Step()
	}
	const many = 3 * busyWrites
	for _, c := range []struct {
		name     string
		others   int64
		each     time.Duration
		from, to int
	}{
		{"while others write", many, 25 * time.Microsecond, 90, 100},
		{"on a slow database", many, 100 * time.Microsecond, 22, 25},
		{"on a database that is too slow", many, 10 * time.Millisecond, 20, 20},
		{"while nobody writes", 0, 25 * time.Microsecond, 380, 400},
		{"on a fast database", 0, time.Microsecond, 500, 500},
	} {
		if got := each(c.others, c.each); got < c.from || got > c.to {
			t.Errorf("%s, a step has %d items, want %d to %d", c.name, got, c.from, c.to)
		}
	}
}

func TestAStepWithFewItemsDoesNotMakeTheNextOneLong(t *testing.T) {
	p, step := work(t)
	for range quietSteps {
		step(0, time.Duration(p.Step())*100*time.Microsecond, true)
	}
	before := p.Step()
	step(0, 10*time.Microsecond, false)
	if got := p.Step(); got != before {
		t.Errorf("after a step with hardly any items the next one has %d instead of %d", got, before)
	}
	step(0, time.Second, false)
	if got := p.Step(); got >= before {
		t.Errorf("after a slow step with few items the next one has %d, as many as before", got)
	}
}

// While a step runs, nobody else's write is committed: others wait behind it.
func TestAStepDuringWhichNobodyCouldWriteIsFollowedByARest(t *testing.T) {
	p, step := work(t)
	step(3*busyWrites, 0, true)
	const spent = 2 * time.Millisecond
	p.spent.Add(int64(spent))
	start := time.Now()
	p.Rest(t.Context(), 0, true)
	if took := time.Since(start); took < restFactor*spent {
		t.Errorf("the rest took %v", took)
	}
}
