package keyed

import "time"

// Backoff determines the delay after consecutive failures. The first failure is followed by First. Each further failure
// multiplies the delay by Factor, up to Max.
type Backoff struct {
	First, Max time.Duration
	Factor     int64 // 0 means 2
}

// Delay returns how long to wait after a failure. before is the number of consecutive failures before that one.
func (b Backoff) Delay(before int64) time.Duration {
	factor := max(b.Factor, 0)
	if factor == 0 {
		factor = 2
	}
	delay, longest := int64(b.First), int64(b.Max)
	for range min(before, 62) {
		if delay >= longest/factor {
			return b.Max
		}
		delay *= factor
	}
	return min(time.Duration(delay), b.Max)
}

// Retry counts consecutive failures and holds the time of the next permitted attempt. The zero Retry is due at once.
type Retry struct {
	Failures int64 // consecutive
	At       time.Time
}

// Failed records a failure at now.
func (r *Retry) Failed(now time.Time, b Backoff) {
	r.At = now.Add(b.Delay(r.Failures))
	r.Failures++
}

// Succeeded resets the count of failures. The next attempt is due after pause.
func (r *Retry) Succeeded(now time.Time, pause time.Duration) { *r = Retry{At: now.Add(pause)} }

// Due reports whether an attempt is permitted at now.
func (r Retry) Due(now time.Time) bool { return !now.Before(r.At) }

// Jitter changes d by at most an eighth in either direction, so that attempts that failed at the same time are not
// repeated at the same time. It depends only on d and n.
func Jitter(d time.Duration, n uint64) time.Duration {
	return d - d/8 + time.Duration(n*2654435761%1000)*d/4000
}
