package httpapi

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// turnTime is how long a request keeps its turn at most. One that takes longer waits for something other than the
// processors: for a password to be hashed, for the disk, for another server.
const turnTime = 10 * time.Millisecond

// turns lets the requests of strangers compute one after another, so that a thousand of them, of people who all open
// their sign-in page at once, are not ready to run at the same time. What becomes ready in the meantime, such as a
// message of a user, would wait behind all of them.
type turns struct {
	taken chan struct{} // a slot for each request that has its turn
}

// newTurns returns turns that leave half of the processors to others.
func newTurns() turns { return turns{make(chan struct{}, max(runtime.GOMAXPROCS(0)/2, 1))} }

// take waits for a turn, which ends when release is called, and after turnTime at the latest.
func (t turns) take(ctx context.Context) (release func(), err error) {
	select {
	case t.taken <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var once sync.Once
	end := func() { once.Do(func() { <-t.taken }) }
	timer := time.AfterFunc(turnTime, end)
	return func() {
		timer.Stop()
		end()
	}, nil
}
