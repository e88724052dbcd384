package httpapi

import (
	"net/http"
	"time"
)

// recorder records the status of the response, and disconnects a peer that reads a large answer too slowly.
type recorder struct {
	http.ResponseWriter
	status   int
	wrote    bool
	start    time.Time // when writing the answer began
	deadline time.Time // the deadline set on the connection
	written  int64
	held     bool // whether the answer stays in memory until the peer has read it
}

// WriteHeader implements http.ResponseWriter.
func (w *recorder) WriteHeader(status int) {
	if !w.wrote {
		w.status, w.wrote = status, true
	}
	w.ResponseWriter.WriteHeader(status)
}

// The first briskAfter bytes of an answer held in memory may be read as slowly as any other. After that the peer must
// read brisk bytes per second, which is 50 MB in a quarter of an hour.
const (
	briskAfter = 1 << 20
	brisk      = 64 << 10
)

// due returns the deadline by which the peer must have read what has been written so far.
func (w *recorder) due() time.Time {
	slow := w.written
	if w.held {
		slow = min(slow, briskAfter)
	}
	return w.start.Add(patience + time.Duration(slow/trickle)*time.Second + time.Duration((w.written-slow)/brisk)*time.Second)
}

// buffered is the size of the buffers of net/http and the kernel. A smaller answer never waits for the peer, so
// http.Server.WriteTimeout is bound enough.
const buffered = 4 << 10

// Write implements http.ResponseWriter.
func (w *recorder) Write(b []byte) (int, error) {
	w.wrote = true
	if w.written += int64(len(b)); w.written > buffered {
		if w.start.IsZero() {
			w.start = time.Now()
		}
		if due := w.due(); due.Sub(w.deadline) >= time.Second {
			w.deadline = due
			// ResponseWriters in tests have no connection.
			_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(due)
		}
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
