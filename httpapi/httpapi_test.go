package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"ebb/ident"
	"ebb/mxerr"
)

func echoServer(o Options) *Server {
	o.Log = slog.New(slog.DiscardHandler)
	o.Authenticate = func(_ context.Context, token string, _ *Request) (ident.Requester, error) {
		if token != "good" {
			return ident.Requester{}, mxerr.UnknownToken(false)
		}
		return ident.Requester{UserNID: 1, UserID: "@a:b"}, nil
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

func TestServerAnswersAsSpecified(t *testing.T) {
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
		{name: "deep enough", method: "PUT", target: sendPath, body: `{"a":` + strings.Repeat("[", 99) + strings.Repeat("]", 99) + `}`, header: auth, status: 200},
		{name: "deep in a string", method: "PUT", target: sendPath, body: `{"a\\\"":"` + strings.Repeat("[", 200) + `"}`, header: auth, status: 200},
		{name: "deep and not JSON", method: "PUT", target: sendPath, body: strings.Repeat("[", 900), header: auth, status: 400, code: "M_NOT_JSON"},
		{name: "NUL in a string", method: "PUT", target: sendPath, body: `{"a":"x\u0000y"}`, header: auth, status: 400, code: "M_BAD_JSON"},
		{name: "no NUL but its name", method: "PUT", target: sendPath, body: `{"a":"x\\u0000y"}`, header: auth, status: 200},
		{name: "half a surrogate pair", method: "PUT", target: sendPath, body: `{"a":"\ud83dx"}`, header: auth, status: 400, code: "M_BAD_JSON"},
		{name: "the other half, in a key", method: "PUT", target: sendPath, body: `{"\udc00":1}`, header: auth, status: 400, code: "M_BAD_JSON"},
		{name: "a surrogate pair", method: "PUT", target: sendPath, body: `{"a":"\ud83d\ude00"}`, header: auth, status: 200},
		{name: "no escape but its name", method: "PUT", target: sendPath, body: `{"a":"\\ud83d"}`, header: auth, status: 200},
		{name: "a number that strict readers refuse", method: "PUT", target: sendPath, body: `{"a":[-1E+999]}`, header: auth, status: 400, code: "M_BAD_JSON"},
		{name: "a number of 400 digits", method: "PUT", target: sendPath, body: `{"a":` + strings.Repeat("9", 400) + `}`, header: auth, status: 400, code: "M_BAD_JSON"},
		{name: "numbers with exponents", method: "PUT", target: sendPath, body: `{"a":[1.5e300,1e-999,-0,0.5]}`, header: auth, status: 200},
		{name: "bare NUL", method: "PUT", target: sendPath, body: "{\"a\":\"\x00\"}", header: auth, status: 400, code: "M_NOT_JSON"},
		{name: "wrong type", method: "POST", target: "/_matrix/client/v3/rooms/x/leave", body: `{"reason":7}`, header: auth, status: 400, code: "M_BAD_JSON"},
		{name: "control character in an id", method: "POST", target: "/_matrix/client/v3/rooms/%21a%0ab/leave", header: auth, status: 400, code: "M_INVALID_PARAM"},
		{name: "newline in free text", method: "PUT", target: "/_matrix/client/v3/rooms/x/send/a%0ab/1", body: `{}`, header: auth, status: 200},
		{name: "endless id", method: "POST", target: "/_matrix/client/v3/rooms/" + strings.Repeat("x", 3000) + "/leave", header: auth, status: 400, code: "M_INVALID_PARAM"},
		{name: "NUL in the query", method: "GET", target: "/_matrix/client/versions?limit=%00", status: 400, code: "M_INVALID_PARAM"},
		{name: "broken query", method: "GET", target: "/_matrix/client/versions?limit=%zz", status: 400, code: "M_INVALID_PARAM"},
		{name: "other scheme", method: "PUT", target: sendPath, body: `{}`, header: []string{"Authorization", "Basic good"}, status: 401, code: "M_MISSING_TOKEN"},
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

func TestChunkedBodyIsBounded(t *testing.T) {
	s := New(Options{Log: slog.New(slog.DiscardHandler), Routes: []Route{{Method: "POST", Path: "/up", MaxBody: 100, Handler: func(r *Request) (any, error) {
		n, err := io.Copy(io.Discard, r.Request.Body)
		return n, err
	}}}})
	for size, want := range map[int]int{100: 200, 101: 413} {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/up", io.MultiReader(strings.NewReader(strings.Repeat("x", size))))
		r.ContentLength = -1
		w := httptest.NewRecorder()
		if s.ServeHTTP(w, r); w.Code != want {
			t.Errorf("%d bytes: %d %s", size, w.Code, w.Body)
		}
	}
}

// connection is a ResponseWriter that records its deadlines.
type connection struct {
	httptest.ResponseRecorder
	read, write time.Time
}

func (c *connection) SetReadDeadline(t time.Time) error  { c.read = t; return nil }
func (c *connection) SetWriteDeadline(t time.Time) error { c.write = t; return nil }

// slowBody returns one byte per read and records the deadline that applies meanwhile.
type slowBody struct {
	c    *connection
	left int
	due  []time.Time
}

func (b *slowBody) Close() error { return nil }
func (b *slowBody) Read(p []byte) (int, error) {
	b.due = append(b.due, b.c.read)
	if b.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), b.left, trickle)
	b.left -= n
	return n, nil
}

func TestSlowBodyExceedsDeadline(t *testing.T) {
	c := &connection{ResponseRecorder: *httptest.NewRecorder()}
	slow := &slowBody{c: c, left: 3 * trickle}
	r := httptest.NewRequestWithContext(t.Context(), "PUT", sendPath, nil)
	r.Body, r.ContentLength = slow, 3*trickle
	start := time.Now()
	req := &Request{Request: r}
	if err := req.boundBody(c, 1<<20); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, r.Body); n != 3*trickle || err != nil {
		t.Fatal(n, err)
	}
	for i, due := range slow.due {
		wait := due.Sub(start) - patience
		if low := time.Duration(min(i, 3)-1) * time.Second; wait < low || wait > low+2*time.Second {
			t.Errorf("after %d chunks there are %v left", i, patience+wait)
		}
	}
	if !c.read.IsZero() {
		t.Error("the deadline outlives the body: a long poll would be cut off")
	}
}

