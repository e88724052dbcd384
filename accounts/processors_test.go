package accounts

import (
	"context"
	"slices"
	"testing"
)

// fakeProcessors returns processors that record the values of GOMAXPROCS, which begins with 2.
func fakeProcessors() (p *processors, values func() []int) {
	all := []int{2}
	set := func(n int) int {
		was := all[len(all)-1]
		if n > 0 {
			all = append(all, n)
		}
		return was
	}
	return &processors{set: set, reset: func(was int) { set(was) }}, func() []int { return all }
}

func TestProcessorsAreAddedOnlyWhilePasswordsWait(t *testing.T) {
	h := newHasher(1)
	p, values := fakeProcessors()
	h.processors = p
	check := func(when string, want ...int) {
		t.Helper()
		p.mu.Lock()
		defer p.mu.Unlock()
		if got := values(); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	if err := h.work(t.Context(), func() { check("one alone", 2) }); err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]int{{2, 4, 2}, {2, 4, 2, 4, 2}} {
		const waiting = 3
		done := make(chan error, waiting)
		err := h.work(t.Context(), func() {
			for range waiting {
				go func() { done <- h.work(t.Context(), func() {}) }()
			}
			for users := 0; users < waiting; { // they wait for this function
				p.mu.Lock()
				users = p.users
				p.mu.Unlock()
			}
			check("with a queue", want[:len(want)-1]...)
		})
		for range waiting {
			if e := <-done; e != nil {
				err = e
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		check("afterwards", want...)
	}
}

func TestProcessorsAreTakenBackFromRequestsThatGiveUp(t *testing.T) {
	h := newHasher(1)
	p, values := fakeProcessors()
	h.processors = p
	ctx, giveUp := context.WithCancel(t.Context())
	giveUp()
	err := h.work(t.Context(), func() {
		if err := h.work(ctx, func() {}); err == nil {
			t.Error("a request that has given up got a worker")
		}
	})
	if want := []int{2, 4, 2}; err != nil || !slices.Equal(values(), want) {
		t.Errorf("%v, %v", values(), err)
	}
}
