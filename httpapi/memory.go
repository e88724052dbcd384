package httpapi

import (
	"context"
	"hash/maphash"
	"net/http"
	"sync"
	"time"

	"ebb/mxerr"
)

// Requests hold their bodies and answers in memory. Small ones are bounded only by the number of connections, which
// needs no lock; large ones are counted per requester, per network and in total.
const (
	// smallBody is the part of each body that is not counted; it is enough for most events.
	smallBody = 16 << 10
	// maxBodies bounds the bytes of all bodies. maxNetworkBodies bounds those from one network: the largest body, which
	// is a transaction of another server, and as much again for other clients there. maxRequesterBodies bounds those of
	// one user. maxStrangerBodies bounds those of all strangers together. Strangers are unauthenticated requesters in
	// networks that have not sent a correctly signed request. The bound leaves room for the largest body of somebody
	// else.
	maxBodies          = 128 << 20
	maxStrangerBodies  = 92 << 20
	maxNetworkBodies   = 64 << 20
	maxRequesterBodies = 34 << 20

	// smallAnswer is the size up to which answers are not counted.
	smallAnswer = 64 << 10
	// maxAnswers bounds the bytes of all answers that are being written. maxNetworkAnswers and maxRequesterAnswers
	// bound those to one network and to one user or homeserver. An answer larger than its bound is written only if no
	// other answer is being written.
	maxAnswers          = 128 << 20
	maxNetworkAnswers   = 64 << 20
	maxRequesterAnswers = 32 << 20

	// memoryPause is the Retry-After value sent when there is no memory for a request.
	memoryPause = 5 * time.Second
	// reserveWait is how long a request waits for memory for its answer. Other servers wait a minute for the response
	// to a join.
	reserveWait = 20 * time.Second
)

// Memory counts the requests of a process, and the memory that they hold, over all listeners.
type Memory struct {
	bodies, answers account
	networks, users inFlight
	turns           turns         // of strangers
	patience        time.Duration // reserveWait; shorter in tests
}

// NewMemory returns an empty Memory.
func NewMemory() *Memory {
	return &Memory{
		turns:    newTurns(),
		networks: inFlight{seed: maphash.MakeSeed()}, users: inFlight{seed: maphash.MakeSeed()},
		bodies:  account{all: maxBodies, strangers: maxStrangerBodies, network: maxNetworkBodies, requester: maxRequesterBodies, by: map[string]int64{}},
		answers: account{all: maxAnswers, strangers: maxAnswers, network: maxNetworkAnswers, requester: maxRequesterAnswers, by: map[string]int64{}, reserving: map[string]bool{}},

		patience: reserveWait,
	}
}

// account counts the bytes of one kind, such as bodies, and bounds them.
type account struct {
	all, strangers, network, requester int64 // the bounds

	// mu guards the fields below; a leaf lock.
	mu        sync.Mutex
	total     int64
	by        map[string]int64 // bytes by network or requester
	reserving map[string]bool  // requesters with a reservation
	changed   chan struct{}    // closed when there may be more room; nil if nobody waits for it
}

// owner identifies the requester and the network against which bytes are counted.
type owner struct {
	network, requester string
	stranger           bool
}

func (r *Request) owner() owner {
	return owner{network: "network " + r.Network(), requester: r.who(), stranger: r.UserID == "" && r.Server == "" && !r.proved}
}

// strangers is the key under which all strangers are counted together.
const strangers = "strangers"

// take counts n more bytes if the bounds leave room for them, and reports whether they did. If alone is set, an owner
// that holds nothing may exceed its own bound.
func (a *account) take(o owner, n int64, alone bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.takeLocked(o, n, alone)
}

// takeLocked is like take, for a caller that holds mu.
func (a *account) takeLocked(o owner, n int64, alone bool) bool {
	fits := func(held, bound int64) bool { return held+n <= bound || alone && held == 0 }
	if o.stranger && !fits(a.by[strangers], a.strangers) {
		return false
	}
	if !fits(a.total, a.all) || !fits(a.by[o.network], a.network) || !fits(a.by[o.requester], a.requester) {
		return false
	}
	a.add(o, n)
	return true
}

