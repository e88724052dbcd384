package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gorilla/mux"

	"ebb/mxerr"
)

// Request is one request on its way to a handler.
type Request struct {
	*http.Request
	Requester
	RequestID  string
	ClientAddr string // the peer's address, by trusted_proxies
	maxBody    int64
	body       []byte
	vars       map[string]string
	operation  string
	errcode    string // of the answer
}

// maxVar bounds a path or query parameter, in bytes: ids have at most 255.
const maxVar = 2048

// Var is a path parameter, unescaped once.
func (r *Request) Var(name string) string { return r.vars[name] }

// Query is a query parameter, "" where it is absent.
func (r *Request) Query(name string) string { return r.URL.Query().Get(name) }

// QueryInt is a query parameter that is an integer in [lowest, highest]; a larger one counts as highest.
//
// Errors: M_INVALID_PARAM.
func (r *Request) QueryInt(name string, byDefault, lowest, highest int64) (int64, error) {
	text := r.Query(name)
	if text == "" {
		return byDefault, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if errors.Is(err, strconv.ErrRange) && !strings.HasPrefix(text, "-") {
		n, err = highest, nil
	}
	if err != nil || n < lowest {
		return 0, mxerr.InvalidParam("%s must be an integer of at least %d", name, lowest)
	}
	return min(n, highest), nil
}

// QueryBool is a query parameter that is true or false.
//
// Errors: M_INVALID_PARAM.
func (r *Request) QueryBool(name string, byDefault bool) (bool, error) {
	switch r.Query(name) {
	case "":
		return byDefault, nil
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, mxerr.InvalidParam("%s must be true or false", name)
}

// QueryMillis is a query parameter in milliseconds, at most highest.
//
// Errors: M_INVALID_PARAM.
func (r *Request) QueryMillis(name string, byDefault, highest time.Duration) (time.Duration, error) {
	ms, err := r.QueryInt(name, byDefault.Milliseconds(), 0, highest.Milliseconds())
	return time.Duration(ms) * time.Millisecond, err
}

// Body reads the whole body, bounded by the route.
//
// Errors: M_TOO_LARGE.
func (r *Request) Body() ([]byte, error) {
	if r.body != nil {
		return r.body, nil
	}
	if r.ContentLength > r.maxBody {
		return nil, mxerr.TooLarge("The body is larger than %d bytes", r.maxBody)
	}
	var buf bytes.Buffer
	if r.ContentLength > 0 {
		buf.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	_, err := buf.ReadFrom(io.LimitReader(r.Request.Body, r.maxBody+1))
	if err != nil {
		return nil, mxerr.NotJSON("The body could not be read").Because(err)
	}
	if int64(buf.Len()) > r.maxBody {
		return nil, mxerr.TooLarge("The body is larger than %d bytes", r.maxBody)
	}
	r.body = buf.Bytes()
	return r.body, nil
}

// Decode reads the body as a JSON object into v. An empty body counts as {}.
//
// Errors: M_TOO_LARGE, M_NOT_JSON, M_BAD_JSON.
func (r *Request) Decode(v any) error {
	body, err := r.Body()
	if err != nil {
		return err
	}
	return DecodeJSON(body, v)
}

// DecodeJSON is Decode for bytes that are already there.
func DecodeJSON(body []byte, v any) error {
	body = bytes.TrimSpace(body)
	if len(body) == 0 {
		body = []byte("{}")
	}
	if !utf8.Valid(body) || !json.Valid(body) {
		return mxerr.NotJSON("The body is not JSON")
	}
	if body[0] != '{' {
		return mxerr.BadJSON("The body is not a JSON object")
	}
	if deeper(body, maxDepth) {
		return mxerr.BadJSON("The JSON is nested too deeply")
	}
	if err := json.Unmarshal(body, v); err != nil {
		return mxerr.BadJSON("The body does not have the documented shape").Because(err)
	}
	return nil
}

// maxDepth bounds nested arrays and objects of a body.
const maxDepth = 100

// deeper says whether valid JSON is nested more than n levels.
func deeper(body []byte, n int) bool {
	depth, quoted := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > n {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// token is the access token of a request: by header, or by the deprecated query parameter.
func (r *Request) token() string {
	if h := r.Header.Get("Authorization"); h != "" {
		scheme, token, _ := strings.Cut(h, " ")
		if strings.EqualFold(scheme, "Bearer") {
			return strings.TrimSpace(token)
		}
		return ""
	}
	return r.Query("access_token")
}

// checkText refuses what no id or parameter can hold: invalid UTF-8, NUL, endless strings.
func checkText(name, value string) error {
	if len(value) > maxVar || !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
		return mxerr.InvalidParam("%s is not a valid parameter", name)
	}
	return nil
}

// unescapeVars reads the path parameters, each unescaped once.
func (r *Request) unescapeVars() error {
	raw := mux.Vars(r.Request)
	r.vars = make(map[string]string, len(raw))
	for name, v := range raw {
		text, err := pathUnescape(v)
		if err == nil {
			err = checkText(name, text)
		}
		if err != nil {
			return mxerr.InvalidParam("The path parameter %s is not valid", name)
		}
		r.vars[name] = text
	}
	return nil
}

func (r *Request) checkQuery() error {
	if r.URL.RawQuery == "" {
		return nil
	}
	if len(r.URL.RawQuery) > maxHeaderBytes/2 {
		return mxerr.InvalidParam("The query is too long")
	}
	for name, values := range r.URL.Query() {
		for _, v := range values {
			if name == "filter" { // an inline filter is JSON and may be long
				continue
			}
			if err := checkText(name, v); err != nil {
				return err
			}
		}
	}
	return nil
}

type ctxKey struct{}

// IDFrom is the id of the request that a context belongs to, for the log.
func IDFrom(ctx context.Context) string {
	id, _ := ctx.Value(ctxKey{}).(string)
	return id
}
