// Package fedclient sends requests to other servers and proves this server's identity to them. It resolves server
// names, connects with TLS, signs requests, and keeps the signing keys of servers (KeyRing). It treats events as opaque
// bytes and has no knowledge of rooms.
//
// A method of Client first asks the Gate, which makes requests to unreachable servers fail at once. The resolver then
// resolves the server name, mostly from memory. The request is sent over a pooled connection whose address was checked
// when it was dialled. The response is bounded in size and time.
package fedclient

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"ebb/keyed"
	"ebb/netguard"
	"ebb/rooms/pdu"
)

// Options configures a Client.
type Options struct {
	Server string // this server's name
	Signer pdu.SignerSource
	Now    func() time.Time
	Cache  keyed.Budget // bounds the caches
	Log    *slog.Logger

	Roots        *x509.CertPool // certificate authorities for other servers; nil means those of the system
	AllowPrivate bool           // allows loopback and private addresses
	Allowed      func(server string) bool
	Resolver     Resolver          // nil means the resolver of the system
	Dial         netguard.DialFunc // dials IP addresses that were checked; nil means the network
	UserAgent    string
}

// Gate refuses requests to servers that do not respond, so that callers need not wait for them.
type Gate interface {
	Allowed(server string) error // returns nil if the server may be tried
	Succeeded(server string)
	Failed(server string, err error) // records that the server was unreachable or responded with a 5xx
}

// Client sends requests to other servers. It is safe for concurrent use.
type Client struct {
	opts      Options
	dialer    *netguard.Dialer
	resolve   *resolver
	transport *http.Transport
	elsewhere *http.Client // for files that are not on a Matrix server
	answers   *answers
	gate      Gate // nil means that every request is tried
}

// New returns a Client.
func New(o Options) *Client {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{opts: o, answers: newAnswers()}
	if c.opts.Resolver == nil {
		c.opts.Resolver = net.DefaultResolver
	}
	c.dialer = netguard.NewDialer(netguard.DialerOptions{Resolver: c.opts.Resolver, Dial: o.Dial, AllowPrivate: o.AllowPrivate})
	c.resolve = newResolver(c.opts, c.dialer)
	c.transport = newTransport(c.opts, c.resolve, c.dialer)
	c.elsewhere = netguard.NewClient(netguard.ClientOptions{Dialer: c.dialer, Roots: o.Roots, Now: o.Now, MaxRedirects: 1})
	return c
}

// SetGate makes the client ask g before each request. It must be called once, before the first request. The gate cannot
// be an option of New, because the gate is the outbox, which itself needs the client.
func (c *Client) SetGate(g Gate) { c.gate = g }

// Close closes idle connections.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

const (
	// usualTime and usualSize bound the duration and the response of a request by default.
	usualTime = 30 * time.Second
	usualSize = 16 << 20
	// longTime and longSize bound requests for the state of a room, which is read piece by piece. The state of a room
	// with 100,000 members has about 150 MB.
	longTime = 5 * time.Minute
	longSize = 512 << 20
	// maxErrorBody bounds how much of the body of an error response is read.
	maxErrorBody = 64 << 10
)

// request is a request to another server.
type request struct {
	server   string
	method   string
	path     string // escaped
	query    url.Values
	body     any // nil for no body; json.RawMessage is sent unchanged
	unsigned bool
	time     time.Duration // 0 means usualTime
	size     int64         // 0 means usualSize
}

// path joins a prefix and path segments, which it escapes.
func path(prefix string, segments ...string) string {
	out := prefix
	for _, s := range segments {
		out += "/" + url.PathEscape(s)
	}
	return out
}

// do sends a request and decodes the response into answer. It discards the response if answer is nil.
func (c *Client) do(ctx context.Context, r request, answer any) error {
	if r.time == 0 {
		r.time = usualTime
	}
	if r.size == 0 {
		r.size = usualSize
	}
	ctx, cancel := context.WithTimeout(ctx, r.time)
	defer cancel()
	began := time.Now()
	resp, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	h, release := holdOf(ctx)
	defer release()
	body, err := readAtMost(&counted{resp.Body, freeAnswer, func(n int64) error { return c.answers.hold(ctx, h, r.server, n) }}, r.size)
	if err != nil {
		return c.doneReading(ctx, r.server, began, err)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("%w: %s answered %s: %w", ErrBadAnswer, r.server, r.path, err)
	}
	return nil
}

