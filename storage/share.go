package storage

import (
	"context"

	"ebb/keyed"
)

const (
	// maxShare is how many of the connections for reading one requester holds at a time, so that nobody's reads keep the
	// others waiting. 2: one that is slow, and one for everything else.
	maxShare = 2
	// unshared is how many connections are left to reads that are nobody's share: signing in, sends, /sync.
	unshared = 2
)

type requesterKey struct{}

// Requested returns a context whose reads count as one requester's: a user, a server, a network. It is meant for reads that
// may take long.
func Requested(ctx context.Context, requester string) context.Context {
	return context.WithValue(ctx, requesterKey{}, requester)
}

// shares divides the connections for reading among those who ask.
type shares struct {
	all        chan struct{} // a slot for each read that is somebody's share
	requesters *keyed.Semaphore[string]
}

func newShares(connections int) *shares {
	return &shares{all: make(chan struct{}, max(connections-unshared, 1)), requesters: keyed.NewSemaphore[string](maxShare, 0)}
}

// take waits until the requester of ctx may read. Release is called when the read is over.
func (s *shares) take(ctx context.Context) (release func(), err error) {
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
