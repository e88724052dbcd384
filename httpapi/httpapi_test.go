package httpapi

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ebb/mxerr"
)

func echoServer(o Options) *Server {
	o.Log = slog.New(slog.DiscardHandler)
	o.Authenticate = func(_ context.Context, token string, _ *Request) (Requester, error) {
		if token != "good" {
			return Requester{}, mxerr.UnknownToken(false)
		}
		return Requester{UserNID: 1, UserID: "@a:b"}, nil
	}
	o.Routes = []Route{
		{Method: "PUT", Path: "/_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}", Auth: User, Rate: Sends, MaxBody: 1000,
			Handler: func(r *Request) (any, error) {
				var body map[string]json.RawMessage
				if err := r.Decode(&body); err != nil {
					return nil, err
				}
				return map[string]string{"room": r.Var("roomId"), "type": r.Var("eventType")}, nil
			}},
		{Method: "GET", Path: "/_matrix/client/versions", Aliases: []string{"/_matrix/client/r0/versions"}, Handler: func(r *Request) (any, error) {
			_, err := r.QueryInt("limit", 10, 0, 100)
			return nil, err
		}},
		{Method: "POST", Path: "/_matrix/client/v3/rooms/{roomId}/leave", Auth: User, Handler: func(r *Request) (any, error) {
			var body struct{ Reason string }
			return nil, r.Decode(&body)
		}},
		{Method: "POST", Path: "/_matrix/client/v3/panic", Handler: func(*Request) (any, error) { panic("secret") }},
	}
	return New(o)
}

func do(s http.Handler, method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(context.Background(), method, target, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

const sendPath = "/_matrix/client/v3/rooms/%21r%3Ax/send/m%2Fx/1"

func TestDoor(t *testing.T) {
	s := echoServer(Options{})
	auth := []string{"Authorization", "Bearer good"}
	cases := []struct {
		name, method, target, body string
		header                     []string
		status                     int
		code                       string
	}{
		{name: "works", method: "PUT", target: sendPath, body: `{"a":1}`, header: auth, status: 200},
		{name: "no body", method: "PUT", target: sendPath, header: auth, status: 400, code: "M_NOT_JSON"},
		{name: "no body is {} where it may be left out", method: "POST", target: "/_matrix/client/v3/rooms/x/leave", header: auth, status: 200},
		{name: "token by query", method: "PUT", target: sendPath + "?access_token=good", body: `{}`, status: 200},
		{name: "no token", method: "PUT", target: sendPath, status: 401, code: "M_MISSING_TOKEN"},
		{name: "wrong token", method: "PUT", target: sendPath, header: []string{"Authorization", "Bearer x"}, status: 401, code: "M_UNKNOWN_TOKEN"},
		{name: "not JSON", method: "PUT", target: sendPath, body: `{"a":`, header: auth, status: 400, code: "M_NOT_JSON"},
		{name: "trailing bytes", method: "PUT", target: sendPath, body: `{} {}`, header: auth, status: 400, code: "M_NOT_JSON"},
		{name: "invalid UTF-8", method: "PUT", target: sendPath, body: "{\"a\":\"\xff\"}", header: auth, status: 400, code: "M_NOT_JSON"},
		{name: "an array", method: "PUT", target: sendPath, body: `[]`, header: auth, status: 400, code: "M_BAD_JSON"},
		{name: "null", method: "PUT", target: sendPath, body: `null`, header: auth, status: 400, code: "M_BAD_JSON"},
		{name: "too deep", method: "PUT", target: sendPath, body: `{"a":` + strings.Repeat("[", 101) + strings.Repeat("]", 101) + `}`, header: auth, status: 400, code: "M_BAD_JSON"},
		{name: "too large", method: "PUT", target: sendPath, body: `{"a":"` + strings.Repeat("x", 1000) + `"}`, header: auth, status: 413, code: "M_TOO_LARGE"},
		{name: "NUL in the path", method: "PUT", target: "/_matrix/client/v3/rooms/%00/send/m/1", header: auth, status: 400, code: "M_INVALID_PARAM"},
		{name: "invalid UTF-8 in the path", method: "PUT", target: "/_matrix/client/v3/rooms/%ff/send/m/1", header: auth, status: 400, code: "M_INVALID_PARAM"},
		{name: "unknown path", method: "GET", target: "/_matrix/client/v3/nonsense", status: 404, code: "M_UNRECOGNIZED"},
		{name: "unknown path outside", method: "GET", target: "/nonsense", status: 404, code: "M_UNRECOGNIZED"},
		{name: "unknown method", method: "DELETE", target: "/_matrix/client/versions", status: 405, code: "M_UNRECOGNIZED"},
		{name: "alias", method: "GET", target: "/_matrix/client/r0/versions", status: 200},
		{name: "negative number", method: "GET", target: "/_matrix/client/versions?limit=-1", status: 400, code: "M_INVALID_PARAM"},
		{name: "huge number", method: "GET", target: "/_matrix/client/versions?limit=99999999999999999999", status: 200},
		{name: "no number", method: "GET", target: "/_matrix/client/versions?limit=1e3", status: 400, code: "M_INVALID_PARAM"},
		{name: "panic", method: "POST", target: "/_matrix/client/v3/panic", status: 500, code: "M_UNKNOWN"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := do(s, c.method, c.target, c.body, c.header...)
			var e struct {
				Errcode string `json:"errcode"`
			}
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
				t.Fatalf("the answer is not JSON: %q", w.Body)
			}
			if w.Code != c.status || e.Errcode != c.code {
				t.Errorf("got %d %s, want %d %s", w.Code, w.Body, c.status, c.code)
			}
			if w.Header().Get("Access-Control-Allow-Origin") != "*" {
				t.Error("no CORS header")
			}
			if strings.Contains(w.Body.String(), "secret") {
				t.Error("the answer tells internals")
			}
		})
	}
}