// open sends a request and returns the response if its status is 200. Otherwise it returns a *RemoteError, or an error
// that explains why there is no response.
func (c *Client) open(ctx context.Context, r request) (*http.Response, error) {
	if err := c.mayAsk(r.server); err != nil {
		// Without this, a caller that waits for the gate would retry at once, over and over.
		if errors.Is(err, ErrKeptOut) && c.gate != nil {
			c.gate.Failed(r.server, err)
		}
		return nil, err
	}
	began := time.Now()
	hr, err := c.build(ctx, r)
	if err != nil {
		return nil, c.failed(ctx, r.server, began, err)
	}
	resp, err := c.transport.RoundTrip(hr)
	if err != nil {
		return nil, c.failed(ctx, r.server, began, fmt.Errorf("%w: %s: %w", ErrUnreachable, r.server, err))
	}
	if resp.StatusCode == http.StatusOK {
		c.reached(r.server)
		return resp, nil
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	remote := readError(r.server, resp.StatusCode, body, resp.Header)
	if resp.StatusCode >= 500 && remote.Code == "" {
		return nil, c.failed(ctx, r.server, began, remote)
	}
	c.reached(r.server)
	return nil, remote
}

func (c *Client) mayAsk(server string) error {
	switch {
	case server == c.opts.Server:
		return fmt.Errorf("%w: this server does not send federation requests to itself", ErrUnreachable)
	case !possibleServer(server):
		return fmt.Errorf("%w: %.100q", ErrNoServer, server)
	case c.opts.Allowed != nil && !c.opts.Allowed(server):
		return fmt.Errorf("%w: %w: %s", ErrUnreachable, ErrKeptOut, server)
	case c.gate != nil:
		return c.gate.Allowed(server)
	}
	return nil
}

func (c *Client) reached(server string) {
	if c.gate != nil {
		c.gate.Succeeded(server)
	}
}

// leastPatience is how long a request must have waited for the server to count as unreachable, since a request on
// behalf of a client may have a shorter deadline.
const leastPatience = 5 * time.Second

// failed reports the failure of a request to the gate, unless this server gave up too early.
func (c *Client) failed(ctx context.Context, server string, began time.Time, err error) error {
	hurried := errors.Is(ctx.Err(), context.DeadlineExceeded) && time.Since(began) < leastPatience
	if c.gate != nil && !hurried && !errors.Is(ctx.Err(), context.Canceled) {
		c.gate.Failed(server, err)
	}
	return err
}

// build creates the signed request.
func (c *Client) build(ctx context.Context, r request) (*http.Request, error) {
	var body []byte
	switch b := r.body.(type) {
	case nil:
	case json.RawMessage:
		body = b
	default:
		var err error
		if body, err = json.Marshal(b); err != nil {
			return nil, err
		}
	}
	uri := r.path
	if len(r.query) > 0 {
		uri += "?" + r.query.Encode()
	}
	target, err := c.resolve.resolve(ctx, r.server)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrUnreachable, r.server, err)
	}
	hr, err := http.NewRequestWithContext(context.WithValue(ctx, serverKey{}, r.server), r.method, "https://"+poolHost(r.server)+uri, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	hr.Host = target.host
	if body == nil {
		hr.Body, hr.ContentLength = http.NoBody, 0
	} else {
		hr.Header.Set("Content-Type", "application/json")
	}
	if c.opts.UserAgent != "" {
		hr.Header.Set("User-Agent", c.opts.UserAgent)
	}
	if r.method == http.MethodPut { // lets net/http repeat the request if a pooled connection turns out to be dead
		hr.Header["Idempotency-Key"] = nil
	}
	if !r.unsigned {
		header, err := c.sign(r.method, uri, r.server, body)
		if err != nil {
			return nil, err
		}
		hr.Header.Set("Authorization", header)
	}
	return hr, nil
}

// SignRequest returns the Authorization header for a signed request to a service that is not a homeserver. uri is the
// path with the query.
func (c *Client) SignRequest(method, uri, destination string, body []byte) (string, error) {
	return c.sign(method, uri, destination, body)
}

// sign returns the Authorization header of a request.
// Spec: server-server-api#request-authentication
func (c *Client) sign(method, uri, destination string, body []byte) (string, error) {
	text, err := signedText(method, uri, c.opts.Server, destination, body, nil)
	if err != nil {
		return "", err
	}
	signer := c.opts.Signer.Current()
	signature := base64.RawStdEncoding.EncodeToString(ed25519.Sign(signer.Key, text))
	return XMatrix{Origin: c.opts.Server, Destination: destination, Key: string(signer.KeyID), Signature: signature}.String(), nil
}

var errTooLarge = errors.New("the response is too large")

func readAtMost(r io.Reader, size int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, size+1))
	if err == nil && int64(len(body)) > size {
		err = errTooLarge
	}
	return body, err
}