func TestOnlyLargeAnswersHaveADeadline(t *testing.T) {
	c := &connection{ResponseRecorder: *httptest.NewRecorder()}
	w := &recorder{ResponseWriter: c}
	if _, err := w.Write(make([]byte, 100)); err != nil || !c.write.IsZero() {
		t.Fatal(err, c.write)
	}
	if _, err := w.Write(make([]byte, 100*trickle)); err != nil {
		t.Fatal(err)
	}
	if left := time.Until(c.write); left < patience+90*time.Second || left > patience+101*time.Second {
		t.Errorf("%v for 100 chunks", left)
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

func TestRateLimitRefillsAndReturnsRetryAfter(t *testing.T) {
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

func TestLimiterIsBoundedUnderAFlood(t *testing.T) {
	now := time.UnixMilli(0)
	l := NewLimiter(map[Rate]Bucket{Logins: {PerSecond: 0.001, Burst: 1}}, func() time.Time { return now })
	for i := range maxBuckets + 50_000 {
		l.Limit(Logins, strconv.Itoa(i))
		if len(l.buckets) > maxBuckets {
			t.Fatalf("%d buckets", len(l.buckets))
		}
	}
	if l.Limit(Logins, strconv.Itoa(maxBuckets+49_999)) == 0 {
		t.Error("the bucket in use was forgotten")
	}
}

func TestIPv6NeighboursShareALimit(t *testing.T) {
	for client, want := range map[string]string{"192.0.2.7": "192.0.2.7", "2001:db8:1:2::7": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64", "odd": "odd"} {
		if got := Network(client); got != want {
			t.Errorf("%s: %s", client, got)
		}
	}
}

func onlyAdministrators(_ context.Context, who ident.Requester) error {
	if !who.IsAdmin {
		return mxerr.Forbidden("no administrator")
	}
	return nil
}

func TestListenersServeTheirAPIsAndHealth(t *testing.T) {
	fine := func(*Request) (any, error) { return nil, nil }
	healthy := true
	admin := func(context.Context, string, *Request) (ident.Requester, error) {
		return ident.Requester{IsAdmin: true}, nil
	}
	o := Options{Log: slog.New(slog.DiscardHandler), Healthy: func() bool { return healthy }, Authenticate: admin, Administer: onlyAdministrators}
	paths := map[string]string{
		"/_matrix/client/versions": "client", "/.well-known/matrix/client": "client", "/.well-known/matrix/server": "client federation",
		"/_matrix/federation/v1/version": "federation", "/_matrix/key/v2/server": "federation", "/_synapse/admin/v1/register": "admin", "/metrics": "metrics",
		"/debug/pprof/heap": "metrics",
	}
	for path := range paths {
		if paths[path] != "metrics" {
			o.Routes = append(o.Routes, Route{Method: "GET", Path: path, Handler: fine})
		}
	}
	for _, api := range []string{"client", "federation", "admin", "metrics"} {
		o.Serve = []string{api}
		s := New(o)
		for path, apis := range paths {
			want := 404
			if strings.Contains(apis, api) {
				want = 200
			}
			if w := do(s, "GET", path, "", "Authorization", "Bearer good"); w.Code != want {
				t.Errorf("%s on a listener for %s: %d", path, api, w.Code)
			}
		}
		if w := do(s, "GET", "/health", ""); w.Code != 200 || w.Body.String() != "ok\n" {
			t.Errorf("health on a listener for %s: %d %s", api, w.Code, w.Body)
		}
	}
	healthy = false
	if w := do(New(o), "GET", "/health", ""); w.Code != 503 || w.Body.String() != "not ok\n" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestProfilesAreForAdministrators(t *testing.T) {
	s := New(Options{Log: slog.New(slog.DiscardHandler), Serve: []string{"metrics"}, Administer: onlyAdministrators, Authenticate: func(_ context.Context, token string, _ *Request) (ident.Requester, error) {
		return ident.Requester{UserID: "@u:test", IsAdmin: token == "admin"}, nil
	}})
	for _, name := range []string{"heap", "profile", "trace", "goroutine", "cmdline", "nothing"} {
		for token, want := range map[string]int{"": 401, "user": 403} {
			if w := do(s, "GET", "/debug/pprof/"+name+"?access_token="+token, ""); w.Code != want {
				t.Errorf("%s with the token %q: %d, want %d", name, token, w.Code, want)
			}
		}
	}
	for name, want := range map[string]int{"heap": 200, "nothing": 404} {
		if w := do(s, "GET", "/debug/pprof/"+name+"?access_token=admin", ""); w.Code != want {
			t.Errorf("%s for an administrator: %d", name, w.Code)
		}
	}
}

func TestMetricsCountByRouteAndErrorCode(t *testing.T) {
	s := echoServer(Options{})
	do(s, "PUT", sendPath, "{}", "Authorization", "Bearer good")
	do(s, "PUT", sendPath, "{}")
	do(s, "GET", "/_matrix/client/v3/%21secret%3Aroom", "")
	got := do(s, "GET", "/metrics", "").Body.String()
	const route = `route="/_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}"`
	for _, want := range []string{
		`ebb_http_requests_total{errcode="",method="PUT",` + route + `,status="200"} `,
		`ebb_http_requests_total{errcode="M_MISSING_TOKEN",method="PUT",` + route + `,status="401"} `,
		`ebb_http_request_seconds_count{method="PUT",` + route + `} `,
		`ebb_http_requests_total{errcode="M_UNRECOGNIZED",method="",route="unknown",status="404"} `,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if strings.Contains(got, "secret") {
		t.Error("the metrics tell paths")
	}
}

// Another server can return a new code each time, and a metric that was counted once stays in memory.
func TestErrorCodesOfOtherServersMakeNoMetrics(t *testing.T) {
	codes := 0
	s := New(Options{Log: slog.New(slog.DiscardHandler), Routes: []Route{{Method: "GET", Path: "/_matrix/client/v3/relayed", Handler: func(*Request) (any, error) {
		codes++
		return nil, mxerr.Relayed(403, fmt.Sprint("M_FORBIDDEN_", codes), "No")
	}}}})
	for i := range 3 {
		if w := do(s, "GET", "/_matrix/client/v3/relayed", ""); w.Code != 403 || !strings.Contains(w.Body.String(), fmt.Sprint(`"M_FORBIDDEN_`, i+1, `"`)) {
			t.Errorf("the client gets %d %s, want the code of the other server", w.Code, w.Body)
		}
	}
	got := do(s, "GET", "/metrics", "").Body.String()
	if want := `ebb_http_requests_total{errcode="relayed",method="GET",route="/_matrix/client/v3/relayed",status="403"} 3`; !strings.Contains(got, want) || strings.Contains(got, "M_FORBIDDEN_") {
		t.Errorf("the metrics lack %s, or have codes of the other server", want)
	}
}

func TestRoutesWithTheSameShapeAreDistinguished(t *testing.T) {
	var routes []Route
	for _, r := range []string{
		"GET /v3/profile/{userId}/displayname", "PUT /v3/profile/{userId}/displayname", "DELETE /v3/profile/{userId}/{keyName}", "GET /v3/profile/{userId}",
		"GET /v3/directory/room/{roomAlias}", "GET /v3/directory/list/room/{roomId}", "GET /v3/rooms/{roomId}/state", "PUT /v3/rooms/{roomId}/state/{eventType}",
		"PUT /v3/rooms/{roomId}/state/{eventType}/", "PUT /v3/rooms/{roomId}/state/{eventType}/{stateKey}", "GET /v3/pushrules/", "GET /v3/pushrules/global/",
	} {
		method, path, _ := strings.Cut(r, " ")
		routes = append(routes, Route{Method: method, Path: path, Handler: func(*Request) (any, error) { return path, nil }})
	}
	s := New(Options{Routes: routes, Log: slog.New(slog.DiscardHandler)})
	for target, want := range map[string]string{
		"GET /v3/profile/@a:b/displayname":       "/v3/profile/{userId}/displayname",
		"DELETE /v3/profile/@a:b/displayname":    "/v3/profile/{userId}/{keyName}",
		"GET /v3/profile/@a:b":                   "/v3/profile/{userId}",
		"HEAD /v3/profile/@a:b":                  "/v3/profile/{userId}",
		"GET /v3/directory/room/%23a:b":          "/v3/directory/room/{roomAlias}",
		"GET /v3/directory/list/room/%21a:b":     "/v3/directory/list/room/{roomId}",
		"GET /v3/rooms/%21a:b/state":             "/v3/rooms/{roomId}/state",
		"PUT /v3/rooms/%21a:b/state/m.room.name": "/v3/rooms/{roomId}/state/{eventType}",
		"PUT /v3/rooms/x/state/m.room.name/":     "/v3/rooms/{roomId}/state/{eventType}/",
		"PUT /v3/rooms/x/state/a%2Fb/c%2Fd":      "/v3/rooms/{roomId}/state/{eventType}/{stateKey}",
		"GET /v3/pushrules/":                     "/v3/pushrules/",
		"GET /v3/pushrules/global/":              "/v3/pushrules/global/",
		"POST /v3/profile/@a:b/displayname":      "405",
		"GET /v3/rooms/x/state/a/b/c":            "404",
		"PUT /v3/rooms//state/m.room.name":       "404",
		"GET /v3/rooms/%2F/state":                "/v3/rooms/{roomId}/state",
		"GET /v3/rooms/state/state":              "/v3/rooms/{roomId}/state",
		"GET /v3/rooms/x/%73tate":                "404",
		"GET /v3/rooms/x/state/":                 "404",
		"GET /v3/directory/list":                 "404",
		"GET /v3//profile/@a:b":                  "404",
		"GET /":                                  "404",
	} {
		method, path, _ := strings.Cut(target, " ")
		w := do(s, method, path, "")
		got := strings.Trim(w.Body.String(), `"`)
		if w.Code != 200 {
			got = strconv.Itoa(w.Code)
		}
		if got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
}

func TestForwardedForCountsOnlyFromTrustedProxies(t *testing.T) {
	s := New(Options{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fe80::/10")}, Log: slog.New(slog.DiscardHandler)})
	for _, c := range []struct{ peer, header, want string }{
		{"192.0.2.1:1", "198.51.100.7", "192.0.2.1"},
		{"10.0.0.1:1", "198.51.100.7", "198.51.100.7"},
		{"10.0.0.1:1", "203.0.113.9, 198.51.100.7, 10.9.9.9", "198.51.100.7"},
		{"10.0.0.1:1", "forged", "10.0.0.1"},
		// Azure, IIS and others append the port; some write IPv6 addresses in brackets or quotes.
		{"10.0.0.1:1", "198.51.100.7:49152", "198.51.100.7"},
		{"10.0.0.1:1", "198.51.100.7:49152, 10.9.9.9:80", "198.51.100.7"},
		{"10.0.0.1:1", "[2001:db8::7]:49152", "2001:db8::7"},
		{"10.0.0.1:1", "[2001:db8::7]", "2001:db8::7"},
		{"10.0.0.1:1", "2001:db8::7", "2001:db8::7"},
		{"10.0.0.1:1", `"[2001:db8::7]:80"`, "2001:db8::7"},
		{"10.0.0.1:1", "[::ffff:198.51.100.7]:80", "198.51.100.7"},
		{"10.0.0.1:1", "198.51.100.7:port", "10.0.0.1"},
		// Link-local addresses have a zone, which depends on the machine.
		{"[fe80::1%eth0]:1", "198.51.100.7", "198.51.100.7"},
		{"10.0.0.1:1", "198.51.100.7, fe80::2%eth1", "198.51.100.7"},
		{"10.0.0.1:1", "198.51.100.7, [fe80::2%25eth1]:80", "198.51.100.7"},
	} {
		r := httptest.NewRequestWithContext(context.Background(), "GET", "/", nil)
		r.RemoteAddr = c.peer
		r.Header.Set("X-Forwarded-For", c.header)
		if got := s.clientAddr(r); got != c.want {
			t.Errorf("%+v: got %s", c, got)
		}
	}
}

// A failure of another server is not logged as an error of this one.
func TestOnlyOwnFaultsAreLoggedAsErrors(t *testing.T) {
	for err, want := range map[error]bool{
		errors.New("the disk is odd"): true, mxerr.New(507, mxerr.CodeUnknown, "full"): true, mxerr.New(500, mxerr.CodeUnknown, "odd"): true,
		mxerr.New(502, mxerr.CodeUnknown, "no answer"): false, mxerr.New(504, mxerr.CodeNotYetUploaded, "later"): false,
		mxerr.NotFound("nothing"): false, mxerr.LimitExceeded(time.Second): false, context.Canceled: true,
	} {
		var log bytes.Buffer
		s := New(Options{
			Log:    slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError})),
			Routes: []Route{{Method: "GET", Path: "/x", Handler: func(*Request) (any, error) { return nil, err }}},
		})
		s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "GET", "/x", nil))
		if logged := log.Len() > 0; logged != want {
			t.Errorf("%v: logged as an error: %v", err, logged)
		}
	}
}

func TestFormsHaveTextOnly(t *testing.T) {
	s := New(Options{Log: slog.New(slog.DiscardHandler), Routes: []Route{{Method: "POST", Path: "/form", Handler: func(r *Request) (any, error) {
		f, err := r.Form()
		return map[string]string{"a": f.Get("a")}, err
	}}}})
	const kind = "application/x-www-form-urlencoded"
	for _, c := range []struct {
		kind, body string
		status     int
	}{
		{kind, "a=b+%C3%BC&c=d", 200}, {kind + "; charset=utf-8", "a=b", 200}, {"", "a=b", 200}, {kind, "", 200},
		{kind, "a=%00", 400}, {kind, "a=%FF", 400}, {kind, "%00=b", 400}, {kind, "c=d&c=%ED%A0%80", 400}, {kind, "a=%zz", 400}, {kind, "a;b", 400},
		{"application/json", `{"a":"b"}`, 400}, {"text/plain", "a=b", 400}, {"multipart/form-data; boundary=x", "--x--", 400}, {"; ", "a=b", 400},
	} {
		if w := do(s, "POST", "/form", c.body, "Content-Type", c.kind); w.Code != c.status || w.Code == 400 && !strings.Contains(w.Body.String(), mxerr.CodeInvalidParam) {
			t.Errorf("%q with %q: %d %s", c.body, c.kind, w.Code, w.Body)
		}
	}
}
