package httpapi

import (
	"sync"
	"time"

	"ebb/mxerr"
)

// What other servers send is kept in memory before it is known who sends it: the signature covers the body.
const (
	// maxUnsigned bounds the bytes of all such bodies, maxUnsignedNetwork those that come from one network.
	maxUnsigned        = 256 << 20
	maxUnsignedNetwork = 64 << 20
	// unsignedPause is after what time somebody may come again for whom there was no room.
	unsignedPause = 5 * time.Second
)

// unsigned counts the bytes of bodies whose signature was not checked yet, by network.
type unsigned struct {
	// mu guards the rest; a leaf.
	mu       sync.Mutex
	total    int64
	networks map[string]int64
}

// hold counts n bytes more.
//
// Errors: M_LIMIT_EXCEEDED.
func (u *unsigned) hold(network string, n int64) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.networks[network]+n > maxUnsignedNetwork || u.total+n > maxUnsigned {
		return mxerr.LimitExceeded(unsignedPause)
	}
	u.total += n
	u.networks[network] += n
	return nil
}

func (u *unsigned) release(network string, n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.total -= n
	if u.networks[network] -= n; u.networks[network] == 0 {
		delete(u.networks, network)
	}
}

// holding counts the bytes of a request's body while they are read, until the returned function is called.
func (u *unsigned) holding(r *Request) (release func()) {
	body, ok := r.Request.Body.(*boundedBody)
	if !ok {
		return func() {}
	}
	from, held := r.Network(), int64(0)
	body.hold = func(n int64) error {
		err := u.hold(from, n)
		if err == nil {
			held += n
		}
		return err
	}
	return func() { u.release(from, held) }
}
