package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
)

// slowly is a body whose first half arrives at once, and whose second half arrives when it is released.
type slowly struct {
	half  io.Reader
	ready chan<- struct{}
	rest  <-chan struct{}
}

func (s *slowly) Read(p []byte) (int, error) {
	n, err := s.half.Read(p)
	if n > 0 || err == nil {
		return n, nil
	}
	if s.ready != nil {
		s.ready <- struct{}{}
		s.ready = nil
	}
	<-s.rest
	return 0, io.EOF
}

// bodyServer returns a server that reads bodies of unauthenticated clients, of alice and of bob.
func bodyServer() *Server {
	return New(Options{
		Log: slog.New(slog.DiscardHandler),
		AuthenticateServer: func(*Request) (Signature, error) {
			return func(body []byte) (string, error) { return fmt.Sprint(len(body)), nil }, nil
		},
		Authenticate: func(_ context.Context, token string, _ *Request) (ident.Requester, error) {
			return ident.Requester{UserID: id.UserID("@" + token + ":here")}, nil
		},
		Routes: []Route{
			{Method: "PUT", Path: "/_matrix/federation/v1/send/{txnId}", Auth: Homeserver, MaxBody: 32 << 20,
				Handler: func(r *Request) (any, error) { return map[string]any{"from": r.Server}, nil }},
			{Method: "POST", Path: "/_matrix/key/v2/query", MaxBody: 32 << 20, Handler: readsBody},
			{Method: "PUT", Path: "/_matrix/client/v3/room_keys/keys", Auth: User, MaxBody: 32 << 20, Handler: readsBody},
		},
	})
}

func readsBody(r *Request) (any, error) {
	_, err := r.Body()
	return map[string]any{}, err
}

func send(t *testing.T, s *Server, method, path, token, from string, body io.Reader) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, body)
	r.RemoteAddr, r.ContentLength = from, 32<<20
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func TestUnsignedBodiesOfOneNetworkAreBounded(t *testing.T) {
	for _, path := range []struct{ method, path string }{{"PUT", "/_matrix/federation/v1/send/1"}, {"POST", "/_matrix/key/v2/query"}} {
		s := bodyServer()
		const each = 10 << 20 // reserves 16 MiB of memory
		ready, rest, ended := make(chan struct{}), make(chan struct{}), make(chan int)
		for i := range 2 {
			go func() {
				w := send(t, s, path.method, path.path, "", fmt.Sprintf("[2001:db8::%d]:1", i), &slowly{bytes.NewReader(make([]byte, each)), ready, rest})
				ended <- w.Code
			}()
			<-ready
		}
		large := func() io.Reader { return bytes.NewReader(make([]byte, 4<<20)) }
		if w := send(t, s, path.method, path.path, "", "[2001:db8::ffff]:1", large()); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: one more of the network gets %d %s", path.path, w.Code, w.Body)
		}
		if w := send(t, s, path.method, path.path, "", "[2001:db8::ffff]:1", strings.NewReader("a small one")); w.Code != http.StatusOK {
			t.Errorf("%s: a small body of the network gets %d %s", path.path, w.Code, w.Body)
		}
		if w := send(t, s, path.method, path.path, "", "198.51.100.1:1", large()); w.Code != http.StatusOK {
			t.Errorf("%s: another network gets %d %s", path.path, w.Code, w.Body)
		}
		close(rest)
		for range 2 {
			if code := <-ended; code != http.StatusOK {
				t.Errorf("%s: one of those who came first gets %d", path.path, code)
			}
		}
		if w := send(t, s, path.method, path.path, "", "[2001:db8::ffff]:1", large()); w.Code != http.StatusOK {
			t.Errorf("%s: once they are gone: %d %s", path.path, w.Code, w.Body)
		}
		if s.memory.bodies.total != 0 || len(s.memory.bodies.by) != 0 {
			t.Errorf("%d bytes of %v are still counted", s.memory.bodies.total, s.memory.bodies.by)
		}
	}
}

