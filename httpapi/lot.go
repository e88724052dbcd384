package httpapi

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// parkAfter is how long a request waits before its connection is parked. Parking a connection and giving it back takes
// about 12 µs of CPU time, so all of it takes at most 0.3 % of a processor for 1,000 clients. Requests that are woken
// more often, in busy rooms, cost nothing more.
const parkAfter = 5 * time.Second

// lot holds the connections that were taken from an http.Server while their requests wait. It is also the listener
// through which the server gets them back.
type lot struct {
	after time.Duration // parkAfter; shorter in tests
	base  context.Context
	back  chan net.Conn

	closing sync.Once
	closed  chan struct{} // closed when the server takes no connections back

	// mu guards the fields below; a leaf lock.
	mu       sync.Mutex
	all      map[*parked]struct{}
	stopping bool
	empty    chan struct{} // closed when stopping is set and all is empty
}

// newLot returns a lot whose requests have the given context.
func newLot(base context.Context, after time.Duration) *lot {
	return &lot{after: after, base: base, back: make(chan net.Conn), closed: make(chan struct{}), all: map[*parked]struct{}{}, empty: make(chan struct{})}
}

type lotKey struct{}

// lotOf returns the lot in which the connection of a waiting request can be parked, or nil if it must stay where it is.
// A connection can be parked if it serves one request at a time, and has been read to the end of the request.
func lotOf(r *Request) *lot {
	if r.ProtoMajor != 1 || r.ContentLength != 0 && !r.bodyEnded || r.Method != r.route.Method || r.route.Page {
		return nil
	}
	l, _ := r.Context().Value(lotKey{}).(*lot)
	return l
}

// add adds a connection, unless the server stops.
func (l *lot) add(p *parked) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.stopping {
		l.all[p] = struct{}{}
	}
	return !l.stopping
}

func (l *lot) remove(p *parked) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.all, p)
	l.checkEmpty()
}

// checkEmpty closes l.empty when the last connection is gone. The caller must hold mu.
func (l *lot) checkEmpty() {
	if !l.stopping || len(l.all) > 0 {
		return
	}
	select {
	case <-l.empty:
	default:
		close(l.empty)
	}
}

// stops reports whether the server stops.
func (l *lot) stops() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stopping
}

// stop makes the parked requests return their answers, and waits until all connections are closed or ctx ends.
func (l *lot) stop(ctx context.Context) error {
	l.mu.Lock()
	l.stopping = true
	l.checkEmpty()
	l.mu.Unlock()
	for _, p := range l.list() {
		p.wake()
	}
	select {
	case <-l.empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// abort closes the connections that are still parked.
func (l *lot) abort() {
	for _, p := range l.list() {
		p.abort()
	}
}

func (l *lot) list() []*parked {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*parked, 0, len(l.all))
	for p := range l.all {
		all = append(all, p)
	}
	return all
}

// giveBack lets the server serve a connection, on which first was read already.
func (l *lot) giveBack(conn net.Conn, first []byte) {
	returned := &returnedConn{Conn: conn, first: first}
	conn = returned
	if secure, ok := returned.Conn.(*tls.Conn); ok {
		conn = &returnedTLS{returned, secure}
	}
	select {
	case l.back <- conn:
	case <-l.closed:
		_ = conn.Close()
	}
}

// Accept implements net.Listener.
func (l *lot) Accept() (net.Conn, error) {
	select {
	case conn := <-l.back:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It does not close the connections.
func (l *lot) Close() error {
	l.closing.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener. The server does not use it.
func (l *lot) Addr() net.Addr { return &net.TCPAddr{} }

// returnedConn is a connection that was parked. It begins with the bytes that were read meanwhile.
type returnedConn struct {
	net.Conn
	first []byte
}

// Read implements net.Conn.
func (c *returnedConn) Read(p []byte) (int, error) {
	if len(c.first) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.first)
	if c.first = c.first[n:]; len(c.first) == 0 {
		c.first = nil
	}
	return n, nil
}

// ReadFrom implements io.ReaderFrom, so that the kernel can send files (sendfile).
func (c *returnedConn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// CloseWrite lets net/http end a connection so that the client can still read the last response.
func (c *returnedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// returnedTLS is a returnedConn over TLS. By its method ConnectionState net/http sees that requests are encrypted.
type returnedTLS struct {
	*returnedConn
	secure *tls.Conn
}

// ConnectionState returns the state of the TLS connection.
func (c *returnedTLS) ConnectionState() tls.ConnectionState { return c.secure.ConnectionState() }

// takeConn takes the connection of a request from net/http. rest is what was read of the next request.
func takeConn(w http.ResponseWriter) (conn net.Conn, rest []byte, err error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if n := buffered.Reader.Buffered(); n > 0 {
		read, _ := buffered.Reader.Peek(n) // never fails: n bytes are there
		rest = append(rest, read...)
	}
	var returned *returnedConn
	switch c := conn.(type) {
	case *returnedConn:
		returned = c
	case *returnedTLS:
		returned = c.returnedConn
	default:
		return conn, rest, nil
	}
	return returned.Conn, append(rest, returned.first...), nil
}
