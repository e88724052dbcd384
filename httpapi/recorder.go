package httpapi

import (
	"net/http"
	"time"
)

// recorder records the status of the answer and disconnects a peer that reads a large answer too slowly.
type recorder struct {
	http.ResponseWriter
	status   int
	wrote    bool
	start    time.Time // of writing the answer
	deadline time.Time // set on the connection
	written  int64
	held     bool // the answer stays in memory until the peer has read it
}

// WriteHeader implements http.ResponseWriter.
func (w *recorder) WriteHeader(status int) {
	if !w.wrote {
		w.status, w.wrote = status, true
	}
	w.ResponseWriter.WriteHeader(status)
}

// The first briskAfter bytes of an answer held in memory may be read as slowly as any other; after that the peer must
// read brisk bytes a second: 50 MB within a quarter of an hour.
const (
	briskAfter = 1 << 20
	brisk      = 64 << 10
)

// due returns the time by which the peer must have read what was written so far.
func (w *recorder) due() time.Time {
	slow := w.written
	if w.held {
		slow = min(slow, briskAfter)
	}
	return w.start.Add(patience + time.Duration(slow/trickle)*time.Second + time.Duration((w.written-slow)/brisk)*time.Second)
}

// buffered is how many bytes net/http and the kernel buffer: a smaller answer waits for nobody, so that
// http.Server.WriteTimeout alone bounds it.
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
			// Writers in tests have no connection.
			_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(due)
		}
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
