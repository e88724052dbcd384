package storage

import (
	"context"
	"sync"
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
	all chan struct{} // a place for each read that is somebody's share

	// mu guards requesters; a leaf.
	mu         sync.Mutex
	requesters map[string]*share
}

// share is the part of one requester.
type share struct {
	places chan struct{} // a place for each read
	users  int           // reads that have or wait for a place
}

func newShares(connections int) *shares {
	return &shares{all: make(chan struct{}, max(connections-unshared, 1)), requesters: map[string]*share{}}
}

// take waits until the requester of ctx may read. Release is called when the read is over.
func (s *shares) take(ctx context.Context) (release func(), err error) {
	requester, ok := ctx.Value(requesterKey{}).(string)
	if !ok {
		return func() {}, nil
	}
	own := s.enter(requester)
	for i, places := range []chan struct{}{own.places, s.all} {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			if i == 1 {
				<-own.places
			}
			s.leave(requester, own)
			return nil, ctx.Err()
		}
	}
	return func() {
		<-s.all
		<-own.places
		s.leave(requester, own)
	}, nil
}

func (s *shares) enter(requester string) *share {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.requesters[requester]
	if own == nil {
		own = &share{places: make(chan struct{}, maxShare)}
		s.requesters[requester] = own
	}
	own.users++
	return own
}

func (s *shares) leave(requester string, own *share) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if own.users--; own.users == 0 {
		delete(s.requesters, requester)
	}
}
