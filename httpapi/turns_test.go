package httpapi

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"ebb/ident"
)

func TestStrangersTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tu := turns{make(chan struct{}, 1)}
		first, err := tu.take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		second, err := tu.take(t.Context())
		if waited := time.Since(start); err != nil || waited != turnTime {
			t.Errorf("a turn that somebody keeps is free after %s, %v", waited, err)
		}
		first() // too late: the turn is somebody else's
		gone, hangUp := context.WithCancel(t.Context())
		hangUp()
		if _, err := tu.take(gone); !errors.Is(err, context.Canceled) {
			t.Errorf("a client that has hung up: %v", err)
		}
		second()
		start = time.Now()
		third, err := tu.take(t.Context())
		if waited := time.Since(start); err != nil || waited != 0 {
			t.Errorf("a turn that is over is free after %s, %v", waited, err)
		}
		third()
	})
}

// Requests of users, and those that cost nothing, never wait for a turn.
func TestOnlyStrangersTakeTurns(t *testing.T) {
	ok := func(*Request) (any, error) { return map[string]any{}, nil }
	s := New(Options{
		Routes: []Route{
			{Method: "POST", Path: "/login", Rate: Anonymous, Auth: Optional, Handler: ok},
			{Method: "GET", Path: "/versions", Handler: ok},
		},
		Authenticate: func(context.Context, string, *Request) (ident.Requester, error) {
			return ident.Requester{UserID: "@alice:example.org"}, nil
		},
		Log: slog.New(slog.DiscardHandler),
	})
	for _, c := range []struct {
		method, path, token string
		waits               bool
	}{{"GET", "/versions", "", false}, {"GET", "/health", "", false}, {"POST", "/login", "token", false}, {"POST", "/login", "", true}} {
		synctest.Test(t, func(t *testing.T) {
			s.memory.turns = turns{make(chan struct{})} // there is never one
			ctx, end := context.WithTimeout(t.Context(), time.Second)
			defer end()
			r := httptest.NewRequestWithContext(ctx, c.method, c.path, nil)
			if c.token != "" {
				r.Header.Set("Authorization", "Bearer "+c.token)
			}
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if waited := ctx.Err() != nil; waited != c.waits || !waited && w.Code != http.StatusOK {
				t.Errorf("%s %s with the token %q: waited %v, %d", c.method, c.path, c.token, waited, w.Code)
			}
		})
	}
}

// A handshake waits for a turn, and gives it back when its part is computed, also if it fails: otherwise a hundred
// malformed ones a second would keep everybody else from connecting.
func TestHandshakesTakeTurns(t *testing.T) {
	cert, key := writeCertificate(t, t.TempDir(), 1, time.Now())
	c, err := NewCertificate(cert, key, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	config := c.TLS()
	config.GetConfigForClient = awaitTurn
	tu := turns{make(chan struct{}, 1)}
	// handshake lets a client of a version of TLS complete a handshake. It returns an error if the server gives up
	// waiting for a turn.
	handshake := func(ctx context.Context, version uint16) error {
		ours, theirs := net.Pipe()
		defer ours.Close()
		defer theirs.Close()
		client := tls.Client(theirs, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
		go func() { _ = client.HandshakeContext(t.Context()) }() // ends when the pipe is closed
		return tls.Server(&turnsConn{Conn: ours, turns: tu}, config).HandshakeContext(ctx)
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		tu.taken <- struct{}{} // somebody keeps the turn
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := handshake(ctx, version); err == nil {
			t.Errorf("version %x: a handshake does not wait for its turn", version)
		}
		cancel()
		<-tu.taken
		for range 3 {
			if err := handshake(t.Context(), version); err != nil || len(tu.taken) != 0 {
				t.Errorf("version %x: %v; %d turns are left over", version, err, len(tu.taken))
			}
		}
	}
	if err := handshake(t.Context(), tls.VersionTLS10); err == nil || len(tu.taken) != 0 { // it is refused with an alert
		t.Errorf("an old version: %v; %d turns are left over", err, len(tu.taken))
	}
}
