package fedclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
)

// Route is where a server name leads, for who wants to know why it does not lead where it should.
type Route struct {
	Host      string   // of the Host header
	TLSName   string   // whom the certificate must be for
	Addresses []string // HOST:PORT, to be tried in this order
	// WellKnown is what /.well-known/matrix/server delegates to, "" for nothing; WellKnownErr is why it counts for nothing. Names
	// that are not asked for it, those with a port and IP addresses, have neither.
	WellKnown    string
	WellKnownErr error
}

// Trace finds where a server name leads, by looking and not from memory.
// Spec: server-server-api#resolving-server-names
func (c *Client) Trace(ctx context.Context, server string) (r Route, err error) {
	host, port := splitName(server)
	if _, isLiteral := literal(server, host, port); !isLiteral && port == "" {
		r.WellKnown, _, r.WellKnownErr = c.resolve.fetchWellKnown(ctx, host)
	}
	c.resolve.forget(server)
	t, err := c.resolve.resolve(ctx, server)
	r.Host, r.TLSName, r.Addresses = t.host, t.tlsName, t.addresses
	return r, err
}

// LookUp finds the IP addresses of HOST:PORT.
func (c *Client) LookUp(ctx context.Context, address string) ([]netip.Addr, error) {
	name, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	return c.reach.addresses(ctx, name)
}

// Certificate shakes hands with HOST:PORT and gives the certificate that it shows, which must be good for the name.
func (c *Client) Certificate(ctx context.Context, address, name string) (*x509.Certificate, error) {
	conn, err := dialTLS(ctx, c.opts, c.reach, "tcp", address, name)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	secure, ok := conn.(*tls.Conn)
	if !ok || len(secure.ConnectionState().PeerCertificates) == 0 {
		return nil, errors.New("no certificate was shown")
	}
	return secure.ConnectionState().PeerCertificates[0], nil
}

// Date asks a server what time it is, by the Date of an answer.
func (c *Client) Date(ctx context.Context, server string) (date string, err error) {
	ctx, cancel := context.WithTimeout(ctx, usualTime)
	defer cancel()
	resp, err := c.open(ctx, request{server: server, method: http.MethodGet, path: v1 + "/version", unsigned: true})
	if err != nil {
		return "", err
	}
	if date = resp.Header.Get("Date"); date == "" {
		err = fmt.Errorf("%w: %s does not say what time it is", ErrBadAnswer, server)
	}
	return date, errors.Join(err, resp.Body.Close())
}

// IsPublic says whether an address is one of the public internet.
func IsPublic(ip netip.Addr) bool { return public(netip.AddrPortFrom(ip, 0).String()) == nil }
