package httpapi

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"ebb/mxerr"
)

// testPoll is a poll whose news the test makes.
type testPoll struct {
	secure  bool // the request came over TLS
	c       chan struct{}
	stopped <-chan struct{}
	waiting chan struct{} // closed when the request waits on its goroutine, without a limit
	parked  chan struct{} // closed when the request is parked
	closed  chan struct{}

	mu       sync.Mutex
	final    bool
	answer   func() (any, error) // nil: nothing yet
	notify   func()
	notified int
}

func (p *testPoll) Answer(context.Context) (any, error) {
	select {
	case <-p.c:
	default:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.answer != nil:
		return p.answer()
	case p.final:
		return json.RawMessage(`{"final":true}`), nil
	}
	return nil, nil //nolint:nilnil // as Poll says
}

func (p *testPoll) Wait(ctx context.Context, most time.Duration) (bool, error) {
	var passed <-chan time.Time
	if most > 0 {
		passed = time.After(most)
	} else {
		close(p.waiting)
	}
	select {
	case <-p.c:
	case <-passed:
		return false, nil
	case <-p.stopped:
		p.Finish()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	return true, nil
}

func (p *testPoll) Notify(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.notified++; p.notified == 1 {
		close(p.parked)
	}
	if len(p.c) == 0 {
		p.notify = f
		return
	}
	f()
}

func (p *testPoll) Finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.final = true
}

func (p *testPoll) Close() { close(p.closed) } // panics if called twice

// wake wakes the poll, which then has the given answer; nil for none.
func (p *testPoll) wake(answer func() (any, error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
	select {
	case p.c <- struct{}{}:
	default:
	}
	if p.notify != nil {
		p.notify()
		p.notify = nil
	}
}

// with returns an answer.
func with(body string) func() (any, error) {
	return func() (any, error) { return json.RawMessage(body), nil }
}

// polling is a server whose requests for /poll wait.
type polling struct {
	t       *testing.T
	server  *Server
	address string
	polls   chan *testPoll
	stop    func() error
}

func newPolling(t *testing.T, after time.Duration, config *tls.Config) *polling {
	t.Helper()
	p := &polling{t: t, polls: make(chan *testPoll, 1000)}
	stopped := make(chan struct{})
	poll := func(r *Request) (any, error) {
		if _, err := r.Body(); err != nil {
			return nil, err
		}
		next := &testPoll{secure: r.TLS != nil, stopped: stopped, c: make(chan struct{}, 1), waiting: make(chan struct{}), parked: make(chan struct{}), closed: make(chan struct{})}
		p.polls <- next
		return next, nil
	}
	p.server = New(Options{Log: slog.New(slog.DiscardHandler), Requests: 10_000, Routes: []Route{
		{Method: "GET", Path: "/poll", Handler: poll}, {Method: "POST", Path: "/poll", Handler: poll},
		{Method: "GET", Path: "/now", Handler: func(*Request) (any, error) { return json.RawMessage(`{"now":true}`), nil }},
	}})
	addresses, stop := run(t, Front{
		Listeners: []Listener{{Address: "127.0.0.1:0", TLS: config, Handler: p.server}}, Connections: 10_000, ParkAfter: after, Drain: func() { close(stopped) },
	})
	p.address, p.stop = addresses[0].String(), stop
	return p
}

// next returns the poll of the next request that arrives.
func (p *polling) next() *testPoll {
	p.t.Helper()
	select {
	case next := <-p.polls:
		return next
	case <-time.After(10 * time.Second):
		p.t.Fatal("no request arrived")
		return nil
	}
}

// nextParked returns the poll of the next request when its connection is parked.
func (p *polling) nextParked() *testPoll {
	p.t.Helper()
	next := p.next()
	await1(p.t, "the request is parked", next.parked)
	return next
}

func await1(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatalf("it never happened that %s", what)
	}
}

// running returns how many requests count as running, in all networks.
func (p *polling) running() (n int) {
	for i := range p.server.memory.networks.slots {
		n += int(p.server.memory.networks.slots[i].Load())
	}
	return n
}

// raw is a client that writes what it likes.
type raw struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

func (p *polling) dial() *raw {
	p.t.Helper()
	conn, err := net.Dial("tcp", p.address)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	return &raw{p.t, conn, bufio.NewReader(conn)}
}

func (c *raw) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

