// Package keyed provides the structures with which services keep things in memory by key. Each structure is bounded or
// removes unused entries itself, and no correct answer after a restart depends on any of them:
//
//   - Map caches values and, when it is full, drops the least recently used ones.
//   - Memo is a Map that loads missing values, once for all callers that ask for the same key.
//   - Semaphore lets a limited number of callers work on a key at the same time.
//   - Backoff and Retry determine when something that failed is tried again.
//
// There is only one way to invalidate an entry: Forget (or ForgetFunc, if only the database has the keys). It must be
// called after the change has been committed and before others are notified of it. A Memo neither keeps nor returns a
// value that began to load before its key was forgotten, so callers need no generation numbers.
//
// Eviction works by halves. New entries and used entries are in the younger half. When that is full, the older half is
// dropped, and the younger half takes its place. Hence an entry stays if it is used again before the number of entries
// added since reaches half the bound, and a stranger who asks for many keys first displaces entries that nobody uses. A
// map with halves takes no more memory than a plain map, and needs no list.
//
// Several libraries were tried and rejected. hashicorp/golang-lru v2.0.7 (2023) keeps an exact order, which costs 115
// bytes more per entry and ten times the time per insertion. It reads the clock itself, starts a goroutine that nothing
// ends if entries have a lifetime, and neither bounds by bytes nor loads values. maypok86/otter v2.4.0 can do all of
// that, but has 14,000 lines, a goroutine per cache and 50 bytes more per entry, and it evicts later, in the
// background, so that its bound can be exceeded. cenkalti/backoff v5 does not allow a clock to be injected, and keeps
// its state inside, while part of our state is in the database. x/sync/singleflight has only string keys, and its
// waiting callers cannot leave; it is used where it fits (fedclient.KeyRing).
package keyed
