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

// doorOf is a server with one operation for other servers.
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

func TestBodyIsReadOnlyIfTheHeadersMayBeGood(t *testing.T) {
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

func TestLookingForKeysIsBoundedPerNetwork(t *testing.T) {
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
