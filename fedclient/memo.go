package fedclient

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Memo remembers for a while what other servers answered, so that what many people look at is asked for once. Those who ask
// for the same at the same time share one request. Errors are not remembered. It is safe for concurrent use.
type Memo[K comparable, V any] struct {
	lifetime time.Duration
	size     int
	slots    chan struct{} // requests under way
	now      func() time.Time

	// mu guards the rest; a leaf lock.
	mu      sync.Mutex
	answers map[K]memoAnswer[V]
	flights map[K]*flight[V]
}

type memoAnswer[V any] struct {
	value V
	until time.Time
}

type flight[V any] struct {
	done  chan struct{}
	value V
	err   error
}

// NewMemo makes a Memo of at most size answers, each kept for lifetime, with at most concurrent requests under way.
func NewMemo[K comparable, V any](lifetime time.Duration, size, concurrent int, now func() time.Time) *Memo[K, V] {
	return &Memo[K, V]{
		lifetime: lifetime, size: size, slots: make(chan struct{}, concurrent), now: now,
		answers: map[K]memoAnswer[V]{}, flights: map[K]*flight[V]{},
	}
}

// Get is the answer to a question, by ask where it is not remembered. ask goes on after the one who caused it has left, for
// the others who wait: it must have a bound of its own.
func (m *Memo[K, V]) Get(ctx context.Context, key K, ask func(context.Context) (V, error)) (value V, err error) {
	f, mine, known := m.join(key)
	if known {
		return f.value, nil
	}
	if !mine {
		select {
		case <-f.done:
			return f.value, f.err
		case <-ctx.Done():
			return value, ctx.Err()
		}
	}
	defer m.land(key, f)
	select {
	case m.slots <- struct{}{}:
		defer func() { <-m.slots }()
	case <-ctx.Done():
		f.err = ctx.Err()
		return value, f.err
	}
	f.err = errAborted // what the others get should ask panic
	f.value, f.err = ask(context.WithoutCancel(ctx))
	return f.value, f.err
}

var errAborted = errors.New("the request was aborted")

// join finds the answer, or the flight that will bring it; mine: the caller is to fly it.
func (m *Memo[K, V]) join(key K) (f *flight[V], mine, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a, ok := m.answers[key]; ok && m.now().Before(a.until) {
		return &flight[V]{value: a.value}, false, true
	}
	if f = m.flights[key]; f != nil {
		return f, false, false
	}
	f = &flight[V]{done: make(chan struct{})}
	m.flights[key] = f
	return f, true, false
}

// land remembers what a flight brought, and wakes who waits for it.
func (m *Memo[K, V]) land(key K, f *flight[V]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.flights, key)
	close(f.done)
	if f.err != nil {
		return
	}
	if len(m.answers) >= m.size {
		m.forget()
	}
	m.answers[key] = memoAnswer[V]{f.value, m.now().Add(m.lifetime)}
}

// forget drops what is too old, or everything where that is nothing: it is only asked for again.
func (m *Memo[K, V]) forget() {
	now := m.now()
	for key, a := range m.answers {
		if !now.Before(a.until) {
			delete(m.answers, key)
		}
	}
	if len(m.answers) >= m.size {
		clear(m.answers)
	}
}
