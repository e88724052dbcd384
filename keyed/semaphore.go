package keyed

import (
	"context"
	"errors"
	"sync"
)

// Semaphore lets a limited number of callers work on each key. With a width of one it is a mutex per key. It stores
// nothing for unused keys. It is safe for concurrent use.
type Semaphore[K comparable] struct {
	width, most int

	// mu guards keys; a leaf lock.
	mu   sync.Mutex
	keys map[K]*slots
}

// slots counts the callers that work on one key or wait to do so.
type slots struct {
	taken chan struct{}
	users int // callers that hold a slot or wait for one
}

// ErrBusy is returned by Acquire if too many callers are waiting already.
var ErrBusy = errors.New("too many callers are waiting")

// NewSemaphore returns a Semaphore that lets width callers work on a key at a time. If most is not zero, it bounds the
// number of callers per key that work or wait; further callers get ErrBusy.
func NewSemaphore[K comparable](width, most int) *Semaphore[K] {
	return &Semaphore[K]{width: width, most: most, keys: map[K]*slots{}}
}

// Acquire waits until the caller may work on a key. The caller must call release exactly once.
//
// Errors: ErrBusy, or that of the context.
func (s *Semaphore[K]) Acquire(ctx context.Context, key K) (release func(), err error) {
	own := s.enter(key)
	if own == nil {
		return nil, ErrBusy
	}
	select {
	case own.taken <- struct{}{}:
		return func() { <-own.taken; s.leave(key, own) }, nil
	case <-ctx.Done():
		s.leave(key, own)
		return nil, ctx.Err()
	}
}

func (s *Semaphore[K]) enter(key K) *slots {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.keys[key]
	if own == nil {
		own = &slots{taken: make(chan struct{}, s.width)}
		s.keys[key] = own
	}
	if s.most > 0 && own.users >= s.most {
		return nil
	}
	own.users++
	return own
}

func (s *Semaphore[K]) leave(key K, own *slots) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if own.users--; own.users == 0 {
		delete(s.keys, key)
	}
}

// Busy reports whether a caller works on a key or waits to do so.
func (s *Semaphore[K]) Busy(key K) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[key] != nil
}
