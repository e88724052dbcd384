package keyed

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Options configures a Memo.
type Options[K comparable, V any] struct {
	// Entries bounds the number of values. Bytes bounds their total size as computed by Size. If both are zero, no
	// value is kept, and only concurrent callers share a load.
	Entries int
	Bytes   int64
	Size    func(K, V) int64
	// Lifetime is how long a value is kept. If it is zero, a value is kept until it is forgotten or displaced. Lifetime
	// requires Now.
	Lifetime time.Duration
	Now      func() time.Time
	// Loads bounds the number of concurrent loads; zero means no bound.
	Loads int
}

// Memo caches values that are expensive to load. Concurrent callers that ask for the same key share one load. Errors
// are not cached. Memo is safe for concurrent use.
type Memo[K comparable, V any] struct {
	lifetime time.Duration
	now      func() time.Time
	slots    chan struct{} // semaphore for concurrent loads; nil means no bound

	// mu guards the fields below; a leaf lock.
	mu      sync.Mutex
	known   halves[K, memoized[V]]
	flights map[K]*flight[V]
}

// memoized is a cached value.
type memoized[V any] struct {
	value V
	until int64 // nanoseconds since 1970; 0 means for ever
}

// flight is a load in progress.
type flight[V any] struct {
	done  chan struct{}
	value V
	err   error
	// stale means that the key was forgotten after the load began, or that the load never began. Callers that wait for
	// it must try again.
	stale bool
}

// NewMemo returns an empty Memo.
func NewMemo[K comparable, V any](o Options[K, V]) *Memo[K, V] {
	m := &Memo[K, V]{lifetime: o.Lifetime, now: o.Now, flights: map[K]*flight[V]{}}
	m.known.bound = int64(o.Entries)
	if o.Size != nil {
		m.known.bound = o.Bytes
		m.known.size = func(key K, v memoized[V]) int64 { return o.Size(key, v.value) }
	}
	if o.Loads > 0 {
		m.slots = make(chan struct{}, o.Loads)
	}
	return m
}

// Peek returns the cached value of a key, without loading it.
func (m *Memo[K, V]) Peek(key K) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.peek(key)
}

// peek is like Peek. The caller holds mu.
func (m *Memo[K, V]) peek(key K) (none V, ok bool) {
	v, ok := m.known.get(key)
	if ok && v.until != 0 && m.now().UnixNano() >= v.until {
		return none, false
	}
	return v.value, ok
}

// Get returns the value of a key, loading it if it is not cached. If ctx ends, the load continues for other waiting
// callers, so load must have a time limit of its own. If the key is forgotten during the load, it is loaded again.
func (m *Memo[K, V]) Get(ctx context.Context, key K, load func(context.Context) (V, error)) (none V, err error) {
	for {
		value, f, mine := m.join(key)
		switch {
		case f == nil:
			return value, nil
		case mine:
			m.fly(ctx, key, f, load)
		default:
			select {
			case <-f.done:
			case <-ctx.Done():
				return none, ctx.Err()
			}
		}
		switch {
		case !f.stale:
			return f.value, f.err
		case ctx.Err() != nil:
			return none, ctx.Err()
		case f.err != nil && mine:
			return none, f.err
		}
	}
}

// join returns the cached value of a key, or else the load in progress. If mine is true, the caller must start that
// load.
func (m *Memo[K, V]) join(key K) (value V, f *flight[V], mine bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	value, ok := m.peek(key)
	if ok {
		return value, nil, false
	}
	if f = m.flights[key]; f != nil {
		return value, f, false
	}
	f = &flight[V]{done: make(chan struct{})}
	m.flights[key] = f
	return value, f, true
}

// errAborted is returned to waiting callers if the load panics.
var errAborted = errors.New("the request was aborted")

func (m *Memo[K, V]) fly(ctx context.Context, key K, f *flight[V], load func(context.Context) (V, error)) {
	f.err = errAborted
	defer m.finish(key, f)
	if m.slots != nil {
		select {
		case m.slots <- struct{}{}:
			defer func() { <-m.slots }()
		case <-ctx.Done():
			m.detach(key, f)
			return
		}
	}
	f.value, f.err = load(context.WithoutCancel(ctx))
}

// finish stores the result of a load and wakes the callers that wait for it.
func (m *Memo[K, V]) finish(key K, f *flight[V]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer close(f.done)
	if f.stale {
		return
	}
	delete(m.flights, key)
	if f.err != nil {
		return
	}
	v := memoized[V]{value: f.value}
	if m.lifetime > 0 {
		v.until = m.now().Add(m.lifetime).UnixNano()
	}
	m.known.put(key, v)
}

func (m *Memo[K, V]) detach(key K, f *flight[V]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.discard(key, f)
}

// discard makes sure that the result of a load in progress is not used. The caller holds mu.
func (m *Memo[K, V]) discard(key K, f *flight[V]) {
	if m.flights[key] == f {
		f.stale = true
		delete(m.flights, key)
	}
}

// Forget removes a key and discards the result of a load in progress.
func (m *Memo[K, V]) Forget(key K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known.forget(key)
	if f := m.flights[key]; f != nil {
		m.discard(key, f)
	}
}

// ForgetFunc removes the keys for which drop returns true. It calls drop for every key.
func (m *Memo[K, V]) ForgetFunc(drop func(K) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known.forgetFunc(func(key K, _ memoized[V]) bool { return drop(key) })
	for key, f := range m.flights {
		if drop(key) {
			m.discard(key, f)
		}
	}
}

// Update replaces the cached value of a key, if there is one, by the result of change. change must not modify the old
// value, because others may be using it. The result of a load in progress is discarded.
func (m *Memo[K, V]) Update(key K, change func(V) V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.flights[key]; f != nil {
		m.discard(key, f)
	}
	if v, ok := m.known.get(key); ok {
		v.value = change(v.value)
		m.known.put(key, v)
	}
}

// Len returns the number of values.
func (m *Memo[K, V]) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.known.len()
}
