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
	// ErrURL means that a client refuses a URL because it has a scheme that is not allowed, no host, or a user name.
	ErrURL = errors.New("the URL is not allowed")
	// ErrTooLarge is returned when a response is read beyond its bound.
	ErrTooLarge = errors.New("the response is too large")
	// ErrRedirects means that a request was redirected more often than is allowed.
	ErrRedirects = errors.New("the response redirects too often")
)

const (
	maxHeader       = 64 << 10 // bytes in the header of a response
	maxIdleConns    = 200      // to all hosts together
	idleTime        = 90 * time.Second
	expectedTimeout = 30 * time.Second
)

// ClientOptions configures NewClient.
type ClientOptions struct {
	Dialer    *Dialer
	Roots     *x509.CertPool   // certificate authorities; nil means those of the system
	Now       func() time.Time // time at which certificates must be valid; nil means time.Now
	AllowHTTP bool             // allows http in addition to https

	// Timeout bounds a request with its redirects and the reading of its response. With 0, only the request's context
	// bounds them, except that the response must begin within 30 seconds.
	Timeout time.Duration
	// MaxBody bounds the bytes that can be read from a response; reading more fails with ErrTooLarge. With 0, the
	// caller bounds them.
	MaxBody int64
	// MaxRedirects is the number of redirects that are followed. One more fails with ErrRedirects.
	MaxRedirects int
	// ReturnRedirects returns the first redirect as the response; MaxRedirects is then ignored.
	ReturnRedirects bool
	// Connections bounds the connections to one host, which are kept open for later requests. With 0, every request
	// makes a new connection.
	Connections int
}

// NewClient returns an HTTP client for URLs chosen by strangers. It uses no proxy and does not ask for compression. It
// checks every URL, including those of redirects, and every address.
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

// CheckURL returns an error that wraps ErrURL if u may not be requested. Whether its host is on the public internet is
// checked only when it is dialled.
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

// guard checks every request of a client, including those that follow a redirect, and bounds the responses.
type guard struct {
	next    *http.Transport
	maxBody int64
	http    bool // whether http is allowed
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := CheckURL(r.URL, g.http); err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // a RoundTripper must close the body; the first error is returned
		}
		return nil, err
	}
	resp, err := g.next.RoundTrip(r)
	if err == nil && g.maxBody > 0 {
		resp.Body = &bounded{resp.Body, g.maxBody}
	}
	return resp, err
}

// CloseIdleConnections closes the idle connections; http.Client.CloseIdleConnections calls it.
func (g *guard) CloseIdleConnections() { g.next.CloseIdleConnections() }

// bounded is the body of a response. left is the number of bytes that can still be read.
type bounded struct {
	io.ReadCloser
	left int64
}

// Read implements io.Reader. It returns ErrTooLarge if the response is larger than the bound.
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