const (
	askPoll = "GET /poll HTTP/1.1\r\nHost: x\r\n\r\n"
	askNow  = "GET /now HTTP/1.1\r\nHost: x\r\n\r\n"
)

func (c *raw) read() (*http.Response, string) {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp, string(body)
}

// want reads a response with status 200 and the given body.
func (c *raw) want(body string) {
	c.t.Helper()
	if resp, got := c.read(); resp.StatusCode != 200 || got != body {
		c.t.Fatalf("the response is %s %s, want %s", resp.Status, got, body)
	}
}

// ended reports whether the server has closed the connection.
func (c *raw) ended() bool {
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, err := c.in.ReadByte()
	return errors.Is(err, io.EOF)
}

func TestConnectionOfAParkedRequestServesTheNextRequests(t *testing.T) {
	p := newPolling(t, time.Millisecond, nil)
	c := p.dial()
	c.send(askNow)
	usual, _ := c.read()
	for i := range 20 {
		c.send(askPoll)
		poll := p.nextParked()
		if p.running() != 1 {
			t.Fatal("a parked request does not count as running")
		}
		poll.wake(nil) // nothing for this client
		body := fmt.Sprintf(`{"n":%d}`, i)
		poll.wake(with(body))
		resp, got := c.read()
		if got != body || resp.StatusCode != 200 || resp.Proto != "HTTP/1.1" || resp.Close {
			t.Fatalf("%+v %s", resp, got)
		}
		for name := range usual.Header {
			if resp.Header.Get(name) == "" || name != "Content-Length" && name != "Date" && name != "X-Request-Id" && resp.Header.Get(name) != usual.Header.Get(name) {
				t.Errorf("the header %s is %q, want one like %q", name, resp.Header.Get(name), usual.Header.Get(name))
			}
		}
		if len(resp.Header) != len(usual.Header) {
			t.Errorf("headers %v, want those of %v", resp.Header, usual.Header)
		}
		await1(t, "the poll is closed", poll.closed)
		if i%3 == 0 {
			c.send(askNow)
			c.want(`{"now":true}`)
		}
	}
	eventually(t, "no request is running", func() bool { return p.running() == 0 })
}

func TestParkedRequestWithABodyIsAnswered(t *testing.T) {
	p := newPolling(t, time.Millisecond, nil)
	for name, request := range map[string]string{
		"with its length":             "POST /poll HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
		"in chunks":                   "POST /poll HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"with a line break behind it": "POST /poll HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := p.dial()
			for range 2 {
				c.send(request)
				p.nextParked().wake(with(`{"a":1}`))
				c.want(`{"a":1}`)
			}
		})
	}
}

func TestClientThatSendsMoreGetsItsAnswerAtOnce(t *testing.T) {
	p := newPolling(t, time.Millisecond, nil)
	c := p.dial()
	c.send(askPoll + askNow + askPoll) // read with the first request
	c.want(`{"final":true}`)
	c.want(`{"now":true}`)
	_, second := p.next(), p.nextParked()
	c.send(askNow)
	c.want(`{"final":true}`)
	c.want(`{"now":true}`)
	await1(t, "the poll is closed", second.closed)
}

func TestLineBreakBehindABodyIsNoRequest(t *testing.T) {
	p := newPolling(t, time.Millisecond, nil)
	c := p.dial()
	for range 2 {
		c.send("POST /poll HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
		poll := p.nextParked()
		c.send("\r\n")
		poll.wake(nil)
		poll.wake(with(`{"a":1}`))
		c.want(`{"a":1}`)
	}
	c.send(askPoll)
	p.nextParked()
	c.send("\n\n\n\n") // each byte of a flood would cost a system call
	c.want(`{"final":true}`)
}

func TestClientThatHangsUpEndsItsParkedRequest(t *testing.T) {
	p := newPolling(t, time.Millisecond, nil)
	before := runtime.NumGoroutine()
	var polls []*testPoll
	for range 20 {
		c := p.dial()
		c.send(askPoll)
		polls = append(polls, p.nextParked())
		c.Close()
	}
	for _, poll := range polls {
		await1(t, "the poll is closed", poll.closed)
		poll.wake(with(`{}`)) // nobody is there any more
	}
	eventually(t, "no request is running, and no goroutine is left", func() bool { return p.running() == 0 && runtime.NumGoroutine() <= before })
	if err := p.stop(); err != nil {
		t.Error(err)
	}
}

// eventually waits until f returns true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("it never happened that %s", what)
		}
	}
}