func TestPathParametersAreUnescapedOnce(t *testing.T) {
	w := do(echoServer(Options{}), "PUT", "/_matrix/client/v3/rooms/%21r%2525%3Ax/send/m%2Fx/1", "{}", "Authorization", "Bearer good")
	if got := w.Body.String(); got != `{"room":"!r%25:x","type":"m/x"}` {
		t.Fatal(got)
	}
}

func TestPreflight(t *testing.T) {
	w := do(echoServer(Options{}), "OPTIONS", "/_matrix/client/v3/anything", "")
	if w.Code != 204 || !strings.Contains(w.Header().Get("Access-Control-Allow-Headers"), "Authorization") {
		t.Fatal(w.Code, w.Header())
	}
}

func TestRateLimitRefillsAndTellsWhenToComeBack(t *testing.T) {
	now := time.UnixMilli(0)
	l := NewLimiter(map[Rate]Bucket{Sends: {PerSecond: 0.5, Burst: 2}}, func() time.Time { return now })
	s := echoServer(Options{Limit: l.Limit})
	send := func() *httptest.ResponseRecorder {
		return do(s, "PUT", sendPath, "{}", "Authorization", "Bearer good")
	}
	for range 2 {
		if w := send(); w.Code != 200 {
			t.Fatal(w.Code)
		}
	}
	w := send()
	if w.Code != 429 || w.Header().Get("Retry-After") != "2" || !strings.Contains(w.Body.String(), `"retry_after_ms":2000`) {
		t.Fatal(w.Code, w.Header(), w.Body)
	}
	now = now.Add(2 * time.Second)
	if w := send(); w.Code != 200 {
		t.Fatal(w.Code)
	}
}

func TestForwardedForCountsOnlyFromTrustedProxies(t *testing.T) {
	s := New(Options{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Log: slog.New(slog.DiscardHandler)})
	for _, c := range []struct{ peer, header, want string }{
		{"192.0.2.1:1", "198.51.100.7", "192.0.2.1"},
		{"10.0.0.1:1", "198.51.100.7", "198.51.100.7"},
		{"10.0.0.1:1", "203.0.113.9, 198.51.100.7, 10.9.9.9", "198.51.100.7"},
		{"10.0.0.1:1", "forged", "10.0.0.1"},
	} {
		r := httptest.NewRequestWithContext(context.Background(), "GET", "/", nil)
		r.RemoteAddr = c.peer
		r.Header.Set("X-Forwarded-For", c.header)
		if got := s.clientAddr(r); got != c.want {
			t.Errorf("%+v: got %s", c, got)
		}
	}
}
