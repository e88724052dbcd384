package httpapi

import (
	"errors"
	"sync"
	"time"

	"ebb/mxerr"
)

// ErrNoKey is wrapped by the error of Options.AuthenticateServer if the headers are well-formed, but the named server had to
// be asked for its key, or was a short time ago, and did not give it.
var ErrNoKey = errors.New("the key of the server could not be fetched")

const (
	// maxUnproved bounds the work for one network whose requests are not proved to come from the server that they name,
	// in bytes of wrongly signed bodies: 64 MiB at once, which take about a second of CPU time, and 1 MiB more each second.
	maxUnproved       = 64 << 20
	unprovedPerSecond = 1 << 20
	// leastUnproved is what the smallest body counts, keyCost looking for a key, from its beginning until it is found.
	leastUnproved = 4 << 10
	keyCost       = 1 << 20
	// maxUnprovedNetworks bounds the networks that are remembered.
	maxUnprovedNetworks = 10_000
)

// unproved counts the work for requests that are not proved to come from another server, by network. What was counted is
// forgotten with time.
type unproved struct {
	now func() time.Time
	// mu guards networks; a leaf.
	mu       sync.Mutex
	networks map[string]work
}

// work is an amount of work, in bytes, that was counted at a time.
type work struct {
	bytes int64
	at    time.Time
}

func newUnproved() unproved { return unproved{now: time.Now, networks: map[string]work{}} }

// left returns what is not forgotten yet.
func (w work) left(now time.Time) int64 {
	return max(0, w.bytes-int64(now.Sub(w.at).Seconds()*unprovedPerSecond))
}

// begin counts work for a network, unless there was too much already.
//
// Errors: M_LIMIT_EXCEEDED.
func (u *unproved) begin(network string, bytes int64) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.now()
	left := u.networks[network].left(now)
	if over := left + bytes - maxUnproved; over > 0 {
		return mxerr.LimitExceeded(time.Second + time.Duration(over)*time.Second/unprovedPerSecond)
	}
	u.set(network, work{left + bytes, now})
	return nil
}

// add counts more work, or with a negative number of bytes less.
func (u *unproved) add(network string, bytes int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.now()
	u.set(network, work{max(0, u.networks[network].left(now)+bytes), now})
}

// set is called with mu held.
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

// makeRoom removes the networks of which nothing is left to count, and if that is not enough a tenth of the others. mu is
// held.
func (u *unproved) makeRoom(now time.Time) {
	for network, w := range u.networks {
		if w.left(now) == 0 {
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
