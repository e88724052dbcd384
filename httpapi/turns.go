package httpapi

import (
	"context"
	"crypto/tls"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// turnTime is how long a request keeps its turn at most. One that takes longer waits for something other than the
// processors: for a password to be hashed, for the disk, for another server.
const turnTime = 10 * time.Millisecond

// turns lets the requests of strangers compute one after another, so that a thousand of them, of people who all open
// their sign-in page at once, are not ready to run at the same time. What becomes ready in the meantime, such as a
// message of a user, would wait behind all of them.
type turns struct {
	taken chan struct{} // a slot for each request that has its turn
}

// newTurns returns turns that leave half of the processors to others.
func newTurns() turns { return turns{make(chan struct{}, max(runtime.GOMAXPROCS(0)/2, 1))} }

// take waits for a turn, which ends when release is called, and after turnTime at the latest.
func (t turns) take(ctx context.Context) (release func(), err error) {
	select {
	case t.taken <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var once sync.Once
	end := func() { once.Do(func() { <-t.taken }) }
	timer := time.AfterFunc(turnTime, end)
	return func() {
		timer.Stop()
		end()
	}, nil
}

// turnsListener accepts the connections of a TLS listener, whose handshakes take turns too: anybody can begin a
// thousand of them at once. The server's signature in each costs about as much as a small request.
type turnsListener struct {
	net.Listener
	turns turns
}

// Accept implements net.Listener.
func (l turnsListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &turnsConn{Conn: conn, turns: l.turns}, nil
}

// turnsConn is what is below a TLS connection. A handshake keeps its turn from the ClientHello until the server's
// answer is written, or an alert. It does not keep it while the server waits for the client.
type turnsConn struct {
	net.Conn
	turns   turns
	release atomic.Pointer[func()] // ends the turn; nil: there is none
}

// awaitTurn is the tls.Config.GetConfigForClient of all listeners. It is called with the ClientHello, and leaves the
// configuration as it is.
func awaitTurn(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	c, ok := hello.Conn.(*turnsConn)
	if !ok {
		return nil, nil //nolint:nilnil // this stands for the same configuration
	}
	release, err := c.turns.take(hello.Context())
	if err == nil {
		c.release.Store(&release)
	}
	return nil, err
}

func (c *turnsConn) endTurn() {
	if c.release.Load() == nil { // as in all writes but one
		return
	}
	if release := c.release.Swap(nil); release != nil {
		(*release)()
	}
}

// Write implements net.Conn.
func (c *turnsConn) Write(b []byte) (int, error) {
	c.endTurn()
	return c.Conn.Write(b)
}

// Close implements net.Conn.
func (c *turnsConn) Close() error {
	c.endTurn()
	return c.Conn.Close()
}
