// Package shares divides the reading connections of a database among those who read, so that none of them uses all.
package shares

import (
	"context"

	"ebb/keyed"
)

const (
	// maxShare is the number of reading connections that one requester may hold at a time, so that its reads do not
	// block others. Two allow one slow read and one for everything else.
	maxShare = 2
	// unshared is the number of connections left for reads without a requester: signing in, sending, /sync.
	unshared = 2
)

type requesterKey struct{}

// Requested returns a context whose reads count as those of one requester: a user, a server or a network. It is meant
// for reads that may take long.
func Requested(ctx context.Context, requester string) context.Context {
	return context.WithValue(ctx, requesterKey{}, requester)
}

// Shares divides connections among requesters.
type Shares struct {
	all        chan struct{} // one slot for each read with a requester
	requesters *keyed.Semaphore[string]
}

// New returns the Shares of a number of connections.
func New(connections int) *Shares {
	return &Shares{all: make(chan struct{}, max(connections-unshared, 1)), requesters: keyed.NewSemaphore[string](maxShare, 0)}
}

// Take waits until the requester of ctx may read. The caller must call release after the read.
func (s *Shares) Take(ctx context.Context) (release func(), err error) {
	requester, ok := ctx.Value(requesterKey{}).(string)
	if !ok {
		return func() {}, nil
	}
	leave, err := s.requesters.Acquire(ctx, requester)
	if err != nil {
		return nil, err
	}
	select {
	case s.all <- struct{}{}:
		return func() { <-s.all; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
