package outbox

import (
	"errors"
	"fmt"
	"time"

	"ebb/fedclient"
	"ebb/keyed"
)

const (
	// maxRetry is how long a server that does not answer is left alone at most.
	maxRetry = time.Hour
	// failFast is the number of failures in a row from which on other requests do not wait for a server either.
	failFast = 4
	// heardEvery: a server that asks but cannot be asked is not tried again for each of its requests.
	heardEvery = 10 * time.Second
)

// retries: a server that does not answer is tried again after a second, then after twice as long each time.
var retries = keyed.Backoff{First: time.Second, Max: maxRetry}

// backoff is how long a server is left alone.
type backoff struct {
	failures int64 // in a row
	// refuses: it can be reached, but takes no transactions. Then only a transaction that it takes ends the failures.
	refuses bool
	since   time.Time // of the first failure
	retry   time.Time // zero: now
	heard   time.Time // when a request of the server last ended a wait
}

// failed counts a failure, unless it is one of a request that began before the last one was counted.
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

// Heard is told of a request of a server: it is there, so what waits for it is sent at once.
func (s *Service) Heard(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.known[server]
	if d == nil || d.failures == 0 || s.opts.Now().Sub(d.heard) < heardEvery {
		return
	}
	d.heard = s.opts.Now()
	s.hurry(d)
}

// hurry ends the wait of a server. mu is held.
func (s *Service) hurry(d *destination) {
	d.retry = time.Time{}
	select {
	case d.wake <- struct{}{}:
	default:
	}
	s.start(d)
}

// Allowed makes a Service a fedclient.Gate: requests do not wait for a server that has not answered several times in a row.
func (s *Service) Allowed(server string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.known[server]
	if d == nil || d.failures < failFast || d.refuses || !s.opts.Now().Before(d.retry) {
		return nil
	}
	return fmt.Errorf("%w: %s has not answered %d times, it is tried again later", fedclient.ErrUnreachable, server, d.failures)
}

// Succeeded notes that a server answers.
func (s *Service) Succeeded(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.known[server]; d != nil && d.failures > 0 && !d.refuses {
		d.succeeded()
		d.reached, d.dirty = s.opts.Now(), true
		s.hurry(d)
	}
}

// Failed notes that a server does not answer.
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
