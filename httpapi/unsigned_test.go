package httpapi

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
)

// slowly is a body of which half has come.
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

func TestUnsignedBodiesOfOneNetworkAreBounded(t *testing.T) {
	s := New(Options{
		Log: slog.New(slog.DiscardHandler),
		AuthenticateServer: func(*Request) (Signature, error) {
			return func(body []byte) (string, error) { return fmt.Sprint(len(body)), nil }, nil
		},
		Routes: []Route{{Method: "PUT", Path: "/_matrix/federation/v1/send/{txnId}", Auth: Homeserver, MaxBody: 32 << 20,
			Handler: func(r *Request) (any, error) { return map[string]any{"from": r.Server}, nil }}},
	})
	const each = 16 << 20
	put := func(from string, body io.Reader) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), "PUT", "/_matrix/federation/v1/send/1", body)
		r.RemoteAddr, r.ContentLength = from, 32<<20
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w
	}
	ready, rest, ended := make(chan struct{}), make(chan struct{}), make(chan int)
	for i := range maxUnsignedNetwork / each {
		go func() {
			w := put(fmt.Sprintf("[2001:db8::%d]:1", i), &slowly{bytes.NewReader(make([]byte, each)), ready, rest})
			ended <- w.Code
		}()
		<-ready
	}
	if w := put("[2001:db8::ffff]:1", strings.NewReader("one more")); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
		t.Errorf("one more of the network gets %d %s", w.Code, w.Body)
	}
	if w := put("198.51.100.1:1", strings.NewReader("of another network")); w.Code != http.StatusOK {
		t.Errorf("another network gets %d %s", w.Code, w.Body)
	}
	close(rest)
	for range maxUnsignedNetwork / each {
		if code := <-ended; code != http.StatusOK {
			t.Errorf("one of those who came first gets %d", code)
		}
	}
	if w := put("[2001:db8::ffff]:1", strings.NewReader("again")); w.Code != http.StatusOK {
		t.Errorf("once they are gone: %d %s", w.Code, w.Body)
	}
	if s.unsigned.total != 0 || len(s.unsigned.networks) != 0 {
		t.Errorf("%d bytes of %d networks are still counted", s.unsigned.total, len(s.unsigned.networks))
	}
}

func TestTheDeadlineOfASignedBodyEndsWithIt(t *testing.T) {
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
	body := iotest.DataErrReader(strings.NewReader(`{"pdus":[]}`)) // the end comes with the last bytes, as where a length is declared
	s.ServeHTTP(c, httptest.NewRequestWithContext(t.Context(), "PUT", "/_matrix/federation/v1/send/1", struct{ io.Reader }{body}))
	if c.Code != http.StatusOK {
		t.Errorf("answer %d %s", c.Code, c.Body)
	}
}