func TestConnectionThatServesOneRequestIsClosedAfterIt(t *testing.T) {
	p := newPolling(t, time.Millisecond, nil)
	for name, request := range map[string]string{
		"HTTP/1.0":                   "GET /poll HTTP/1.0\r\n\r\n",
		"HTTP/1.0 with a keep-alive": "GET /poll HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
		"Connection: close":          "GET /poll HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := p.dial()
			c.send(request)
			p.nextParked().wake(with(`{"a":1}`))
			resp, body := c.read()
			if resp.StatusCode != 200 || body != `{"a":1}` || !resp.Close || !strings.Contains(request, resp.Proto) {
				t.Errorf("%+v %s", resp, body)
			}
			if !c.ended() {
				t.Error("the connection is still open")
			}
		})
	}
}

func TestOtherRequestsWaitWhereTheyAre(t *testing.T) {
	p := newPolling(t, time.Millisecond, nil)
	for name, request := range map[string]string{
		"HEAD":                        "HEAD /poll HTTP/1.1\r\nHost: x\r\n\r\n",
		"HEAD after a parked request": askPoll + "HEAD /poll HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := p.dial()
			c.send(request)
			if strings.HasPrefix(request, askPoll) {
				c.want(`{"final":true}`)
				p.next()
			}
			poll := p.next()
			await1(t, "the request waits", poll.waiting)
			poll.wake(with(`{"a":1}`))
			resp, err := http.ReadResponse(c.in, &http.Request{Method: request[:4]})
			if err != nil || resp.StatusCode != 200 {
				t.Fatal(resp, err)
			}
			select {
			case <-poll.parked:
				t.Error("it was parked")
			default:
			}
		})
	}
}

func TestTLSConnectionIsParked(t *testing.T) {
	cert, key := writeCertificate(t, t.TempDir(), 1, time.Now())
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	p := newPolling(t, time.Millisecond, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12})
	conn, err := tls.Dial("tcp", p.address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := &raw{t, conn, bufio.NewReader(conn)}
	for range 5 {
		c.send(askPoll)
		poll := p.nextParked()
		if !poll.secure {
			t.Error("the request does not count as encrypted")
		}
		poll.wake(nil)
		large := `{"a":"` + strings.Repeat("x", 300_000) + `"}`
		poll.wake(with(large))
		c.want(large)
		c.send(askNow)
		c.want(`{"now":true}`)
	}
}

func TestHTTP2RequestsWaitWhereTheyAre(t *testing.T) {
	cert, key := writeCertificate(t, t.TempDir(), 1, time.Now())
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	p := newPolling(t, time.Millisecond, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12})
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	answers := make(chan string, 1)
	go func() {
		body, err := get(t, client, "https://"+p.address+"/poll")
		answers <- fmt.Sprint(body, err)
	}()
	poll := p.next()
	await1(t, "the request waits", poll.waiting)
	poll.wake(with(`{"a":1}`))
	if got := <-answers; got != `HTTP/2.0 {"a":1}<nil>` {
		t.Error(got)
	}
}

func TestStopAnswersParkedRequestsAndClosesTheirConnections(t *testing.T) {
	p := newPolling(t, time.Millisecond, nil)
	waiting, idle := p.dial(), p.dial()
	waiting.send(askPoll)
	p.nextParked()
	idle.send(askPoll)
	p.nextParked().wake(with(`{}`))
	idle.want(`{}`)
	began := time.Now()
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > grace/2 {
		t.Errorf("it took %v to stop", took)
	}
	resp, body := waiting.read()
	if body != `{"final":true}` || !resp.Close {
		t.Errorf("%+v %s", resp, body)
	}
	if !waiting.ended() || !idle.ended() {
		t.Error("a connection is still open")
	}
}

