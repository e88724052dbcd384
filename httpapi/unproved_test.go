package httpapi

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"ebb/mxerr"
)

// doorOf returns a server with one operation for other servers, and a function that sends requests to it.
func doorOf(authenticate func(*Request) (Signature, error)) (s *Server, put func(from string, body io.Reader) int) {
	s = New(Options{
		Log:                slog.New(slog.DiscardHandler),
		AuthenticateServer: authenticate,
		Routes: []Route{{Method: "PUT", Path: "/_matrix/federation/v1/send/{txnId}", Auth: Homeserver, MaxBody: 32 << 20,
			Handler: func(*Request) (any, error) { return map[string]any{}, nil }}},
	})
	return s, func(from string, body io.Reader) int {
		r := httptest.NewRequest("PUT", "/_matrix/federation/v1/send/1", body)
		r.RemoteAddr = from
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w.Code
	}
}

var errUnsigned = mxerr.New(401, mxerr.CodeUnauthorized, "not signed")

type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body is read")
	return 0, io.EOF
}

func TestBodyIsReadOnlyAfterHeadersPass(t *testing.T) {
	_, put := doorOf(func(*Request) (Signature, error) { return nil, errUnsigned })
	if code := put("198.51.100.1:1", unread{t}); code != 401 {
		t.Errorf("answer %d", code)
	}
}

func TestWronglySignedBodiesOfOneNetworkAreBounded(t *testing.T) {
	clock, checked := time.Unix(1e9, 0), 0
	good := false
	s, put := doorOf(func(*Request) (Signature, error) {
		return func([]byte) (string, error) {
			checked++
			if good {
				return "good.test", nil
			}
			return "", errUnsigned
		}, nil
	})
	s.unproved.now = func() time.Time { return clock }
	body := make([]byte, 8<<20)
	code := 0
	for range 20 {
		if code = put("198.51.100.1:1", bytes.NewReader(body)); code == 429 {
			break
		}
	}
	if code != 429 || checked > maxUnproved/len(body) {
		t.Errorf("%d bodies of %d bytes are checked, then the answer is %d", checked, len(body), code)
	}
	if code := put("198.51.100.2:1", strings.NewReader("small")); code != 401 {
		t.Errorf("another network gets %d", code)
	}
	clock = clock.Add(10 * time.Second)
	if code := put("198.51.100.1:1", bytes.NewReader(body)); code != 401 {
		t.Errorf("after ten seconds: %d", code)
	}
	good, clock = true, clock.Add(time.Second*maxUnproved/unprovedPerSecond)
	for range 20 {
		if code := put("198.51.100.1:1", bytes.NewReader(body)); code != 200 {
			t.Errorf("well signed: %d", code)
		}
	}
	if len(s.unproved.networks) != 1 {
		t.Errorf("%d networks are remembered", len(s.unproved.networks))
	}
}

func TestKeyFetchesAreBoundedPerNetwork(t *testing.T) {
	clock, asked := time.Unix(1e9, 0), 0
	s, put := doorOf(func(*Request) (Signature, error) {
		asked++
		return nil, errUnsigned.Because(fmt.Errorf("%w: of nobody.test", ErrNoKey))
	})
	s.unproved.now = func() time.Time { return clock }
	for range 1000 {
		put("198.51.100.1:1", nil)
	}
	if asked != maxUnproved/keyCost {
		t.Errorf("%d keys are looked for", asked)
	}
	clock = clock.Add(5 * time.Second)
	for range 1000 {
		put("198.51.100.1:1", nil)
	}
	if more := asked - maxUnproved/keyCost; more != 5*unprovedPerSecond/keyCost {
		t.Errorf("%d more keys are looked for in five seconds", more)
	}
}

func TestNetworksWithUnprovedRequestsAreBounded(t *testing.T) {
	u := newUnproved()
	for i := range 3 * maxUnprovedNetworks {
		u.add(fmt.Sprint(i), maxUnproved)
	}
	if n := len(u.networks); n > maxUnprovedNetworks {
		t.Errorf("%d networks are remembered", n)
	}
}

// A botnet can send wrongly signed bodies from so many networks that the bounds per network do not help.
func TestWronglySignedBodiesOfAllNetworksAreBounded(t *testing.T) {
	clock, checked := time.Unix(1e9, 0), 0
	s, put := doorOf(func(r *Request) (Signature, error) {
		good := r.Header.Get("Authorization") != ""
		return func([]byte) (string, error) {
			checked++
			if good {
				return "good.test", nil
			}
			return "", errUnsigned
		}, nil
	})
	s.unproved.now = func() time.Time { return clock }
	signed := func(from string, body io.Reader) int {
		r := httptest.NewRequestWithContext(t.Context(), "PUT", "/_matrix/federation/v1/send/1", body)
		r.RemoteAddr = from
		r.Header.Set("Authorization", "good")
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w.Code
	}
	body := make([]byte, 8<<20)
	large := func() io.Reader { return bytes.NewReader(body) }
	if code := signed("192.0.2.1:1", large()); code != 200 {
		t.Fatalf("a server that takes part gets %d", code)
	}
	checked = 0
	for i := range 2 * maxAllUnproved / len(body) {
		put(fmt.Sprintf("198.51.100.%d:1", i), large())
	}
	if checked != maxAllUnproved/len(body) {
		t.Errorf("%d bodies are checked", checked)
	}
	if code := put("203.0.113.1:1", unread{t}); code != 429 {
		t.Errorf("another network gets %d", code)
	}
	if code := signed("192.0.2.1:1", large()); code != 200 {
		t.Errorf("a server that took part before gets %d", code)
	}
	if code := signed("192.0.2.2:1", large()); code != 429 {
		t.Errorf("a large body of a server that is heard for the first time gets %d", code)
	}
	if code := signed("192.0.2.2:1", strings.NewReader("small")); code != 200 {
		t.Errorf("its small body gets %d", code)
	}
	if code := signed("192.0.2.2:1", large()); code != 200 {
		t.Errorf("its large body after a small one gets %d", code)
	}
	clock = clock.Add(time.Second)
	if code := put("203.0.113.1:1", large()); code != 401 {
		t.Errorf("a second later another network gets %d", code)
	}
}

func TestNetworksWithCorrectlySignedRequestsAreBounded(t *testing.T) {
	u := newUnproved()
	for i := range 5 * maxProved {
		u.prove(fmt.Sprint(i))
		if i%100 == 0 {
			u.prove("busy")
		}
	}
	if n := len(u.proved) + len(u.provedBefore); n > 2*maxProved {
		t.Errorf("%d networks are remembered", n)
	}
	if proved, _ := u.admit("busy", -1); !proved {
		t.Error("a network that is busy all the time is forgotten")
	}
}
