package httpapi

import (
	"bytes"
	"net"
	"net/http"
	"strconv"
	"time"
)

// response is an http.ResponseWriter for a parked connection. The body must have a Content-Length; otherwise the
// connection is closed after the response.
type response struct {
	conn    net.Conn
	version string // of HTTP
	header  http.Header
	last    bool   // the connection is closed after the response
	head    []byte // the status line and the header, until they are sent
	began   bool
	missing int // bytes of the body that have not been written
	err     error
}

// joined is the size up to which a part of the body is sent in one piece with the header.
const joined = 4 << 10

// Header implements http.ResponseWriter.
func (w *response) Header() http.Header { return w.header }

// SetWriteDeadline is for http.ResponseController.
func (w *response) SetWriteDeadline(t time.Time) error { return w.conn.SetWriteDeadline(t) }

// WriteHeader implements http.ResponseWriter. The header is sent with the first part of the body.
func (w *response) WriteHeader(status int) {
	if w.began {
		return
	}
	w.began = true
	var err error
	if w.missing, err = strconv.Atoi(w.header.Get("Content-Length")); err != nil {
		w.missing, w.last = 0, true
	}
	if w.last {
		w.header.Set("Connection", "close")
	}
	w.header["Date"] = []string{time.Now().UTC().Format(http.TimeFormat)}
	b := bytes.NewBuffer(make([]byte, 0, 1<<10))
	b.WriteString(w.version)
	b.WriteByte(' ')
	b.WriteString(strconv.Itoa(status))
	b.WriteByte(' ')
	b.WriteString(http.StatusText(status))
	b.WriteString("\r\n")
	_ = w.header.Write(b) // a Buffer returns no errors
	b.WriteString("\r\n")
	w.head = b.Bytes()
	w.err = w.conn.SetWriteDeadline(time.Now().Add(patience)) // recorder extends it for large answers
}

// Write implements http.ResponseWriter.
func (w *response) Write(body []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.err != nil {
		return 0, w.err
	}
	parts := net.Buffers{w.head, body}
	if len(body) <= joined {
		parts = net.Buffers{append(w.head, body...)}
	}
	w.head = nil
	w.missing -= len(body)
	if _, w.err = parts.WriteTo(w.conn); w.err != nil {
		return 0, w.err
	}
	return len(body), nil
}

// flush sends the header if there is no body. It returns an error if the connection cannot be used again.
func (w *response) flush() error {
	if w.head != nil || !w.began {
		_, _ = w.Write(nil) // the error is kept
	}
	if w.err == nil && w.missing != 0 {
		w.err = http.ErrContentLength
	}
	return w.err
}
