package httpapi

import (
	"errors"
	"sync"
	"time"

	"ebb/mxerr"
)

// ErrNoKey is wrapped by errors of Options.AuthenticateServer if the headers are well-formed but the key of the server
// that they name could not be fetched, now or a short time ago.
var ErrNoKey = errors.New("the key of the server could not be fetched")

const (
	// maxUnproved bounds the work that one network can cause with requests that are not proved to come from the server
	// that they name. It is measured in bytes of wrongly signed bodies: 64 MiB at once, which take about a second of
	// CPU time, and 1 MiB more each second.
	maxUnproved       = 64 << 20
	unprovedPerSecond = 1 << 20
	// leastUnproved is the least that a wrongly signed body counts. keyCost is what fetching a key counts until the key
	// has been found.
	leastUnproved = 4 << 10
	keyCost       = 1 << 20
	// maxUnprovedNetworks bounds how many networks are remembered.
	maxUnprovedNetworks = 10_000

	// maxAllUnproved bounds the wrongly signed bodies of all networks together, in bytes: 256 MiB at once, and 8 MiB
	// more each second, which take an eighth of a core. Beyond the bound, the server reads only small bodies, of at
	// most leastUnproved bytes, and bodies from networks that have sent a correctly signed request. A botnet can
	// therefore not shut out the servers that take part in the federation.
	maxAllUnproved       = 256 << 20
	allUnprovedPerSecond = 8 << 20
	// maxProved bounds how many networks are remembered for a correctly signed request, in each of two generations.
	maxProved = 10_000
)

// unproved counts the work caused by requests that are not proved to come from another server, by network and in total.
// Work is measured in bytes of bodies that have to be read and checked. The counts decay with time.
type unproved struct {
	now func() time.Time
	// mu guards the fields below; a leaf lock.
	mu       sync.Mutex
	networks map[string]work
	all      work
	// proved and provedBefore hold the networks that have sent correctly signed requests. When proved is full it
	// replaces provedBefore.
	proved, provedBefore map[string]bool
}

// work is a count of work, in bytes, as it was at the given time. It decays from then on; see left.
type work struct {
	bytes int64
	at    time.Time
}

func newUnproved() unproved {
	return unproved{now: time.Now, networks: map[string]work{}, proved: map[string]bool{}}
}

// left returns how much of the count has not decayed by now, if perSecond bytes decay in a second.
func (w work) left(now time.Time, perSecond float64) int64 {
	return max(0, w.bytes-int64(now.Sub(w.at).Seconds()*perSecond))
}

// admit returns an error if the body of a request must not be read now, because wrongly signed bodies cause too much
// work. It also reports whether the network has sent a correctly signed request before. announced is the size of the
// body, or negative if it is unknown.
//
// Errors: M_LIMIT_EXCEEDED.
func (u *unproved) admit(network string, announced int64) (proved bool, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.proved[network] || u.provedBefore[network] {
		return true, nil
	}
	if over := u.all.left(u.now(), allUnprovedPerSecond) - maxAllUnproved; over >= 0 && (announced < 0 || announced > leastUnproved) {
		return false, mxerr.LimitExceeded(memoryPause)
	}
	return false, nil
}

// failed counts a body with a wrong signature.
func (u *unproved) failed(network string, bytes int64) {
	u.add(network, bytes)
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.now()
	u.all = work{min(maxAllUnproved, u.all.left(now, allUnprovedPerSecond)+bytes), now}
}

// prove records that a network has sent a correctly signed request.
func (u *unproved) prove(network string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.proved[network] {
		return
	}
	if len(u.proved) >= maxProved {
		u.proved, u.provedBefore = map[string]bool{}, u.proved
	}
	u.proved[network] = true
}

// begin counts work for the network of a client before the work is done. It returns an error if the network has caused
// too much work already.
//
// Errors: M_LIMIT_EXCEEDED.
func (u *unproved) begin(network string, bytes int64) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.now()
	left := u.networks[network].left(now, unprovedPerSecond)
	if over := left + bytes - maxUnproved; over > 0 {
		return mxerr.LimitExceeded(time.Second + time.Duration(over)*time.Second/unprovedPerSecond)
	}
	u.set(network, work{left + bytes, now})
	return nil
}

// add adds bytes, which may be negative, to a network's work.
func (u *unproved) add(network string, bytes int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.now()
	u.set(network, work{max(0, u.networks[network].left(now, unprovedPerSecond)+bytes), now})
}

// set stores a network's work. The caller must hold mu.
func (u *unproved) set(network string, w work) {
	if w.bytes == 0 {
		delete(u.networks, network)
		return
	}
	if _, known := u.networks[network]; !known && len(u.networks) >= maxUnprovedNetworks {
		u.makeRoom(w.at)
	}
	u.networks[network] = w
}

// makeRoom removes networks whose work has decayed to nothing and, if that is not enough, a tenth of the others. The
// caller must hold mu.
func (u *unproved) makeRoom(now time.Time) {
	for network, w := range u.networks {
		if w.left(now, unprovedPerSecond) == 0 {
			delete(u.networks, network)
		}
	}
	for network := range u.networks {
		if len(u.networks) <= maxUnprovedNetworks-maxUnprovedNetworks/10 {
			return
		}
		delete(u.networks, network)
	}
}