func TestErrorsAndPanicsOfParkedRequestsBecomeResponses(t *testing.T) {
	p := newPolling(t, time.Millisecond, nil)
	c := p.dial()
	for _, answer := range []struct {
		f      func() (any, error)
		status int
		code   string
	}{
		{func() (any, error) { panic("secret") }, 500, "M_UNKNOWN"},
		{func() (any, error) { return nil, mxerr.UnknownToken(false) }, 401, "M_UNKNOWN_TOKEN"},
		{func() (any, error) { return nil, errors.New("secret") }, 500, "M_UNKNOWN"},
	} {
		c.send(askPoll)
		poll := p.nextParked()
		poll.wake(answer.f)
		resp, body := c.read()
		if resp.StatusCode != answer.status || !strings.Contains(body, answer.code) || strings.Contains(body, "secret") {
			t.Errorf("%s %s, want %d %s", resp.Status, body, answer.status, answer.code)
		}
		await1(t, "the poll is closed", poll.closed)
	}
	c.send(askPoll)
	p.nextParked().wake(func() (any, error) {
		return Stream(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "begun")
			panic("secret")
		}), nil
	})
	if _, err := io.ReadAll(c.in); err != nil { // ends because the server closes the connection
		t.Error(err)
	}
	eventually(t, "no request is running", func() bool { return p.running() == 0 })
}

// slowConn is a connection that accepts everything and records the write deadline.
type slowConn struct {
	net.Conn
	deadline time.Time
	written  int
}

func (c *slowConn) Write(p []byte) (int, error) {
	c.written += len(p)
	return len(p), nil
}

func (c *slowConn) SetWriteDeadline(t time.Time) error {
	c.deadline = t
	return nil
}

func TestAnswerOfAParkedRequestMustBeReadInTime(t *testing.T) {
	for size, allowed := range map[int]time.Duration{100: patience, 80 << 10: patience + 10*time.Second} {
		conn := &slowConn{}
		w := &response{conn: conn, version: "HTTP/1.1", header: http.Header{}}
		writeRaw(&recorder{ResponseWriter: w}, Raw{Body: make([]byte, size)})
		if err := w.flush(); err != nil || conn.written < size {
			t.Fatal(err, conn.written)
		}
		if left := time.Until(conn.deadline); left > allowed || left < allowed-5*time.Second {
			t.Errorf("a client may take %v to read %d bytes, want about %v", left, size, allowed)
		}
	}
}

func TestParkedClientsNeedLittleMemory(t *testing.T) {
	parked, usual := waitingClient(t, time.Nanosecond), waitingClient(t, time.Hour)
	t.Logf("%d bytes for each client, %d if it is not parked", parked, usual)
	if parked > usual/2 { // half of it belongs to the client and the test
		t.Errorf("a parked client takes %d bytes of memory, want less than half of the %d of one that is not parked", parked, usual)
	}
}

// waitingClient returns how much memory a waiting client takes, with what it takes itself.
func waitingClient(t *testing.T, after time.Duration) int64 {
	const clients = 400
	p := newPolling(t, after, nil)
	used := func() int64 {
		for range 3 { // pools keep what they hold for two collections
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc + m.StackInuse)
	}
	conns, polls := make([]*raw, clients), make([]*testPoll, clients)
	before := used()
	for i := range conns {
		c := p.dial()
		c.in = nil
		c.send(askPoll)
		conns[i], polls[i] = c, p.next()
		if after < time.Hour {
			await1(t, "the request is parked", polls[i].parked)
		}
	}
	each := (used() - before) / clients
	for i, c := range conns {
		c.in = bufio.NewReader(c)
		polls[i].wake(with(`{}`))
		c.want(`{}`)
	}
	return each
}

func TestParkingAndWakingAtTheSameTimeLosesNothing(t *testing.T) {
	p := newPolling(t, time.Nanosecond, nil)
	var clients, wakers sync.WaitGroup
	over := make(chan struct{})
	for range 4 {
		wakers.Go(func() {
			for {
				select {
				case poll := <-p.polls:
					poll.wake(nil)
					poll.wake(with(`{"a":1}`))
					poll.wake(with(`{"a":1}`))
				case <-over:
					return
				}
			}
		})
	}
	for i := range 8 {
		c := p.dial()
		clients.Go(func() {
			for n := range 100 {
				if n%10 == 9 && i%2 == 0 { // hangs up while it is being woken
					c.send(askPoll)
					c.Close()
					c = p.dial()
				}
				c.send(askPoll)
				c.want(`{"a":1}`)
			}
		})
	}
	clients.Wait()
	eventually(t, "no request is running", func() bool { return p.running() == 0 })
	close(over)
	wakers.Wait()
	if err := p.stop(); err != nil {
		t.Error(err)
	}
}