func TestBodiesAreBoundedPerUserPerNetworkAndInTotal(t *testing.T) {
	s := bodyServer()
	const path = "/_matrix/client/v3/room_keys/keys"
	ready, rest, ended := make(chan struct{}), make(chan struct{}), make(chan int)
	hold := func(user, from string) {
		go func() {
			ended <- send(t, s, "PUT", path, user, from, &slowly{bytes.NewReader(make([]byte, 20<<20)), ready, rest}).Code
		}()
		<-ready
	}
	code := func(user, from string) int {
		return send(t, s, "PUT", path, user, from, bytes.NewReader(make([]byte, 4<<20))).Code
	}
	hold("alice", "192.0.2.1:1") // each body reserves 32 MiB
	if got := code("alice", "198.51.100.1:1"); got != http.StatusTooManyRequests {
		t.Errorf("the same user elsewhere gets %d", got)
	}
	if got := code("bob", "192.0.2.1:1"); got != http.StatusOK {
		t.Errorf("another user in the same network gets %d", got)
	}
	hold("bob", "192.0.2.1:1")
	if got := code("carol", "192.0.2.1:1"); got != http.StatusTooManyRequests {
		t.Errorf("a third user in the same network gets %d", got)
	}
	hold("dave", "192.0.2.2:1")
	hold("erin", "192.0.2.3:1")
	if got := code("carol", "192.0.2.4:1"); got != http.StatusTooManyRequests {
		t.Errorf("when there is too much in sum, somebody gets %d", got)
	}
	if w := send(t, s, "PUT", path, "alice", "192.0.2.1:1", strings.NewReader("{}")); w.Code != http.StatusOK {
		t.Errorf("a small body gets %d", w.Code)
	}
	close(rest)
	for range 4 {
		if got := <-ended; got != http.StatusOK {
			t.Errorf("one of those who came first gets %d", got)
		}
	}
}

func TestBodyIsReadCompletely(t *testing.T) {
	for _, size := range []int{0, 1, 1023, 1024, smallBody - 1, smallBody, smallBody + 1, 100_000, 1 << 20} {
		for _, announced := range []int64{int64(size), -1} {
			sent := bytes.Repeat([]byte{'x'}, size)
			r := &Request{Request: httptest.NewRequestWithContext(t.Context(), "PUT", "/", iotest.OneByteReader(bytes.NewReader(sent))), memory: NewMemory()}
			r.ContentLength = announced
			got, err := r.Body()
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%d bytes, announced %d: %d, %v", size, announced, len(got), err)
			}
		}
	}
}

func TestReadDeadlineEndsWithTheSignedBody(t *testing.T) {
	c := &connection{ResponseRecorder: *httptest.NewRecorder()}
	s := New(Options{
		Log: slog.New(slog.DiscardHandler),
		AuthenticateServer: func(*Request) (Signature, error) {
			return func([]byte) (string, error) { return "elsewhere", nil }, nil
		},
		Routes: []Route{{Method: "PUT", Path: "/_matrix/federation/v1/send/{txnId}", Auth: Homeserver, Handler: func(*Request) (any, error) {
			if !c.read.IsZero() {
				t.Errorf("the deadline %s outlives the body: work that takes longer would be cut off", c.read)
			}
			return map[string]any{}, nil
		}}},
	})
	// EOF arrives with the last bytes, as for a body with a declared length.
	body := iotest.DataErrReader(strings.NewReader(`{"pdus":[]}`))
	s.ServeHTTP(c, httptest.NewRequestWithContext(t.Context(), "PUT", "/_matrix/federation/v1/send/1", struct{ io.Reader }{body}))
	if c.Code != http.StatusOK {
		t.Errorf("answer %d %s", c.Code, c.Body)
	}
}

// Unauthenticated clients in several networks must leave room for the bodies of authenticated requesters.
func TestBodiesOfStrangersLeaveRoomForOthers(t *testing.T) {
	m := NewMemory()
	var held []*Request
	request := func(from string, who ident.Requester) *Request {
		r := &Request{Request: httptest.NewRequestWithContext(t.Context(), "PUT", "/", nil), memory: m, ClientAddr: from, Requester: who}
		held = append(held, r)
		return r
	}
	full := false
	for i := range 10 {
		full = full || request(fmt.Sprintf("198.51.100.%d", i), ident.Requester{}).holdBody(maxNetworkBodies/2) != nil
	}
	if !full {
		t.Error("strangers may take everything")
	}
	if err := request("192.0.2.1", ident.Requester{UserID: "@alice:here"}).holdBody(maxRequesterBodies); err != nil {
		t.Errorf("a user gets %v", err)
	}
	for _, r := range held {
		r.Release()
	}
	server := request("192.0.2.2", ident.Requester{})
	server.proved = true
	for i := range 4 {
		if err := request(fmt.Sprintf("198.51.100.%d", i), ident.Requester{}).holdBody(maxStrangerBodies / 4); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.holdBody(maxRequesterBodies); err != nil {
		t.Errorf("a server that signed correctly before gets %v", err)
	}
	for _, r := range held {
		r.Release()
	}
	if m.bodies.total != 0 || len(m.bodies.by) != 0 {
		t.Errorf("%v are still counted", m.bodies.by)
	}
}
