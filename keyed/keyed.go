// Package keyed holds what services keep in memory by key. All of it is bounded or goes away by itself, and none of it is
// needed for a right answer after a restart:
//
//   - Map remembers values and, when it is full, drops those that were not used for longest.
//   - Memo is a Map that loads what it does not have, once for all callers who ask for the same key.
//   - Semaphore lets a few callers at a time, or one, work on a key.
//   - Backoff and Retry say when something that failed is tried again.
//
// There is one way to invalidate: Forget (or ForgetFunc, where only the database knows the keys). It is called once the
// change is committed, before anybody is told of it. A Memo never keeps, and never returns, a value whose loading began
// before the key was forgotten, so callers need no generation numbers of their own.
//
// Eviction is by halves: new and used entries are in the younger half; when that is full, the older half is dropped and the
// halves change places. So an entry stays if it is used once while half as many others are added as the bound allows, and a
// stranger who asks for many keys displaces what nobody uses first. It costs a plain map's memory and no list.
//
// Libraries were tried and not taken. hashicorp/golang-lru v2.0.7 (2023) keeps an exact order for 115 bytes more per entry
// and ten times the time of an insertion, reads the clock itself, starts a goroutine that nothing ends for entries with a
// lifetime, and neither bounds by bytes nor loads. maypok86/otter v2.4.0 does all of that, in 14,000 lines, with a goroutine
// for each cache, 50 bytes more per entry, and evicts later, in the background: a bound is then no bound. cenkalti/backoff
// v5 has no clock to inject and keeps its state inside, while ours is partly in the database. x/sync/singleflight shares
// calls by string keys only and lets those who wait not leave; it stays where it fits (fedclient.KeyRing).
package keyed
