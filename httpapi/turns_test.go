package httpapi

import (
	"context"
	"errors"
	"log/slog"
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
