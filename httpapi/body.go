package httpapi

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"ebb/mxerr"
)

// A body may take patience plus one second for every trickle bytes, in either direction. A slower peer is disconnected,
// since it could otherwise hold a connection for days. Long polls are not affected while they wait, because no body is
// being transferred.
const (
	patience = 30 * time.Second
	trickle  = 8 << 10
)

// boundedBody is a request body with bounds. Reading it fails with M_TOO_LARGE beyond its maximum size. If the body
// arrives too slowly or is broken, reading fails with status 408 or 400, and if the client closes the connection before
// its end, with errHungUp.
type boundedBody struct {
	io.ReadCloser
	conn     *http.ResponseController
	start    time.Time
	deadline time.Time // the deadline set on the connection
	read     int64
	max      int64
}

// Read implements io.Reader.
func (b *boundedBody) Read(p []byte) (int, error) {
	due := b.start.Add(patience + time.Duration(b.read/trickle)*time.Second)
	if due.Sub(b.deadline) >= time.Second {
		b.deadline = due
		_ = b.conn.SetReadDeadline(due) // ResponseWriters in tests have no connection
	}
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	if b.read > b.max {
		return n, tooLarge(b.max)
	}
	if err != nil && !b.deadline.IsZero() {
		// The deadline for reading the body must not interrupt a long poll.
		_ = b.conn.SetReadDeadline(time.Time{})
	}
	return n, bodyFault(err)
}

// errHungUp means that the client closed the connection before the end of the body. errBody is the cause of the error
// for any other body that cannot be read.
var (
	errHungUp = errors.New("the client closed the connection before the end of the body")
	errBody   = errors.New("the body cannot be read")
)

// bodyFault converts an error of the connection, so that it is not taken for a fault of this server.
func bodyFault(err error) error {
	var network *net.OpError
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return mxerr.New(http.StatusRequestTimeout, mxerr.CodeUnknown, "The body arrived too slowly").Because(err)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &network):
		return fmt.Errorf("%w: %w", errHungUp, err)
	}
	return mxerr.New(http.StatusBadRequest, mxerr.CodeUnknown, "The body could not be read").Because(fmt.Errorf("%w: %w", errBody, err))
}

func tooLarge(limit int64) error {
	return mxerr.TooLarge("The body must not be larger than %d bytes", limit)
}

// boundBody applies the route's size bound to the body.
func (r *Request) boundBody(w http.ResponseWriter, limit int64) error {
	if r.ContentLength > limit {
		return tooLarge(limit)
	}
	if r.ContentLength != 0 && r.Request.Body != nil {
		r.Request.Body = &boundedBody{ReadCloser: r.Request.Body, conn: http.NewResponseController(w), start: time.Now(), max: limit}
	}
	return nil
}

// maxDrain and drainTime bound how much of an oversized body is read and discarded, and for how long. 256 MiB is more
// than any client tries to upload.
const (
	maxDrain  = 256 << 20
	drainTime = 10 * time.Second
)

// drain reads the rest of a body and discards it. Clients that read the response only after they have sent everything
// would otherwise see a broken connection. A client that sent Expect: 100-continue has not begun to send the body, so
// nothing is read.
func drain(w http.ResponseWriter, body io.Reader, r *http.Request) {
	if r.Header.Get("Expect") != "" {
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(drainTime))
	_, _ = io.CopyN(io.Discard, body, maxDrain) // errors do not matter: the response has been written
}

// Body reads the complete body, within the bounds of the route and the memory bound for bodies.
//
// Errors: M_TOO_LARGE, M_LIMIT_EXCEEDED, M_UNKNOWN.
func (r *Request) Body() ([]byte, error) {
	if r.body != nil || r.Request.Body == nil || r.ContentLength == 0 {
		return r.body, nil
	}
	body, err := r.readBody()
	if err != nil {
		return nil, err
	}
	r.body = body
	return r.body, nil
}

// readBody is like io.ReadAll, but counts the memory that it uses. A large body uses memory only as it arrives, not as
// soon as it is announced.
func (r *Request) readBody() ([]byte, error) {
	announced := r.ContentLength + 1 // one extra byte to detect the end
	size := int64(1 << 10)
	if announced > 0 {
		size = min(announced, smallBody)
	}
	body := make([]byte, 0, size)
	for {
		n, err := r.Request.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if err == io.EOF {
			r.bodyEnded = true
			return body, nil
		}
		if err != nil {
			return nil, err
		}
		if len(body) < cap(body) {
			continue
		}
		size = 2 * int64(cap(body))
		if announced > int64(len(body)) {
			size = min(size, announced)
		}
		if size > smallBody {
			if err := r.holdBody(size - r.heldBody()); err != nil {
				return nil, err
			}
		}
		body = append(make([]byte, 0, size), body...)
	}
}

