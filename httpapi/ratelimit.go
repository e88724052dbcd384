package httpapi

import (
	"sync"
	"time"
)

// Bucket is a rate: PerSecond requests on average, and Burst requests at once.
type Bucket struct {
	PerSecond float64
	Burst     int
}

// Limiter is a set of token buckets, one per class and requester. It is safe for concurrent use.
type Limiter struct {
	rates map[Rate]Bucket
	now   func() time.Time

	// mu guards buckets; a leaf lock.
	mu      sync.Mutex
	buckets map[bucketKey]bucket
}

type bucketKey struct {
	class Rate
	who   string
}

type bucket struct {
	tokens float64
	at     time.Time
}

// maxBuckets bounds the memory of a limiter. Beyond it, full buckets are dropped.
const maxBuckets = 100_000

// NewLimiter returns a limiter. Classes without a rate are unlimited.
func NewLimiter(rates map[Rate]Bucket, now func() time.Time) *Limiter {
	return &Limiter{rates: rates, now: now, buckets: map[bucketKey]bucket{}}
}

// Limit takes a token and returns 0. If there is no token, it returns how long to wait for one.
func (l *Limiter) Limit(class Rate, who string) time.Duration {
	rate, limited := l.rates[class]
	if !limited || rate.PerSecond <= 0 {
		return 0
	}
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	key := bucketKey{class, who}
	b, known := l.buckets[key]
	if !known {
		l.makeRoom(now)
		b = bucket{tokens: float64(rate.Burst), at: now}
	}
	b.tokens = min(b.tokens+rate.PerSecond*max(now.Sub(b.at).Seconds(), 0), float64(rate.Burst))
	b.at = now
	wait := time.Duration(0)
	if b.tokens >= 1 {
		b.tokens--
	} else {
		wait = time.Duration((1 - b.tokens) / rate.PerSecond * float64(time.Second))
	}
	l.buckets[key] = b
	return wait
}

// Return gives back a token that was taken by Limit, for a request that turned out not to count.
func (l *Limiter) Return(class Rate, who string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := bucketKey{class, who}
	if b, known := l.buckets[key]; known {
		b.tokens = min(b.tokens+1, float64(l.rates[class].Burst))
		l.buckets[key] = b
	}
}

// makeRoom drops the buckets that are full again, because a new bucket is full too. If less than a tenth of the space
// is free after that, it drops arbitrary others: in a flood of clients, 10,000 insertions then follow each scan.
func (l *Limiter) makeRoom(now time.Time) {
	if len(l.buckets) < maxBuckets {
		return
	}
	for key, b := range l.buckets {
		rate := l.rates[key.class]
		if b.tokens+rate.PerSecond*now.Sub(b.at).Seconds() >= float64(rate.Burst) {
			delete(l.buckets, key)
		}
	}
	for key := range l.buckets {
		if len(l.buckets) <= maxBuckets-maxBuckets/10 {
			return
		}
		delete(l.buckets, key)
	}
}
