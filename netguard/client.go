package netguard

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

var (
	// ErrURL means that a URL is not one that a client requests: a wrong scheme, no host, or a user name.
	ErrURL = errors.New("the URL is not allowed")
	// ErrTooLarge is the error of reading a response beyond its bound.
	ErrTooLarge = errors.New("the response is too large")
	// ErrRedirects means that a response redirected more often than is allowed.
	ErrRedirects = errors.New("the response redirects too often")
)

const (
	maxHeader       = 64 << 10 // bytes of a response's header
	maxIdleConns    = 200      // to all hosts
	idleTime        = 90 * time.Second
	expectedTimeout = 30 * time.Second
)

// ClientOptions configures a Client.
type ClientOptions struct {
	Dialer    *Dialer
	Roots     *x509.CertPool   // certificate authorities; nil: the system's
	Now       func() time.Time // when certificates are valid; nil: time.Now
	AllowHTTP bool             // allows http besides https

	// Timeout bounds a request with its redirects and the reading of its response. 0 leaves this to the request's
	// context; a response then begins within 30 seconds.
	Timeout time.Duration
	// MaxBody bounds the bytes of a response that can be read; more is ErrTooLarge. 0 leaves this to the caller.
	MaxBody int64
	// MaxRedirects is how many redirects are followed. The one after that is ErrRedirects.
	MaxRedirects int
	// ReturnRedirects makes the first redirect the response of the request; MaxRedirects is not used.
	ReturnRedirects bool
	// Connections bounds the connections to one host, which are kept open for later requests. 0 makes a connection for
	// each request.
	Connections int
}

// NewClient returns a client for URLs that strangers choose. It uses no proxy and asks for no compression; every URL,
// also of a redirect, and every address is checked.
func NewClient(o ClientOptions) *http.Client {
	begin := o.Timeout
	if begin == 0 {
		begin = expectedTimeout
	}
	return &http.Client{
		Timeout: o.Timeout,
		Transport: &guard{maxBody: o.MaxBody, http: o.AllowHTTP, next: &http.Transport{
			DialContext: o.Dialer.DialContext, TLSClientConfig: &tls.Config{RootCAs: o.Roots, MinVersion: tls.VersionTLS12, Time: o.Now},
			TLSHandshakeTimeout: dialTime, ResponseHeaderTimeout: begin, MaxResponseHeaderBytes: maxHeader, DisableCompression: true,
			DisableKeepAlives: o.Connections == 0, ForceAttemptHTTP2: o.Connections > 0,
			MaxConnsPerHost: o.Connections, MaxIdleConnsPerHost: o.Connections, MaxIdleConns: maxIdleConns, IdleConnTimeout: idleTime,
		}},
		CheckRedirect: func(_ *http.Request, via []*http.Request) error {
			switch {
			case o.ReturnRedirects:
				return http.ErrUseLastResponse
			case len(via) > o.MaxRedirects:
				return ErrRedirects
			}
			return nil
		},
	}
}

// CheckURL returns an error, which wraps ErrURL, unless u can be requested. Whether its host is public is known only
// when it is dialled.
func CheckURL(u *url.URL, allowHTTP bool) error {
	switch {
	case u.Scheme != "https" && (u.Scheme != "http" || !allowHTTP):
		return fmt.Errorf("%w: its scheme is not https", ErrURL)
	case u.Hostname() == "":
		return fmt.Errorf("%w: it has no host", ErrURL)
	case u.User != nil:
		return fmt.Errorf("%w: it has a user name", ErrURL)
	}
	return nil
}

// guard checks every request of a client, also those that follow a redirect, and bounds the responses.
type guard struct {
	next    *http.Transport
	maxBody int64
	http    bool // allows http
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := CheckURL(r.URL, g.http); err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // a RoundTripper must close it; the first error is returned
		}
		return nil, err
	}
	resp, err := g.next.RoundTrip(r)
	if err == nil && g.maxBody > 0 {
		resp.Body = &bounded{resp.Body, g.maxBody}
	}
	return resp, err
}

// CloseIdleConnections is called by http.Client.CloseIdleConnections.
func (g *guard) CloseIdleConnections() { g.next.CloseIdleConnections() }

// bounded is the body of a response, of which left bytes can still be read.
type bounded struct {
	io.ReadCloser
	left int64
}

// Read returns ErrTooLarge if there is more to read than the bound allows.
func (b *bounded) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if int64(n) > b.left {
		n, err = int(b.left), ErrTooLarge
	}
	b.left -= int64(n)
	return n, err
}
