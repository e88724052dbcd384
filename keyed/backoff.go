package keyed

import "time"

// Backoff determines how long to wait after consecutive failures: First after the first one, then Factor times as long
// after each further one, up to Max.
type Backoff struct {
	First, Max time.Duration
	Factor     int64 // 0 means 2
}

// Delay returns how long to wait after a failure that was preceded by that many others.
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

// Retry counts consecutive failures and holds the time of the next permitted try. The zero Retry is due at once.
type Retry struct {
	Failures int64 // consecutive
	At       time.Time
}

// Failed records a failure at now.
func (r *Retry) Failed(now time.Time, b Backoff) {
	r.At = now.Add(b.Delay(r.Failures))
	r.Failures++
}

// Succeeded resets the count of failures. The next try is due after pause.
func (r *Retry) Succeeded(now time.Time, pause time.Duration) { *r = Retry{At: now.Add(pause)} }

// Due reports whether a try is permitted at now.
func (r Retry) Due(now time.Time) bool { return !now.Before(r.At) }

// Jitter spreads d over a quarter of its length, so that tries that failed together are not repeated together. The same
// n gives the same delay.
func Jitter(d time.Duration, n uint64) time.Duration {
	return d - d/8 + time.Duration(n*2654435761%1000)*d/4000
}
