package httpapi

import (
	"hash/maphash"
	"sync"
	"time"

	"ebb/mxerr"
)

// Requests keep bodies and answers in memory. Small ones are bounded by the number of connections only, so that they cost no
// lock; the others are counted by user or homeserver, by network and in sum.
const (
	// smallBody is what of a body is not counted: more than most events need.
	smallBody = 16 << 10
	// maxBodies bounds the bytes of all bodies, maxNetworkBodies those from one network: the largest body, a transaction of
	// another server, and as much again for others there. maxRequesterBodies bounds those of one user.
	maxBodies          = 128 << 20
	maxNetworkBodies   = 64 << 20
	maxRequesterBodies = 34 << 20

	// smallAnswer is the size up to which answers are not counted.
	smallAnswer = 64 << 10
	// maxAnswers bounds the bytes of all answers that are being written, and maxNetworkAnswers and maxRequesterAnswers those
	// for one network and for one user or homeserver. A larger one is written where no other is.
	maxAnswers          = 128 << 20
	maxNetworkAnswers   = 64 << 20
	maxRequesterAnswers = 32 << 20

	// memoryPause is the Retry-After of a request for which there was no memory.
	memoryPause = 5 * time.Second
)

// Memory counts the requests of a process and what they keep in memory, whatever address they came to.
type Memory struct {
	bodies, answers account
	networks, users inFlight
}

// NewMemory returns a Memory in which nothing is counted.
func NewMemory() *Memory {
	return &Memory{
		networks: inFlight{seed: maphash.MakeSeed()}, users: inFlight{seed: maphash.MakeSeed()},
		bodies:  account{all: maxBodies, network: maxNetworkBodies, requester: maxRequesterBodies, by: map[string]int64{}},
		answers: account{all: maxAnswers, network: maxNetworkAnswers, requester: maxRequesterAnswers, by: map[string]int64{}},
	}
}

// account counts bytes of one kind.
type account struct {
	all, network, requester int64 // bounds

	// mu guards the rest; a leaf.
	mu    sync.Mutex
	total int64
	by    map[string]int64 // network or requester
}

// owner is whom bytes are counted against.
type owner struct{ network, requester string }

func (r *Request) owner() owner {
	return owner{network: "network " + r.Network(), requester: r.who()}
}

// take counts n more bytes and reports whether there was room for them. With alone, those who have nothing may take more
// than their bound.
func (a *account) take(o owner, n int64, alone bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	fits := func(held, bound int64) bool { return held+n <= bound || alone && held == 0 }
	if !fits(a.total, a.all) || !fits(a.by[o.network], a.network) || !fits(a.by[o.requester], a.requester) {
		return false
	}
	a.add(o, n)
	return true
}

// force counts n more bytes for which there may be no room.
func (a *account) force(o owner, n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.add(o, n)
}

// giveBack counts n bytes less.
func (a *account) giveBack(o owner, n int64) { a.force(o, -n) }

// add is called with mu held.
func (a *account) add(o owner, n int64) {
	a.total += n
	for _, who := range [...]string{o.network, o.requester} {
		if a.by[who] += n; a.by[who] == 0 {
			delete(a.by, who)
		}
	}
}

// holdBody counts n more bytes of the request's body, until releaseBody.
//
// Errors: M_LIMIT_EXCEEDED.
func (r *Request) holdBody(n int64) error {
	if r.held == 0 {
		r.holder = r.owner()
	}
	if !r.memory.bodies.take(r.holder, n, false) {
		return mxerr.LimitExceeded(memoryPause)
	}
	r.held += n
	return nil
}

// releaseBody forgets the body.
func (r *Request) releaseBody() {
	if r.held > 0 {
		r.memory.bodies.giveBack(r.holder, r.held)
	}
	r.body, r.held = nil, 0
}
