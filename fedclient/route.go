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

// Route is the result of resolving a server name. It shows operators why a name cannot be resolved.
type Route struct {
	Host      string   // value of the Host header
	TLSName   string   // the name or IP address that the certificate must be valid for
	Addresses []string // HOST:PORT, in the order in which they are tried
	// WellKnown is the server that /.well-known/matrix/server delegates to, or "" if there is none. WellKnownErr says
	// why the response was not used. Both are empty for IP addresses and for names with a port, for which .well-known
	// is not requested.
	WellKnown    string
	WellKnownErr error
}

// Trace resolves a server name without using the cache.
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

// LookUp resolves HOST:PORT to IP addresses.
func (c *Client) LookUp(ctx context.Context, address string) ([]netip.Addr, error) {
	name, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	return c.dialer.LookUp(ctx, name)
}

// Certificate performs a TLS handshake with HOST:PORT and returns the certificate that the server presents. The
// certificate must be valid for name.
func (c *Client) Certificate(ctx context.Context, address, name string) (*x509.Certificate, error) {
	conn, err := dialTLS(ctx, c.opts, c.dialer, "tcp", address, name)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	secure, ok := conn.(*tls.Conn)
	if !ok || len(secure.ConnectionState().PeerCertificates) == 0 {
		return nil, errors.New("the server presented no certificate")
	}
	return secure.ConnectionState().PeerCertificates[0], nil
}

// Date returns the Date header of a response of the server.
func (c *Client) Date(ctx context.Context, server string) (date string, err error) {
	ctx, cancel := context.WithTimeout(ctx, usualTime)
	defer cancel()
	resp, err := c.open(ctx, request{server: server, method: http.MethodGet, path: v1 + "/version", unsigned: true})
	if err != nil {
		return "", err
	}
	if date = resp.Header.Get("Date"); date == "" {
		err = fmt.Errorf("%w: the response of %s has no Date header", ErrBadAnswer, server)
	}
	return date, errors.Join(err, resp.Body.Close())
}
