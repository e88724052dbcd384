package keyed_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"ebb/keyed"
)

func TestSemaphoreAdmitsItsWidthPerKey(t *testing.T) {
	for _, width := range []int{1, 3} {
		s := keyed.NewSemaphore[string](width, 0)
		var inside, most atomic.Int32
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				release, err := s.Acquire(t.Context(), "a")
				if err != nil {
					t.Error(err)
					return
				}
				defer release()
				now := inside.Add(1)
				defer inside.Add(-1)
				for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
				}
			})
		}
		all.Wait()
		if int(most.Load()) > width {
			t.Errorf("%d of %d at a time", most.Load(), width)
		}
		if s.Busy("a") {
			t.Error("the key is remembered")
		}
	}
}

func TestSemaphoreKeysDoNotWaitForOneAnother(t *testing.T) {
	s := keyed.NewSemaphore[int](1, 0)
	for key := range 3 {
		release, err := s.Acquire(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
	}
}

func TestSemaphoreWaitersMayLeave(t *testing.T) {
	s := keyed.NewSemaphore[string](1, 0)
	release, err := s.Acquire(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	leave()
	if _, err := s.Acquire(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if !s.Busy("a") {
		t.Error("the holder is forgotten")
	}
	release()
	if s.Busy("a") {
		t.Error("busy after all have left")
	}
}

func TestSemaphoreRefusesTooManyWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := keyed.NewSemaphore[string](1, 2)
		release, err := s.Acquire(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		second := make(chan error)
		go func() {
			release, err := s.Acquire(t.Context(), "a")
			if err == nil {
				release()
			}
			second <- err
		}()
		synctest.Wait()
		if _, err := s.Acquire(t.Context(), "a"); !errors.Is(err, keyed.ErrBusy) {
			t.Errorf("the third of two: %v", err)
		}
		if release, err := s.Acquire(t.Context(), "b"); err != nil {
			t.Errorf("another key: %v", err)
		} else {
			release()
		}
		release()
		if err := <-second; err != nil {
			t.Error(err)
		}
	})
}
