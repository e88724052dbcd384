package httpapi

import (
	"errors"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"ebb/ident"
	"ebb/mxerr"
)

// Request is a request that is being handled.
type Request struct {
	*http.Request
	ident.Requester
	Server     string // the requesting homeserver, or ""
	RequestID  string
	ClientAddr string // the client's address, as forwarded by trusted proxies
	Nonce      string // nonce for the style elements of a page; "" for other responses
	limit      func(class Rate, who string) time.Duration
	start      time.Time
	memory     *Memory
	body       []byte
	bodyEnded  bool             // whether the body was read to its end
	places     [2]*atomic.Int32 // the counters that include this request while it is in progress
	held       *held            // nil if no bytes are counted for the request
	proved     bool             // whether its network has sent a correctly signed request before
	vars       []pathVar
	query      url.Values
	route      *served
	errcode    string // the error code of the response
}

// maxVar is the maximum length of a path or query parameter in bytes; IDs have at most 255.
const maxVar = 2048

// Network returns the network from which the request comes, as rate limits count it.
func (r *Request) Network() string { return Network(r.ClientAddr) }

// who returns the requester to whom limits apply: the user or homeserver, or the network if the request is not
// authenticated.
func (r *Request) who() string {
	switch {
	case r.Server != "":
		return r.Server
	case r.UserID != "":
		return string(r.UserID)
	}
	return r.Network()
}

// Limit counts the request in the given class. It counts it for who, which need not be the requester: it may be the
// target user, for example. Application services are exempt unless their registration says otherwise, because they act
// for many users and the administrator trusts them.
//
// Errors: M_LIMIT_EXCEEDED.
func (r *Request) Limit(class Rate, who string) error {
	if r.limit == nil || r.AppService != "" && !r.RateLimited {
		return nil
	}
	if wait := r.limit(class, who); wait > 0 {
		return mxerr.LimitExceeded(wait)
	}
	return nil
}

// Var returns a path parameter, unescaped once, or "" if the route has none of that name.
func (r *Request) Var(name string) string {
	for _, v := range r.vars {
		if v.name == name {
			return v.value
		}
	}
	return ""
}

// Query returns a query parameter, or "" if it is absent.
func (r *Request) Query(name string) string { return r.query.Get(name) }

// QueryAll returns all values of a query parameter that may be repeated, such as via.
func (r *Request) QueryAll(name string) []string { return r.query[name] }

// QueryValues returns all query parameters. The caller must not change them.
func (r *Request) QueryValues() url.Values { return r.query }

// QueryInt returns an integer query parameter. It must be at least lowest; values above highest are reduced to highest.
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

// QueryBool returns a boolean query parameter, which must be true or false.
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

// QueryMillis returns a query parameter given in milliseconds, capped at highest.
//
// Errors: M_INVALID_PARAM.
func (r *Request) QueryMillis(name string, byDefault, highest time.Duration) (time.Duration, error) {
	ms, err := r.QueryInt(name, byDefault.Milliseconds(), 0, highest.Milliseconds())
	return time.Duration(ms) * time.Millisecond, err
}

// Token returns the access token from the header or from the deprecated query parameter, or "" if there is none.
// Spec: client-server-api#using-access-tokens
func (r *Request) Token() string {
	if h := r.Header["Authorization"]; len(h) > 0 {
		scheme, token, _ := strings.Cut(h[0], " ")
		if strings.EqualFold(scheme, "Bearer") {
			return strings.TrimSpace(token)
		}
		return ""
	}
	return r.Query("access_token")
}

// idVars lists the path parameters that are IDs, which must not contain control characters. Others, such as types,
// state keys, tags, rule IDs and transaction IDs, are free text.
var idVars = map[string]bool{
	"roomId": true, "roomIdOrAlias": true, "roomAlias": true, "userId": true, "eventId": true, "deviceId": true,
	"serverName": true, "mediaId": true, "sessionId": true, "filterId": true,
}

// checkText refuses values that are invalid for every parameter: invalid UTF-8, NUL characters and overlong values.
func checkText(name, value string) error {
	if len(value) > maxVar || !isText(value) {
		return mxerr.InvalidParam("The parameter %s is not valid", name)
	}
	return nil
}

func isControl(c rune) bool { return c < 0x20 || c >= 0x7f && c < 0xa0 }

// unescapeVars unescapes each path parameter once.
func (r *Request) unescapeVars() error {
	for i, v := range r.vars {
		text, err := url.PathUnescape(v.value)
		if err == nil {
			err = checkText(v.name, text)
		}
		if err != nil || idVars[v.name] && strings.IndexFunc(text, isControl) >= 0 {
			return mxerr.InvalidParam("The path parameter %s is not valid", v.name)
		}
		r.vars[i].value = text
	}
	return nil
}

// Form reads the body as a form (application/x-www-form-urlencoded). Its names and values are valid UTF-8 without NUL
// characters, which PostgreSQL cannot store.
//
// Errors: M_INVALID_PARAM, M_TOO_LARGE.
func (r *Request) Form() (url.Values, error) {
	if kind := r.Header.Get("Content-Type"); kind != "" {
		if media, _, err := mime.ParseMediaType(kind); err != nil || media != formType {
			return nil, mxerr.InvalidParam("Content-Type must be %s", formType).Because(err)
		}
	}
	body, err := r.Body()
	if err != nil {
		return nil, err
	}
	f, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, mxerr.InvalidParam("The form is not valid").Because(err)
	}
	for name, values := range f {
		if !isText(name) || slices.ContainsFunc(values, func(v string) bool { return !isText(v) }) {
			return nil, mxerr.InvalidParam("The form has characters that no text has")
		}
	}
	return f, nil
}

const formType = "application/x-www-form-urlencoded"

// isText reports whether a value is valid UTF-8 without NUL characters.
func isText(value string) bool { return utf8.ValidString(value) && strings.IndexByte(value, 0) < 0 }

// parseQuery parses the query parameters.
func (r *Request) parseQuery() (err error) {
	if r.URL.RawQuery == "" {
		return nil
	}
	if r.query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		return mxerr.InvalidParam("The query is not valid").Because(err)
	}
	for name, values := range r.query {
		for _, v := range values {
			if name == "filter" && utf8.ValidString(v) { // an inline filter is JSON, which has bounds of its own
				continue
			}
			if err := checkText(name, v); err != nil {
				return err
			}
		}
	}
	return nil
}
