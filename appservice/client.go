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

// These constants bound requests to application services.
const (
	maxAnswer      = 1 << 20          // bytes
	maxRequestTime = 60 * time.Second // includes reading the answer
	connections    = 16               // requests in progress to one application service; further requests wait
	// newerEvery is how long the legacy paths are used for an application service before the current paths are tried
	// again.
	newerEvery = time.Hour
)

// newHTTPClient returns the client for all application services. It allows private addresses, because the administrator
// chooses them. It does not follow redirects, because the access token would be sent along.
func newHTTPClient() *http.Client {
	return netguard.NewClient(netguard.ClientOptions{
		Dialer: netguard.NewDialer(netguard.DialerOptions{AllowPrivate: true}), AllowHTTP: true, ReturnRedirects: true,
		Timeout: maxRequestTime, MaxBody: maxAnswer, Connections: connections,
	})
}

// compat records which legacy behaviour an application service has shown.
type compat struct {
	// mu guards the fields below; a leaf lock.
	mu sync.Mutex
	quirks
	until  time.Time            // when the current paths are tried again
	paused map[string]time.Time // for each path of a key query: until when the application service is not asked
}

// quirks are the ways in which an application service differs from the current specification.
type quirks struct {
	oldPaths   bool // it supports only the legacy paths
	queryToken bool // it expects the access token as a query parameter
}

// call is a request to an application service.
type call struct {
	method string
	path   string // relative to the address of the application service
	legacy string // the legacy path; empty if there is none
	query  url.Values
	body   []byte // nil if there is none
}

// errNoURL means that an application service has no address.
var errNoURL = errors.New("the application service has no url")

// statusError is returned for an answer whose status is not 2xx.
type statusError struct {
	status int
	code   string // errcode of the body
	body   []byte
}

func (e *statusError) Error() string {
	if e.code != "" {
		return fmt.Sprintf("the application service answered %d %s", e.status, e.code)
	}
	return fmt.Sprintf("the application service answered %d", e.status)
}

// unknownPath reports whether the application service does not support the path.
func (e *statusError) unknownPath() bool {
	return (e.status == http.StatusNotFound || e.status == http.StatusMethodNotAllowed) && (e.code == "" || e.code == mxerr.CodeUnrecognized)
}

// refusesToken reports whether the application service did not accept the access token. It may expect the token in
// another part of the request.
func (e *statusError) refusesToken() bool {
	return e.status == http.StatusUnauthorized || e.status == http.StatusForbidden
}

// do sends a request to an application service and returns the body of the answer. If the application service turns out
// to support only the legacy paths, or the token only as a query parameter, do repeats the request in that form.
func (r *Registry) do(ctx context.Context, a *app, c call) ([]byte, error) {
	if a.URL == "" {
		return nil, errNoURL
	}
	h := a.compat.get(r.now())
	for {
		answer, err := r.attempt(ctx, a, c, h)
		var refused *statusError
		switch {
		case !errors.As(err, &refused):
			if err == nil {
				a.compat.set(h, r.now())
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

// get returns the recorded quirks of the application service.
func (w *compat) get(now time.Time) quirks {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.quirks
	h.oldPaths = h.oldPaths && now.Before(w.until)
	return h
}

// set records the quirks with which a request to the application service succeeded.
func (w *compat) set(h quirks, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if h.oldPaths && !(w.oldPaths && now.Before(w.until)) {
		w.until = now.Add(newerEvery)
	}
	w.quirks = h
}

// attempt sends a request once, with the given quirks.
func (r *Registry) attempt(ctx context.Context, a *app, c call, h quirks) ([]byte, error) {
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

// withoutURL strips the URL, which may contain a token, from an error of net/http.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// errcodeOf returns the errcode of a Matrix error, or "" if the body is not a Matrix error.
func errcodeOf(body []byte) string {
	var e struct {
		Code string `json:"errcode"`
	}
	_ = json.Unmarshal(body, &e) // any other body has no errcode
	return e.Code
}