// reserve counts n bytes for an answer whose size is not known yet. It waits until there is room and the requester has
// no other reservation. If ctx ends first, it returns ctx's error. The caller must call settle.
func (a *account) reserve(ctx context.Context, o owner, n int64) error {
	for {
		a.mu.Lock()
		if !a.reserving[o.requester] && a.takeLocked(o, n, true) {
			a.reserving[o.requester] = true
			a.mu.Unlock()
			return nil
		}
		if a.changed == nil {
			a.changed = make(chan struct{})
		}
		changed := a.changed
		a.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// settle replaces a reservation of n bytes by the actual size.
func (a *account) settle(o owner, n, size int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.add(o, size-n)
	delete(a.reserving, o.requester)
	a.wake()
}

// force counts n more bytes even if there is no room for them.
func (a *account) force(o owner, n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.add(o, n)
}

// giveBack subtracts n bytes from the counts of o, and lets waiting reservations try again.
func (a *account) giveBack(o owner, n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.add(o, -n)
	a.wake()
}

// wake makes waiting reservations try again. The caller must hold mu.
func (a *account) wake() {
	if a.changed != nil {
		close(a.changed)
		a.changed = nil
	}
}

// add adds n bytes to the counts of o. The caller must hold mu.
func (a *account) add(o owner, n int64) {
	a.total += n
	a.addTo(o.network, n)
	a.addTo(o.requester, n)
	if o.stranger {
		a.addTo(strangers, n)
	}
}

// addTo adds n bytes to the count of a network or requester. The caller must hold mu.
func (a *account) addTo(who string, n int64) {
	if a.by[who] += n; a.by[who] == 0 {
		delete(a.by, who)
	}
}

// held records which bytes are counted for a request. It is separate because most requests have none, so that long
// polls use less memory.
type held struct {
	body     int64
	holder   owner // the owner of the body's bytes
	answer   int64
	reserved int64 // bytes reserved for an answer that does not exist yet
	reserver owner // the owner of the bytes of answer or reserved
}

// hold returns the record of bytes counted for the request, and creates it if needed.
func (r *Request) hold() *held {
	if r.held == nil {
		r.held = &held{}
	}
	return r.held
}

// holdBody counts n more bytes of the request's body until releaseBody is called.
//
// Errors: M_LIMIT_EXCEEDED.
func (r *Request) holdBody(n int64) error {
	h := r.hold()
	if h.body == 0 {
		h.holder = r.owner()
	}
	if !r.memory.bodies.take(h.holder, n, false) {
		return mxerr.LimitExceeded(memoryPause)
	}
	h.body += n
	return nil
}

// heldBody returns how many bytes of the body are counted.
func (r *Request) heldBody() int64 {
	if r.held == nil {
		return 0
	}
	return r.held.body
}

// Release drops the body and the query. A handler that waits for long calls it as soon as it has taken from them what
// it needs, because they would otherwise stay in memory for each waiting client.
func (r *Request) Release() {
	r.releaseBody()
	r.query = nil
}

// releaseBody drops the body and stops counting it. The server calls it after every request.
func (r *Request) releaseBody() {
	if h := r.held; h != nil && h.body > 0 {
		r.memory.bodies.giveBack(h.holder, h.body)
		h.body = 0
	}
	r.body = nil
}

// ReserveAnswer counts n bytes for an answer until it is written; its actual size then replaces the reservation. It
// waits a while until there is room and no other request of the same requester has a reservation. Operations with side
// effects call it before they create an answer that may be large, because at that point the answer can be neither
// refused nor created again. Since a requester has only one reservation at a time, answers that exceed their
// reservations are created one after the other.
//
// Errors: M_LIMIT_EXCEEDED.
func (r *Request) ReserveAnswer(n int64) error {
	ctx, cancel := context.WithTimeout(r.Context(), r.memory.patience)
	defer cancel()
	whose := r.owner()
	if err := r.memory.answers.reserve(ctx, whose, n); err != nil {
		return mxerr.LimitExceeded(memoryPause).Because(err)
	}
	h := r.hold()
	h.reserved, h.reserver = n, whose
	return nil
}

// holdAnswer counts the n bytes of an answer until releaseAnswer is called. It reports whether there was room for them.
func (r *Request) holdAnswer(n int64) bool {
	if r.settleAnswer(n) || n <= smallAnswer {
		return true
	}
	whose := r.owner()
	switch {
	case r.memory.answers.take(whose, n, true):
	// A PUT has taken effect and cannot be repeated, so its answer is counted in any case. Operations with large
	// answers have a reservation.
	case r.Method == http.MethodPut:
		r.memory.answers.force(whose, n)
	default:
		return false
	}
	h := r.hold()
	h.answer, h.reserver = n, whose
	return true
}

// settleAnswer replaces the reservation for the answer by the answer's size. It reports whether there was a
// reservation.
func (r *Request) settleAnswer(size int64) bool {
	h := r.held
	if h == nil || h.reserved == 0 {
		return false
	}
	r.memory.answers.settle(h.reserver, h.reserved, size)
	h.reserved, h.answer = 0, size
	return true
}

// releaseAnswer stops counting the answer.
func (r *Request) releaseAnswer() {
	r.settleAnswer(0)
	if h := r.held; h != nil && h.answer > 0 {
		r.memory.answers.giveBack(h.reserver, h.answer)
		h.answer = 0
	}
}
