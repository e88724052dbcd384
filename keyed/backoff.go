package keyed

import "time"

// Backoff says how long to wait after failures in a row: First after the first one, then Factor times as long each time, up
// to Max.
type Backoff struct {
	First, Max time.Duration
	Factor     int64 // 0: 2
}

// Delay returns how long to wait if there were so many failures before the last one.
func (b Backoff) Delay(before int64) time.Duration {
	factor := time.Duration(max(b.Factor, 0))
	if factor == 0 {
		factor = 2
	}
	delay := b.First
	for range min(before, 62) {
		if delay >= b.Max/factor {
			return b.Max
		}
		delay *= factor
	}
	return min(delay, b.Max)
}

// Retry counts the failures of one thing, and knows when it may be tried again. The zero Retry may be tried at once.
type Retry struct {
	Failures int64 // in a row
	At       time.Time
}

// Failed notes a failure.
func (r *Retry) Failed(now time.Time, b Backoff) {
	r.At = now.Add(b.Delay(r.Failures))
	r.Failures++
}

// Succeeded ends a row of failures. The next try is at the earliest after pause.
func (r *Retry) Succeeded(now time.Time, pause time.Duration) { *r = Retry{At: now.Add(pause)} }

// Due reports whether it may be tried.
func (r Retry) Due(now time.Time) bool { return !now.Before(r.At) }

// Jitter spreads delays by a quarter, so that what failed together is not tried together. The same n gives the same delay.
func Jitter(d time.Duration, n uint64) time.Duration {
	return d - d/8 + time.Duration(n*2654435761%1000)*d/4000
}
