package federation

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"ebb/test/process"
)

// network is a set of real processes, each behind a proxy. A server's name is the address of its proxy. The proxy
// terminates TLS, recognises the requesting server by the Authorization header, and injects faults.
type network struct {
	servers []*process.Server
	names   []string

	mu    sync.Mutex // guards the faults
	cut   map[[2]int]bool
	loss  []float64       // by server: how many of the requests to it fail, because the request or the response is lost
	delay []time.Duration // by server: the delay of its responses
}

func newNetwork(t *testing.T, n int) *network {
	t.Helper()
	binary, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &network{cut: map[[2]int]bool{}, loss: make([]float64, n), delay: make([]time.Duration, n)}
	ca := process.NewAuthority(t)
	clocks := []string{"0s", "10m", "-10m"} // offsets of the servers' clocks
	for i := range n {
		front, back := process.FreeAddress(t), process.FreeAddress(t)
		w.names = append(w.names, front)
		w.serve(t, i, front, back, ca)
		w.servers = append(w.servers, process.Start(t, binary, process.Options{
			Name: front, Wrapper: []string{"env", "EBB_TEST_CLOCK_OFFSET=" + clocks[i%len(clocks)]},
			Listen: fmt.Sprintf(", {address: %q, serve: [federation]}", back),
			Config: fmt.Sprintf("registration: {mode: open}\nrate_limits: {enabled: false}\nfederation: {enabled: true, allow_private_addresses: true, trusted_ca_file: %s}", ca.File),
		}))
	}
	return w
}

// serve runs the proxy of a server.
func (w *network) serve(t *testing.T, to int, front, back string, ca *process.Authority) {
	t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: back})
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	// Behaves as if nothing were listening.
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	l, err := tls.Listen("tcp", front, &tls.Config{Certificates: []tls.Certificate{ca.Issue(t)}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: w.faulty(to, proxy), ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }() // ends when the server is closed
	t.Cleanup(func() { _ = s.Close() })
}

func (w *network) faulty(to int, next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		cut, loss, delay := w.cut[[2]int{w.origin(r), to}], w.loss[to], w.delay[to]
		w.mu.Unlock()
		if cut || rand.Float64() < loss/2 {
			panic(http.ErrAbortHandler)
		}
		select {
		case <-time.After(delay):
		case <-r.Context().Done():
			return
		}
		if rand.Float64() < loss/2 { // the request arrives, but the response is lost
			next.ServeHTTP(discard{http.Header{}}, r)
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(rw, r)
	})
}

// origin returns the requesting server. It returns -1 if the request is not signed, which is the case for requests for
// keys.
func (w *network) origin(r *http.Request) int {
	for i, name := range w.names {
		if strings.Contains(r.Header.Get("Authorization"), fmt.Sprintf("origin=%q", name)) {
			return i
		}
	}
	return -1
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

// part disconnects two servers from each other.
func (w *network) part(a, b int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[[2]int{a, b}], w.cut[[2]int{b, a}] = true, true
}

// lose makes a share of the requests to a server fail.
func (w *network) lose(to int, share float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loss[to] = share
}

// slow delays the responses of a server.
func (w *network) slow(to int, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.delay[to] = d
}

// heal ends all faults.
func (w *network) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.cut)
	clear(w.loss)
	clear(w.delay)
}

// eventually calls f until it succeeds. It has to poll, because another process cannot notify the test.
func eventually(t *testing.T, within time.Duration, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	var last error
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %v: %v", within, last)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