// Decode decodes the body, a JSON object, into v. An empty body of a POST or DELETE counts as {}, because much of the
// API lets clients omit it.
//
// Errors: M_TOO_LARGE, M_NOT_JSON, M_BAD_JSON.
func (r *Request) Decode(v any) error {
	body, err := r.Body()
	if err != nil {
		return err
	}
	if len(body) == 0 && r.Method != http.MethodPut {
		return nil
	}
	return DecodeJSON(body, v)
}

// DecodeEvents is like Decode for a body that contains events from another server. It does not check the nesting,
// strings and numbers of the events. The code that processes the events checks each one, so that an invalid event does
// not cause the others to be rejected.
//
// Errors: M_TOO_LARGE, M_NOT_JSON, M_BAD_JSON.
func (r *Request) DecodeEvents(v any) error {
	body, err := r.Body()
	if err != nil {
		return err
	}
	return decode(body, v, false)
}

// DecodeJSON is like Decode for a body that has already been read.
//
// Errors: M_NOT_JSON, M_BAD_JSON.
func DecodeJSON(body []byte, v any) error {
	return decode(body, v, true)
}

func decode(body []byte, v any, surveyed bool) error {
	body = bytes.TrimLeft(body, " \t\r\n")
	if len(body) == 0 || !utf8.Valid(body) {
		return mxerr.NotJSON("The body is not JSON")
	}
	if body[0] != '{' {
		if json.Valid(body) {
			return mxerr.BadJSON("The body is not a JSON object")
		}
		return mxerr.NotJSON("The body is not JSON")
	}
	odd := ""
	if surveyed {
		var deep int
		if deep, odd = survey(body); deep > maxDepth {
			return mxerr.BadJSON("The JSON must not be nested more than %d levels deep", maxDepth)
		}
	}
	err := json.Unmarshal(body, v)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return mxerr.NotJSON("The body is not JSON").Because(err)
	case err != nil:
		return mxerr.BadJSON("The body does not have the documented shape").Because(err)
	case odd != "":
		return mxerr.BadJSON("The JSON has %s", odd)
	}
	return nil
}

// maxDepth bounds the nesting of arrays and objects in a body, since code that reads them may be recursive.
const maxDepth = 100

// survey returns the nesting depth of a JSON text, counted up to just beyond maxDepth, and a description of the first
// construct that is valid JSON but refused, or "". body need not be valid JSON.
// Deviation: JSON allows NUL characters, but PostgreSQL cannot store them and C clients truncate strings there. JSON
// also allows lone surrogates and 1e999, but strict parsers, such as those of Rust and Go, reject a complete response
// because of one such value; a to-device message could then keep its recipient from syncing.
func survey(body []byte) (deepest int, odd string) {
	depth, quoted := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case quoted && c == '\\':
			n, why := surveyEscape(body[i:])
			i, odd = i+n-1, cmp.Or(odd, why)
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return depth, odd
			}
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		case c == '-' || '0' <= c && c <= '9':
			n, why := surveyNumber(body[i:])
			i, odd = i+n-1, cmp.Or(odd, why)
		}
	}
	return deepest, odd
}

// surveyEscape checks the escape sequence at the start of text and returns its length. A surrogate pair counts as one
// sequence.
func surveyEscape(text []byte) (n int, odd string) {
	r, ok := unicodeEscape(text)
	switch {
	case !ok:
		return 2, ""
	case r == 0:
		return 6, "a NUL character in a string"
	case !utf16.IsSurrogate(r):
		return 6, ""
	}
	if low, ok := unicodeEscape(text[6:]); ok && utf16.DecodeRune(r, low) != utf8.RuneError {
		return 12, ""
	}
	return 6, "half a surrogate pair in a string"
}

// unicodeEscape parses a \u escape.
func unicodeEscape(text []byte) (rune, bool) {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return 0, false
	}
	r, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	return rune(r), err == nil
}

// surveyNumber checks the number at the start of text and returns its length.
func surveyNumber(text []byte) (n int, odd string) {
	plain := true
	for n < len(text) && bytes.IndexByte(numberBytes, text[n]) >= 0 {
		plain = plain && text[n]|0x20 != 'e'
		n++
	}
	if plain && n <= maxPlain {
		return n, ""
	}
	if _, err := strconv.ParseFloat(string(text[:n]), 64); errors.Is(err, strconv.ErrRange) {
		return n, "a number beyond what a float64 holds"
	}
	return n, ""
}

var numberBytes = []byte("0123456789.eE+-")

// maxPlain is the length up to which a number without an exponent is certain to be below 1e308.
const maxPlain = 300
