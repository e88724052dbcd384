package httpapi

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// connections counts the open connections per network, over all listeners.
type connections struct {
	most    int // maximum per network, or 0 if unbounded
	trusted []netip.Prefix
	log     *slog.Logger
	warned  atomic.Int64 // Unix time of the last warning

	// mu guards open; a leaf lock.
	mu   sync.Mutex
	open map[string]int
}

// warnInterval is the minimum time between warnings that a network has too many connections.
const warnInterval = time.Minute

// enter counts a connection and reports whether its network is within the bound. Connections from trusted proxies are
// unbounded, because a proxy forwards the requests of many clients.
func (c *connections) enter(network string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[network] >= c.most {
		return false
	}
	c.open[network]++
	return true
}

func (c *connections) leave(network string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[network]--; c.open[network] == 0 {
		delete(c.open, network)
	}
}

// warn logs that connections are being refused, at most once per warnInterval.
func (c *connections) warn(network string) {
	now := time.Now().Unix()
	if last := c.warned.Load(); now-last >= int64(warnInterval.Seconds()) && c.warned.CompareAndSwap(last, now) {
		c.log.Warn("a network has too many connections: further ones are closed; if it is a reverse proxy, name it in trusted_proxies",
			"network", network, "rate_limits.connections", c.most)
	}
}

// boundedListener closes new connections from networks that have reached their bound.
type boundedListener struct {
	net.Listener
	*connections
}

// Accept implements net.Listener.
func (l boundedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		tcp, ok := conn.(*net.TCPConn)
		if err != nil || !ok {
			return conn, err
		}
		peer, err := netip.ParseAddrPort(tcp.RemoteAddr().String())
		if err != nil || isIn(l.trusted, plain(peer.Addr())) {
			return tcp, nil //nolint:nilerr // an address of another kind is not counted
		}
		from := Network(plain(peer.Addr()).String())
		if l.enter(from) {
			return &boundedConn{TCPConn: tcp, connections: l.connections, from: from}, nil
		}
		_ = tcp.Close()
		l.warn(from)
	}
}

// boundedConn is a connection that is counted until it is closed. It embeds a TCPConn so that the kernel can send files
// (sendfile).
type boundedConn struct {
	*net.TCPConn
	connections *connections
	from        string
	closed      atomic.Bool
}

// Close implements net.Conn.
func (c *boundedConn) Close() error {
	if !c.closed.Swap(true) {
		c.connections.leave(c.from)
	}
	return c.TCPConn.Close()
}
