package appservice

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"ebb/mxerr"
	"ebb/netguard"
)

// Bounds of requests to application services.
const (
	maxAnswer      = 1 << 20          // bytes
	maxRequestTime = 60 * time.Second // with its answer
	connections    = 16               // to one application service at once; requests beyond wait
	// newerEvery is how often an application service that knows only the paths of old drafts is asked by the current
	// paths.
	newerEvery = time.Hour
)

// newHTTPClient returns the client for all application services. Their addresses are chosen by the administrator, so
// that private ones are allowed. Redirects are not followed, because the token would go with them.
func newHTTPClient() *http.Client {
	return netguard.NewClient(netguard.ClientOptions{
		Dialer: netguard.NewDialer(netguard.DialerOptions{AllowPrivate: true}), AllowHTTP: true, ReturnRedirects: true,
		Timeout: maxRequestTime, MaxBody: maxAnswer, Connections: connections,
	})
}

// wire is what was found out about the old habits of an application service.
type wire struct {
	// mu guards the fields below; a leaf lock.
	mu sync.Mutex
	habits
	until time.Time            // when the current paths are tried again
	rest  map[string]time.Time // until when it is not asked for keys by a path
}

// habits are the ways in which an application service differs from the current specification.
type habits struct {
	oldPaths   bool // it knows only the paths of old drafts
	queryToken bool // it wants the token as a query parameter
}

// call is a request to an application service.
type call struct {
	method string
	path   string // below the service's address
	legacy string // the path of old drafts; "": there is none
	query  url.Values
	body   []byte // nil: none
}

// errNoURL means that an application service has no address.
var errNoURL = errors.New("the application service has no url")

// statusError is an answer of an application service that is not 2xx.
type statusError struct {
	status int
	code   string // errcode
	body   []byte
}

func (e *statusError) Error() string {
	if e.code != "" {
		return fmt.Sprintf("the application service answered %d %s", e.status, e.code)
	}
	return fmt.Sprintf("the application service answered %d", e.status)
}

// unknownPath reports whether an answer means that the application service does not know the path.
func (e *statusError) unknownPath() bool {
	return (e.status == http.StatusNotFound || e.status == http.StatusMethodNotAllowed) && (e.code == "" || e.code == mxerr.CodeUnrecognized)
}

// refusesToken reports whether the application service did not find the token where it expects it.
func (e *statusError) refusesToken() bool {
	return e.status == http.StatusUnauthorized || e.status == http.StatusForbidden
}

// do sends a request and returns the answer of an application service. It uses the path of old drafts, and the token in
// the query, if the service turns out to know nothing else.
func (r *Registry) do(ctx context.Context, a *app, c call) ([]byte, error) {
	if a.URL == "" {
		return nil, errNoURL
	}
	h := a.wire.get(r.now())
	for {
		answer, err := r.attempt(ctx, a, c, h)
		var refused *statusError
		switch {
		case !errors.As(err, &refused):
			if err == nil {
				a.wire.set(h, r.now())
			}
			return answer, err
		case refused.refusesToken() && !h.queryToken:
			h.queryToken = true
		case refused.unknownPath() && !h.oldPaths && c.legacy != "":
			h.oldPaths = true
		default:
			return nil, err
		}
	}
}

// get returns what an application service wants.
func (w *wire) get(now time.Time) habits {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.habits
	h.oldPaths = h.oldPaths && now.Before(w.until)
	return h
}

// set stores what an application service turned out to want.
func (w *wire) set(h habits, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if h.oldPaths && !(w.oldPaths && now.Before(w.until)) {
		w.until = now.Add(newerEvery)
	}
	w.habits = h
}

// attempt sends a request once.
func (r *Registry) attempt(ctx context.Context, a *app, c call, h habits) ([]byte, error) {
	path, query := c.path, url.Values{}
	if h.oldPaths && c.legacy != "" {
		path = c.legacy
	}
	for key, values := range c.query {
		query[key] = values
	}
	if h.queryToken {
		query.Set("access_token", a.HSToken)
	}
	target := a.URL + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, c.method, target, bytes.NewReader(c.body))
	if err != nil {
		return nil, withoutURL(err)
	}
	req.Header.Set("Authorization", "Bearer "+a.HSToken)
	if c.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, withoutURL(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, &statusError{status: resp.StatusCode, code: errcodeOf(body), body: body}
	}
	return body, nil
}

// withoutURL removes from an error of net/http the URL, which may contain a token.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// errcodeOf returns the errcode of a Matrix error, or "" if the body is none.
func errcodeOf(body []byte) string {
	var e struct {
		Code string `json:"errcode"`
	}
	_ = json.Unmarshal(body, &e) // anything else has no code
	return e.Code
}
