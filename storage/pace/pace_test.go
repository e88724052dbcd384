package pace

import (
	"context"
	"sync/atomic"
	"testing"
	"time"
)

func TestBackgroundWorkTakesShortStepsWhileOthersWrite(t *testing.T) {
	var written atomic.Int64
	ended, cancel := context.WithCancel(t.Context())
	cancel() // so that no rest takes any time
	p := New(written.Load)
	step := func(others int64) bool {
		p.start = time.Now().Add(-time.Second)
		written.Add(others + 2)
		p.Rest(ended, 2)
		return p.Busy()
	}
	if !p.Busy() {
		t.Error("work begins with long steps")
	}
	for i := range quietSteps {
		if busy := step(0); busy != (i < quietSteps-1) {
			t.Errorf("after %d quiet steps: busy %v", i+1, busy)
		}
	}
	if step(busyWrites / 2) {
		t.Error("a few writes of others count as busy")
	}
	if !step(3 * busyWrites) {
		t.Error("many writes of others do not count as busy")
	}
}
