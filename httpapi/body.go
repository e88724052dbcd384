package httpapi

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"ebb/mxerr"
)

// A body may take patience plus one second for each trickle bytes of it, in either direction: a peer that is slower, to
// the point of holding a connection for days, is cut off. Long polls have no body on its way and wait as they like.
const (
	patience = 30 * time.Second
	trickle  = 8 << 10
)

// boundedBody is a request body that ends with M_TOO_LARGE beyond its bound and with an error when it trickles.
type boundedBody struct {
	io.ReadCloser
	conn     *http.ResponseController
	start    time.Time
	deadline time.Time // set on the connection
	read     int64
	max      int64
}

// Read implements io.Reader.
func (b *boundedBody) Read(p []byte) (int, error) {
	due := b.start.Add(patience + time.Duration(b.read/trickle)*time.Second)
	if due.Sub(b.deadline) >= time.Second {
		b.deadline = due
		_ = b.conn.SetReadDeadline(due) // not every writer has a connection: tests
	}
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	if b.read > b.max {
		return n, tooLarge(b.max)
	}
	if err != nil && !b.deadline.IsZero() {
		// Whoever works long on what was read, a long poll, must not be cut off by the deadline of reading it.
		_ = b.conn.SetReadDeadline(time.Time{})
	}
	return n, err
}

func tooLarge(limit int64) error {
	return mxerr.TooLarge("The body must not be larger than %d bytes", limit)
}

// boundBody puts the bounds of the route on the body.
func (r *Request) boundBody(w http.ResponseWriter, limit int64) error {
	if r.ContentLength > limit {
		return tooLarge(limit)
	}
	if r.ContentLength != 0 && r.Request.Body != nil {
		r.Request.Body = &boundedBody{ReadCloser: r.Request.Body, conn: http.NewResponseController(w), start: time.Now(), max: limit}
	}
	return nil
}

// What is read and thrown away of a body that is too large. 256 MiB: more than any upload that a client tries.
const (
	maxDrain  = 256 << 20
	drainTime = 10 * time.Second
)

// drain reads what is left of a body, so that a client that looks for the answer only when it has sent everything finds
// it instead of a broken connection. One that asks first (Expect) has not begun to send.
func drain(w http.ResponseWriter, body io.Reader, r *http.Request) {
	if r.Header.Get("Expect") != "" {
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(drainTime))
	_, _ = io.CopyN(io.Discard, body, maxDrain) // whatever goes wrong, the answer is on its way already
}

// Body reads the whole body, bounded by the route and by what may be kept in memory.
//
// Errors: M_TOO_LARGE, M_NOT_JSON, M_LIMIT_EXCEEDED.
func (r *Request) Body() ([]byte, error) {
	if r.body != nil || r.Request.Body == nil || r.ContentLength == 0 {
		return r.body, nil
	}
	body, err := r.readBody()
	if err != nil {
		var known *mxerr.Error
		if errors.As(err, &known) {
			return nil, known
		}
		return nil, mxerr.NotJSON("The body could not be read").Because(err)
	}
	r.body = body
	return r.body, nil
}

// readBody is io.ReadAll into memory that is counted. Whoever announces a large body has to send it before it costs memory.
func (r *Request) readBody() ([]byte, error) {
	announced := r.ContentLength + 1 // one more byte to find the end
	size := int64(1 << 10)
	if announced > 0 {
		size = min(announced, smallBody)
	}
	body := make([]byte, 0, size)
	for {
		n, err := r.Request.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if err == io.EOF {
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

// Decode reads the body as a JSON object into v. Where there is none, a POST or DELETE counts as {}: much of the API lets
// clients leave it out.
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

// DecodeEvents is Decode for a body that carries events of another server as they are. How deep each nests, and what its
// strings and numbers are, is for whoever takes it in to judge: a bad one must not keep the others out.
//
// Errors: M_TOO_LARGE, M_NOT_JSON, M_BAD_JSON.
func (r *Request) DecodeEvents(v any) error {
	body, err := r.Body()
	if err != nil {
		return err
	}
	return decode(body, v, false)
}

// DecodeJSON is Decode for bytes that are already there.
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

// maxDepth bounds nested arrays and objects of a body: every reader of it may recurse.
const maxDepth = 100

// survey tells how deep bytes that may be JSON are nested (counting stops beyond maxDepth), and what in them is JSON but
// is refused, "" for nothing. Deviation: JSON allows NUL, but PostgreSQL stores no text with it and C clients cut it
// short; it allows lone surrogates and 1e999, but strict readers, Rust's and Go's among them, refuse a whole answer for
// one such value, so that a message to somebody's device would keep that device from syncing.
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

// surveyEscape looks at the escape that text begins with, a surrogate pair counting as one; n is its length.
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

// unicodeEscape reads a \u escape.
func unicodeEscape(text []byte) (rune, bool) {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return 0, false
	}
	r, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	return rune(r), err == nil
}

// surveyNumber looks at the number that text begins with; n is its length.
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

// maxPlain: any number of 300 bytes without an exponent is below 1e308.
const maxPlain = 300
