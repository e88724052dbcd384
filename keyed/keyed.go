// Package keyed provides what services keep in memory by key. Everything in it is bounded or removed by itself, and
// correct answers after a restart depend on none of it:
//
//   - Map caches values and, when it is full, drops the least recently used ones.
//   - Memo is a Map that loads missing values, once for all callers that ask for the same key.
//   - Semaphore lets a limited number of callers work on a key at the same time.
//   - Backoff and Retry determine when something that failed is tried again.
//
// There is one way to invalidate: Forget (or ForgetFunc, if only the database has the keys). It is called after the
// change is committed and before others are notified of it. A Memo never keeps, and never returns, a value whose
// loading began before the key was forgotten, so callers need no generation numbers.
//
// Eviction works by halves: new and used entries are in the younger half; when that is full, the older half is dropped
// and the halves swap. An entry therefore stays if it is used once while half as many others are added as the bound
// allows, and a stranger who asks for many keys first displaces entries that nobody uses. It costs no more memory than
// a plain map, and needs no list.
//
// Libraries were tried and rejected. hashicorp/golang-lru v2.0.7 (2023) keeps an exact order for 115 bytes more per
// entry and ten times the time of an insertion, reads the clock itself, starts a goroutine that nothing ends for
// entries with a lifetime, and neither bounds by bytes nor loads. maypok86/otter v2.4.0 does all of that, in 14,000
// lines, with a goroutine per cache and 50 bytes more per entry, and evicts later, in the background, so that its bound
// can be exceeded. cenkalti/backoff v5 does not allow a clock to be injected and keeps its state inside, while ours is
// partly in the database. x/sync/singleflight has string keys only, and its waiting callers cannot leave; it is used
// where it fits (fedclient.KeyRing).
package keyed
