package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"testing"
	"time"

	"ebb/httpapi"
	"ebb/ident"
	"ebb/internal/specindex"
)

// everyRoute returns the routes of the complete API with a handler that reads a small JSON body and returns a small
// answer.
func everyRoute(b *testing.B) (routes []httpapi.Route) {
	b.Helper()
	f, err := os.Open("../docs/spec-index.txt")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	index, err := specindex.Parse(f)
	if err != nil {
		b.Fatal(err)
	}
	answer := map[string]string{"event_id": "$0123456789012345678901234567890123456789012"}
	seen := map[string]bool{} // two operations of the specification share a path
	for _, e := range index.Entries {
		at := e.Method + " " + e.Path
		if seen[at] {
			continue
		}
		seen[at] = true
		routes = append(routes, httpapi.Route{Method: e.Method, Path: e.Path, OperationID: e.ID, Auth: httpapi.User, Rate: httpapi.Sends,
			Handler: func(r *httpapi.Request) (any, error) {
				var content json.RawMessage
				if err := r.Decode(&content); err != nil || r.Var("txnId") == "" {
					return nil, err
				}
				return answer, nil
			}})
	}
	return routes
}

// sink is a ResponseWriter that discards everything and costs nothing.
type sink struct {
	h http.Header
	n int
}

func (s *sink) Header() http.Header         { return s.h }
func (s *sink) WriteHeader(int)             {}
func (s *sink) Write(b []byte) (int, error) { s.n += len(b); return len(b), nil }

const content = `{"msgtype":"m.text","body":"hello, this is a message of usual length"}`

func benchmark(b *testing.B, h http.Handler) {
	target, err := url.Parse("/_matrix/client/v3/rooms/%21abcdefghijklmnopqr%3Aexample.org/send/m.room.message/m1234567.89")
	if err != nil {
		b.Fatal(err)
	}
	header := http.Header{"Authorization": {"Bearer good"}, "Content-Type": {"application/json"}}
	w := &sink{}
	b.ReportAllocs()
	for b.Loop() {
		w.h = http.Header{}
		r := (&http.Request{Method: "PUT", URL: target, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header, RemoteAddr: "127.0.0.1:4711",
			Body: io.NopCloser(bytes.NewReader([]byte(content))), ContentLength: int64(len(content))}).WithContext(context.Background())
		h.ServeHTTP(w, r)
	}
	if w.n < 50*b.N {
		b.Fatalf("%d requests were answered with %d bytes", b.N, w.n)
	}
}

// BenchmarkDoor measures an authenticated PUT with a small JSON body through a Server that has all routes.
// BenchmarkBareHandler measures the same without the Server, so the difference is the cost of the Server.
func BenchmarkDoor(b *testing.B) {
	limiter := httpapi.NewLimiter(map[httpapi.Rate]httpapi.Bucket{httpapi.Sends: {PerSecond: 1e9, Burst: 1e9}}, time.Now)
	benchmark(b, httpapi.New(httpapi.Options{Routes: everyRoute(b), Log: slog.New(slog.DiscardHandler), Limit: limiter.Limit,
		Authenticate: func(context.Context, string, *httpapi.Request) (ident.Requester, error) {
			return ident.Requester{UserNID: 1, UserID: "@alice:example.org", DeviceNID: 2, DeviceID: "DEVICE"}, nil
		}}))
}

func BenchmarkBareHandler(b *testing.B) {
	benchmark(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || len(body) == 0 {
			b.Error(err)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"event_id":"$0123456789012345678901234567890123456789012"}`))
	}))
}
