package outbox

import (
	"errors"
	"fmt"
	"time"

	"ebb/fedclient"
	"ebb/keyed"
)

const (
	// maxRetry is the longest delay between attempts to reach a server.
	maxRetry = time.Hour
	// failFast is the number of consecutive failures after which other requests fail immediately instead of waiting for
	// the server.
	failFast = 4
	// heardEvery is the minimum time between attempts that are made because an unreachable server has sent a request.
	heardEvery = 10 * time.Second
)

// retries doubles the delay with each failure, starting at one second.
var retries = keyed.Backoff{First: time.Second, Max: maxRetry}

// backoff determines when to contact a failing server again.
type backoff struct {
	failures int64 // number of consecutive failures
	// refuses means that the server can be reached but rejects transactions. Only an accepted transaction then ends the
	// backoff.
	refuses bool
	since   time.Time // time of the first failure
	retry   time.Time // time of the next attempt; zero means now
	heard   time.Time // when a request from the server last ended a delay
}

// failed counts a failure. It ignores the failure of a request that began before the previous failure was counted.
func (b *backoff) failed(now time.Time, asked time.Duration, refuses bool, spread uint64) {
	if b.failures > 0 && now.Before(b.retry) {
		return
	}
	if b.failures == 0 {
		b.since = now
	}
	wait := max(retries.Delay(b.failures), asked)
	b.failures++
	b.refuses = refuses
	b.retry = now.Add(keyed.Jitter(wait, spread))
}

func (b *backoff) succeeded() { *b = backoff{} }

// Heard is called for each request from a server. Such a request shows that the server is up, so pending transactions
// are sent to it at once.
func (s *Service) Heard(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.known[server]
	if d == nil || d.failures == 0 || s.opts.Now().Sub(d.heard) < heardEvery {
		return
	}
	d.heard = s.opts.Now()
	s.retryNow(d)
}

// retryNow ends the delay of a server. The caller holds mu.
func (s *Service) retryNow(d *destination) {
	d.retry = time.Time{}
	select {
	case d.wake <- struct{}{}:
	default:
	}
	s.start(d)
}

// Allowed implements fedclient.Gate. It returns an error for a server that has failed several times in a row.
func (s *Service) Allowed(server string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.known[server]
	if d == nil || d.failures < failFast || d.refuses || !s.opts.Now().Before(d.retry) {
		return nil
	}
	return fmt.Errorf("%w: %s has failed %d times in a row and will be tried again later", fedclient.ErrUnreachable, server, d.failures)
}

// Succeeded records that a server responds.
func (s *Service) Succeeded(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.known[server]; d != nil && d.failures > 0 && !d.refuses {
		d.succeeded()
		d.reached, d.dirty = s.opts.Now(), true
		s.retryNow(d)
	}
}

// Failed records that a server does not respond.
func (s *Service) Failed(server string, err error) { s.fail(server, err, false) }

func (s *Service) fail(server string, err error, refuses bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var remote *fedclient.RemoteError
	var asked time.Duration
	if errors.As(err, &remote) {
		asked = remote.RetryAfter
	}
	d := s.destination(server)
	d.failed(s.opts.Now(), asked, refuses, s.count.Add(1))
	d.dirty = true
}
