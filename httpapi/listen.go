package httpapi

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// Timeouts of a connection. The transfer of bodies is bounded by patience and trickle.
const (
	readHeaderTimeout = 10 * time.Second // for clients that send the header slowly
	idleTimeout       = 2 * time.Minute  // between requests
	// Between the header of a request and the end of a small response: the longest poll and its response.
	writeTimeout   = 10 * time.Minute
	maxHeaderBytes = 64 << 10
	// maxReceived bounds what is received over an HTTP/2 connection before a handler reads it. Handlers do not read the
	// bodies of most requests that wait, and such bodies are counted nowhere. An upload is no faster than this in a
	// round trip: 5 MB a second if that takes 50 ms.
	maxReceived = 256 << 10
	// grace is how long running requests may take to finish when the server stops. It keeps a complete shutdown below
	// 10 s.
	grace = 7 * time.Second
)

// Listener describes one address on which to accept connections.
type Listener struct {
	Address string      // HOST:PORT
	TLS     *tls.Config // nil for plain HTTP
	Handler http.Handler
}

// Front is the set of all listeners of the server.
type Front struct {
	Listeners []Listener
	Log       *slog.Logger
	// Connections bounds the open connections per network; 0 means no bound. TrustedProxies are exempt.
	Connections    int
	TrustedProxies []netip.Prefix
	Ready          func(addresses []net.Addr) // called once, when all listeners accept connections
	// Drain is called when the server stops, before the server waits for running requests. It makes waiting long polls
	// return.
	Drain func()
	// ParkAfter is how long a request waits before its connection is parked (see Poll); 0 means 5 s. It is for tests.
	ParkAfter time.Duration
}

// Run accepts connections until ctx ends or a listener fails. It returns when no requests are running any more.
func (f Front) Run(ctx context.Context) error {
	open, err := f.open()
	if err != nil {
		return err
	}
	addresses := make([]net.Addr, len(open))
	for i, l := range open {
		addresses[i] = l.Addr()
	}
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	servers, lots := make([]*http.Server, len(open)), make([]*lot, len(open))
	failed := make(chan error, len(open))
	var running sync.WaitGroup
	for i, l := range open {
		lots[i] = newLot(requests, cmp.Or(f.ParkAfter, parkAfter))
		servers[i] = f.server(f.Listeners[i].Handler, context.WithValue(requests, lotKey{}, lots[i]))
		running.Go(func() { failed <- servers[i].Serve(l) })
		running.Go(func() { _ = servers[i].Serve(lots[i]) }) // ends when the server stops
	}
	if f.Ready != nil {
		f.Ready(addresses)
	}
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	f.stop(servers, lots, cancel)
	running.Wait()
	return err
}

// stop shuts the servers down gracefully, and closes them after the grace period.
func (f Front) stop(servers []*http.Server, lots []*lot, cancel func()) {
	if f.Drain != nil {
		f.Drain()
	}
	ctx, done := context.WithTimeout(context.Background(), grace)
	defer done()
	var stopping sync.WaitGroup
	for i, s := range servers {
		stopping.Go(func() {
			parked := make(chan error, 1)
			go func() { parked <- lots[i].stop(ctx) }()
			if err := errors.Join(s.Shutdown(ctx), <-parked); err != nil {
				f.Log.Warn("requests were interrupted because the server stopped", "err", err)
				cancel()
				lots[i].abort()
				_ = s.Close()
			}
		})
	}
	stopping.Wait()
}

// server returns an http.Server with timeouts that bound the cost of a connection.
func (f Front) server(h http.Handler, requests context.Context) *http.Server { //nolint:revive // the context is the base of others
	return &http.Server{
		Handler: h, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout, WriteTimeout: writeTimeout, MaxHeaderBytes: maxHeaderBytes,
		HTTP2:       &http.HTTP2Config{MaxReceiveBufferPerConnection: maxReceived, MaxReceiveBufferPerStream: maxReceived},
		BaseContext: func(net.Listener) context.Context { return requests },
		// This log receives errors that clients cause on their connections.
		ErrorLog: slog.NewLogLogger(f.Log.Handler(), slog.LevelDebug),
	}
}

// open binds all addresses. If one fails, none remains bound.
func (f Front) open() (open []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range open {
				_ = l.Close()
			}
		}
	}()
	handshakes := newTurns()
	counted := &connections{most: f.Connections, trusted: f.TrustedProxies, log: f.Log, open: map[string]int{}}
	for _, l := range f.Listeners {
		bound, err := l.open(counted, handshakes)
		if err != nil {
			return open, err
		}
		open = append(open, bound)
	}
	return open, nil
}

// Listen binds an address. Its errors include advice for the administrator.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	bound, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	advice := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		advice = ": another program listens there (ss -ltnp names it); stop it, or choose another port"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		advice = ": this machine has no such address; 0.0.0.0 and [::] stand for all that it has"
	case errors.Is(err, syscall.EACCES):
		advice = ": ports below 1024 need the capability CAP_NET_BIND_SERVICE, or a proxy in front"
	}
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, advice)
	}
	return bound, nil
}

func (l Listener) open(counted *connections, handshakes turns) (net.Listener, error) {
	bound, err := Listen(context.Background(), l.Address)
	if err != nil {
		return nil, err
	}
	if counted.most > 0 {
		bound = boundedListener{bound, counted}
	}
	if l.TLS != nil {
		config := l.TLS.Clone()
		config.GetConfigForClient = awaitTurn
		bound = tls.NewListener(turnsListener{bound, handshakes}, config)
	}
	return bound, nil
}
