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
	mu         sync.Mutex
	legacy     time.Time // until then the paths of old drafts are used
	queryToken bool      // it wants the token as a query parameter
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
	legacy, inQuery := a.wire.habits(r.now())
	answer, err := r.attempt(ctx, a, c, legacy, inQuery)
	var refused *statusError
	if errors.As(err, &refused) && refused.refusesToken() && !inQuery {
		again, err2 := r.attempt(ctx, a, c, legacy, true)
		if !errors.As(err2, &refused) || !refused.refusesToken() {
			a.wire.wantsQueryToken()
			answer, err, inQuery = again, err2, true
		}
	}
	if errors.As(err, &refused) && refused.unknownPath() && c.legacy != "" && !legacy {
		again, err2 := r.attempt(ctx, a, c, true, inQuery)
		if err2 == nil {
			a.wire.knowsOnlyOld(r.now().Add(newerEvery))
			return again, nil
		}
	}
	return answer, err
}

func (w *wire) habits(now time.Time) (legacy, queryToken bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return now.Before(w.legacy), w.queryToken
}

func (w *wire) wantsQueryToken() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queryToken = true
}

func (w *wire) knowsOnlyOld(until time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.legacy = until
}

// attempt sends a request once.
func (r *Registry) attempt(ctx context.Context, a *app, c call, legacy, inQuery bool) ([]byte, error) {
	path, query := c.path, url.Values{}
	if legacy && c.legacy != "" {
		path = c.legacy
	}
	for key, values := range c.query {
		query[key] = values
	}
	if inQuery {
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
