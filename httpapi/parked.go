package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"ebb/telemetry"
)

// parked is a connection that was taken from net/http because its request waits. net/http keeps two goroutines, 10 KB
// of buffers and the request with its headers for each connection, about 20 KB in all. A parked connection has one
// goroutine, which only reads: it ends when the client sends or hangs up, or when wake interrupts it. Everything else
// runs on other goroutines, so that the stack of this one stays small. When the answer has been written, the connection
// stays parked until the next request begins, and then returns to net/http.
type parked struct {
	server  *Server
	lot     *lot
	request *Request // nil after the answer, like poll
	poll    Poll
	version string  // of HTTP
	last    bool    // the connection is closed after the answer
	rest    []byte  // what was read of the next request
	one     [1]byte // the buffer of read

	// mu guards the fields below; a leaf lock, which is taken in commit hooks.
	mu      sync.Mutex
	conn    net.Conn
	reading bool // read is running and may be interrupted
}

// park takes the connection of a waiting request from net/http and reports whether it could. If so, the caller must use
// neither the request nor the poll any more.
func (s *Server) park(l *lot, w http.ResponseWriter, r *Request, poll Poll) bool {
	p := &parked{server: s, lot: l, request: r, poll: poll, version: "HTTP/1.1", last: r.Close}
	if r.ProtoMinor == 0 { // as from some reverse proxies
		p.version, p.last = "HTTP/1.0", true
	}
	if !l.add(p) {
		return false
	}
	conn, rest, err := takeConn(w)
	if err != nil {
		l.remove(p)
		return false
	}
	p.mu.Lock()
	p.conn, p.rest = conn, bytes.TrimLeft(rest, "\r\n") // see maxBreak
	p.mu.Unlock()
	r.vars, r.query = nil, nil
	p.waitForNews()
	return true
}

// waitForNews makes the request wait for a wake-up. If the client has sent more already, it gets its answer now, since
// a connection from which nothing is read does not show that the client has hung up.
func (p *parked) waitForNews() {
	p.request.Request = nil
	if len(p.rest) > 0 {
		p.poll.Finish()
		go p.answer(nil)
		return
	}
	p.startReading(time.Time{})
	p.poll.Notify(p.wake)
	go p.read()
}

// startReading prepares read. From now on wake interrupts it.
func (p *parked) startReading(deadline time.Time) {
	p.mu.Lock()
	p.reading = true
	_ = p.conn.SetReadDeadline(deadline) // fails only if read will fail as well
	p.mu.Unlock()
	if p.lot.stops() {
		p.wake()
	}
}

// wake interrupts read.
func (p *parked) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reading {
		_ = p.conn.SetReadDeadline(longAgo)
	}
}

var longAgo = time.Unix(1, 0)

// maxBreak is the length of the line break that a client may send after a body. Each byte of it costs a system call.
const maxBreak = 2

// read waits for the first byte of the next request. It is all that happens on the goroutine of a parked connection.
func (p *parked) read() {
	n, err := p.conn.Read(p.one[:])
	for i := 0; i < maxBreak && n == 1 && (p.one[0] == '\r' || p.one[0] == '\n'); i++ {
		n, err = p.conn.Read(p.one[:])
	}
	go p.goOn(n == 1, err)
}

// goOn continues after read. sent says whether the client has sent a byte.
func (p *parked) goOn(sent bool, err error) {
	p.mu.Lock()
	p.reading = false
	p.mu.Unlock()
	_ = p.conn.SetReadDeadline(time.Time{}) // fails only if the connection is of no use
	if sent {
		p.rest = []byte{p.one[0]}
	}
	switch {
	case p.poll == nil && sent:
		p.giveBack()
	case p.poll == nil:
		p.close()
	case sent:
		p.poll.Finish()
		p.answer(nil)
	case errors.Is(err, os.ErrDeadlineExceeded):
		p.answer(nil)
	default:
		p.answer(fmt.Errorf("%w: %w", errHungUp, err))
	}
}

// answer continues the request: it writes the answer, or lets the request wait again if there is none. With an error,
// that is the answer.
func (p *parked) answer(failure error) {
	defer p.recover()
	s, r := p.server, p.request
	ctx := s.reading(telemetry.WithRequest(p.lot.base, r.RequestID, r.ClientAddr), r)
	r.Request = (&http.Request{Method: r.route.Method, Header: http.Header{}}).WithContext(ctx)
	w := &response{conn: p.conn, version: p.version, header: http.Header{}, last: p.last || p.lot.stops()}
	r.setHeaders(w.header)
	err := s.complete(&recorder{ResponseWriter: w, status: http.StatusOK}, r, func() (any, error) {
		if failure != nil {
			p.poll.Close()
			return nil, failure
		}
		return await(ctx, p.poll, 0, p.again)
	})
	switch {
	case err == errParked: //nolint:errorlint // never wrapped
	case failure != nil || w.flush() != nil || w.last || p.lot.stops():
		p.close()
	default:
		p.waitForRequest()
	}
}

// again makes the request wait again, unless the server stops.
func (p *parked) again() bool {
	if p.lot.stops() {
		return false
	}
	p.waitForNews()
	return true
}

// recover closes the connection after a panic, like net/http. The panic has been logged unless it is a fault in the
// code that writes the answer.
func (p *parked) recover() {
	v := recover()
	if v == nil {
		return
	}
	if v != http.ErrAbortHandler { //nolint:errorlint // the sentinel itself
		p.server.opt.Log.Error("panic while answering a parked request", "err", fmt.Errorf("panic: %v\n%s", v, debug.Stack()))
	}
	p.close()
}

// waitForRequest waits for the next request on the connection.
func (p *parked) waitForRequest() {
	p.request, p.poll = nil, nil
	if len(p.rest) > 0 {
		p.giveBack()
		return
	}
	p.startReading(time.Now().Add(idleTimeout))
	go p.read()
}

// giveBack gives the connection back to net/http.
func (p *parked) giveBack() {
	p.lot.giveBack(p.conn, p.rest)
	p.lot.remove(p)
}

func (p *parked) close() {
	_ = p.conn.Close() // there is nothing to be written
	p.lot.remove(p)
}

// abort closes the connection from another goroutine. Whatever uses it then fails.
func (p *parked) abort() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		_ = p.conn.Close()
	}
}
