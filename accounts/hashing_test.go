package accounts

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
)

func TestProcessorsAreAddedOnlyWhilePasswordsWait(t *testing.T) {
	h := newHasher(1)
	var users, more atomic.Int64
	h.raise = func(n int) func() {
		more.Store(int64(n))
		users.Add(1)
		return func() { users.Add(-1) }
	}
	if err := h.work(t.Context(), func() {}); err != nil || more.Load() != 0 {
		t.Fatalf("%v; one alone has asked for %d processors", err, more.Load())
	}
	const waiting = 3
	done := make(chan error, waiting)
	err := h.work(t.Context(), func() {
		for range waiting {
			go func() { done <- h.work(t.Context(), func() {}) }()
		}
		for users.Load() < waiting { // they wait for this function
			runtime.Gosched()
		}
	})
	for range waiting {
		if e := <-done; e != nil {
			err = e
		}
	}
	if err != nil || more.Load() != 2 || users.Load() != 0 {
		t.Errorf("%v; a queue has asked for %d processors, and %d are not given back", err, more.Load(), users.Load())
	}
	ctx, giveUp := context.WithCancel(t.Context())
	giveUp()
	err = h.work(t.Context(), func() {
		if err := h.work(ctx, func() {}); err == nil {
			t.Error("a request that has given up got a worker")
		}
	})
	if err != nil || users.Load() != 0 {
		t.Errorf("%v; %d are not given back by requests that give up", err, users.Load())
	}
}
