package httpapi

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
)

func TestWaitingRequestsAreBoundedPerNetworkAndUser(t *testing.T) {
	parked, over := make(chan struct{}), make(chan struct{})
	s := New(Options{
		Log: slog.New(slog.DiscardHandler), Requests: maxUserRequests + 10, Limit: func(Rate, string) time.Duration { return 0 },
		Authenticate: func(_ context.Context, token string, _ *Request) (ident.Requester, error) {
			return ident.Requester{UserID: id.UserID("@" + token + ":here")}, nil
		},
		Routes: []Route{
			{Method: "GET", Path: "/_matrix/client/v3/sync", Auth: Optional, Handler: func(*Request) (any, error) {
				parked <- struct{}{}
				<-over
				return nil, nil
			}},
			{Method: "GET", Path: "/_matrix/client/versions", Auth: Optional, Handler: func(*Request) (any, error) { return nil, nil }},
		},
	})
	ask := func(path, user, from string) int {
		r := httptest.NewRequestWithContext(t.Context(), "GET", path, nil)
		r.RemoteAddr = from
		if user != "" {
			r.Header.Set("Authorization", "Bearer "+user)
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w.Code
	}
	ended := make(chan int)
	park := func(n int, user, from string) {
		for range n {
			go func() { ended <- ask("/_matrix/client/v3/sync", user, from) }()
			<-parked
		}
	}
	park(maxUserRequests, "alice", "192.0.2.1:1")
	for _, c := range []struct {
		what, user, from string
		want             int
	}{
		{"one more of the user", "alice", "192.0.2.1:1", 429},
		{"one more of the user elsewhere", "alice", "198.51.100.1:1", 429},
		{"one of another user there", "bob", "192.0.2.1:1", 200},
		{"one of nobody there", "", "192.0.2.1:1", 200},
	} {
		if got := ask("/_matrix/client/versions", c.user, c.from); got != c.want {
			t.Errorf("%s gets %d", c.what, got)
		}
	}
	park(10, "", "192.0.2.1:1")
	if got := ask("/_matrix/client/versions", "bob", "192.0.2.1:1"); got != 429 {
		t.Errorf("one beyond those of the network gets %d", got)
	}
	if got := ask("/_matrix/client/versions", "bob", "192.0.2.2:1"); got != 200 {
		t.Errorf("one of another network gets %d", got)
	}
	close(over)
	for range maxUserRequests + 10 {
		if got := <-ended; got != 200 {
			t.Errorf("one that waited gets %d", got)
		}
	}
	for i := range s.memory.users.slots {
		if s.memory.users.slots[i].Load() != 0 || s.memory.networks.slots[i].Load() != 0 {
			t.Error("a request that was answered still counts")
		}
	}
}
