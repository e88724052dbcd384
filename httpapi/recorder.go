package httpapi

import (
	"net/http"
	"time"
)

// recorder remembers the status of the answer, and cuts off a peer that takes a large one too slowly.
type recorder struct {
	http.ResponseWriter
	status   int
	wrote    bool
	start    time.Time // of the answer
	deadline time.Time // set on the connection
	written  int64
	held     bool // what is written is in memory until the peer has taken it
}

// WriteHeader implements http.ResponseWriter.
func (w *recorder) WriteHeader(status int) {
	if !w.wrote {
		w.status, w.wrote = status, true
	}
	w.ResponseWriter.WriteHeader(status)
}

// The first briskAfter bytes of an answer held in memory may be read as slowly as any other; after them the peer must read brisk bytes a
// second: 50 MB within a quarter of an hour.
const (
	briskAfter = 1 << 20
	brisk      = 64 << 10
)

// due returns when what was written so far must have been taken.
func (w *recorder) due() time.Time {
	slow := w.written
	if w.held {
		slow = min(slow, briskAfter)
	}
	return w.start.Add(patience + time.Duration(slow/trickle)*time.Second + time.Duration((w.written-slow)/brisk)*time.Second)
}

// buffered is what net/http and the kernel take at once, in bytes: a smaller answer waits for nobody, so that
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
			_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(due) // not every writer has a connection: tests
		}
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
