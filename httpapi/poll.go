package httpapi

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Poll is an answer that does not exist yet, which a handler returns for a long poll. The server asks for the answer
// until there is one, and waits for a wake-up in between. While it waits for long, it keeps nothing of the request but
// the Poll, so a Poll must not keep the http.Request or its context. Only one goroutine at a time calls the methods.
type Poll interface {
	// Answer returns what a handler may return, or nil if there is no answer yet.
	Answer(ctx context.Context) (any, error)
	// Wait waits for a wake-up, for most at the longest if most is not 0. It reports whether there was one. It also
	// returns when the server stops.
	Wait(ctx context.Context, most time.Duration) (woken bool, err error)
	// Notify makes the next wake-up call f, once, instead of ending a Wait. f does not wait. If a wake-up is pending,
	// Notify calls f itself. f is not called after Close. Unlike Wait, Notify may ignore that the server stops.
	Notify(f func())
	// Finish makes Answer return an answer at the next call.
	Finish()
	// Close ends the poll.
	Close()
}

// errParked means that a request goes on waiting without its goroutine, which must not use the request any more.
var errParked = errors.New("the request is parked")

// await returns the answer of a poll and closes the poll. If there was no wake-up for the given time, park may take
// over the request and the poll; it reports whether it did, and await then returns errParked. park may be nil.
func await(ctx context.Context, poll Poll, parkAfter time.Duration, park func() bool) (v any, err error) {
	defer func() {
		if err != errParked { //nolint:errorlint // never wrapped
			poll.Close()
		}
	}()
	for {
		if v, err = poll.Answer(ctx); v != nil || err != nil {
			return v, err
		}
		woken := false
		if park != nil && parkAfter > 0 {
			if woken, err = poll.Wait(ctx, parkAfter); err != nil {
				return nil, err
			}
		}
		if woken {
			continue
		}
		if park != nil && park() {
			return nil, errParked
		}
		if _, err = poll.Wait(ctx, 0); err != nil {
			return nil, err
		}
	}
}

// awaitOf waits for the answer of a poll that a handler has returned.
func (s *Server) awaitOf(w http.ResponseWriter, r *Request, poll Poll) (any, error) {
	l := lotOf(r)
	if l == nil {
		return await(r.Context(), poll, 0, nil)
	}
	return await(r.Context(), poll, l.after, func() bool { return s.park(l, w, r, poll) })
}
