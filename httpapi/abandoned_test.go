package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ebb/mxerr"
)

func TestARequestThatItsClientAbandonedIsNotLoggedAsRefused(t *testing.T) {
	for name, err := range map[string]error{
		"bare": context.Canceled, "wrapped": fmt.Errorf("reading: %w", context.Canceled), "with a code": mxerr.LimitExceeded(time.Second).Because(context.Canceled),
	} {
		var log bytes.Buffer
		ctx, hangUp := context.WithCancel(t.Context())
		s := New(Options{
			Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
			Routes: []Route{{Method: "GET", Path: "/x", Handler: func(*Request) (any, error) {
				hangUp()
				return nil, err
			}}},
		})
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/x", nil))
		if line := log.String(); w.Code != 499 || strings.Count(line, "\n") != 1 || !strings.Contains(line, ` status=499 errcode="" `) {
			t.Errorf("%s: status %d, logged %q", name, w.Code, line)
		}
	}
}

func TestABodyThatItsClientDoesNotFinishIsNoFaultOfTheServer(t *testing.T) {
	var log safeBuffer
	s := httptest.NewServer(New(Options{
		Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Routes: []Route{
			{Method: "POST", Path: "/json", Handler: func(r *Request) (any, error) { return nil, r.Decode(&struct{}{}) }},
			{Method: "POST", Path: "/stream", Handler: func(r *Request) (any, error) {
				if _, err := io.Copy(io.Discard, r.Request.Body); err != nil {
					return nil, fmt.Errorf("storing the file: %w", err)
				}
				return nil, nil
			}},
		},
	}))
	send := func(path, header, body string) *net.TCPConn {
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: test\r\n%s\r\n\r\n%s", path, header, body); err != nil {
			t.Fatal(err)
		}
		return c.(*net.TCPConn)
	}
	for _, path := range []string{"/json", "/stream"} {
		for _, header := range []string{"Content-Length: 100", "Transfer-Encoding: chunked"} {
			c := send(path, header, "a\r\n{")
			_ = c.CloseWrite()
			if r, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || r.StatusCode != 499 {
				t.Errorf("%s with %s, unfinished: %+v, %v", path, header, r, err)
			}
			_ = c.Close()
		}
		c := send(path, "Transfer-Encoding: chunked", "no chunk\r\n")
		if r, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || r.StatusCode != 400 {
			t.Errorf("%s with a broken body: %+v, %v", path, r, err)
		}
		_ = c.Close()
	}
	s.Close() // waits until every request has been logged
	if text := log.String(); strings.Contains(text, "level=ERROR") || strings.Count(text, "status=499") != 4 {
		t.Errorf("logged:\n%s", text)
	}
	if err := bodyFault(&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}); status(err) != 408 {
		t.Errorf("too slow: %v", err)
	}
	if err := bodyFault(&net.OpError{Op: "read", Err: syscall.ECONNRESET}); !errors.Is(err, errHungUp) {
		t.Errorf("reset: %v", err)
	}
}

func status(err error) int {
	var e *mxerr.Error
	if !errors.As(err, &e) {
		return 0
	}
	return e.Status
}

// safeBuffer is a buffer for concurrent use.
type safeBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}
