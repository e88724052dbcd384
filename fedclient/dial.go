package fedclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// DialFunc opens a connection.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

const (
	dialTime      = 10 * time.Second
	headerTime    = 2 * time.Minute // a server may take long to answer a join
	idleTime      = 90 * time.Second
	maxIdleConns  = 1000
	maxConns      = 16 // per server, with HTTP/1.1
	maxHeaderSize = 64 << 10
	maxAddresses  = 8 // per name
)

// ErrPrivateAddress means that a name resolved to an address that is not public.
var ErrPrivateAddress = errors.New("the address is private, and federation.allow_private_addresses is off")

// reach connects to hosts. It resolves names itself and dials the resulting addresses, so that the address that was
// checked is the one that is dialled; a second lookup could return another address.
type reach struct {
	lookup  Resolver
	dial    DialFunc
	private bool // allows private addresses
}

func newReach(o Options) *reach {
	r := &reach{lookup: o.Resolver, dial: o.Dial, private: o.AllowPrivate}
	if r.lookup == nil {
		r.lookup = net.DefaultResolver
	}
	if r.dial == nil {
		d := &net.Dialer{KeepAlive: 30 * time.Second}
		if !o.AllowPrivate {
			d.Control = func(_, address string, _ syscall.RawConn) error { return public(address) }
		}
		r.dial = d.DialContext
	}
	return r
}

// host connects to HOST:PORT, trying the addresses of a name one after the other.
func (r *reach) host(ctx context.Context, network, address string) (net.Conn, error) {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ips, err := r.addresses(ctx, name)
	if err != nil {
		return nil, err
	}
	err = fmt.Errorf("%s has no address", name)
	for i, ip := range ips {
		var conn net.Conn
		if conn, err = r.one(ctx, network, net.JoinHostPort(ip.String(), port), i == len(ips)-1); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// addresses resolves a name; an IP address is returned as it is.
func (r *reach) addresses(ctx context.Context, name string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{ip}, nil
	}
	ips, err := r.lookup.LookupNetIP(ctx, "ip", name)
	return ips[:min(len(ips), maxAddresses)], err
}

func (r *reach) one(ctx context.Context, network, address string, last bool) (net.Conn, error) {
	if !r.private {
		if err := public(address); err != nil {
			return nil, err
		}
	}
	if !last { // leave time for the other addresses
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, dialTime/4)
		defer cancel()
	}
	return r.dial(ctx, network, address)
}

// forbidden lists networks that no other server can be in, besides those that netip recognises.
var forbidden = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),       // this network
	netip.MustParsePrefix("100.64.0.0/10"),   // carrier-grade NAT
	netip.MustParsePrefix("192.0.0.0/24"),    // protocol assignments
	netip.MustParsePrefix("192.0.2.0/24"),    // documentation
	netip.MustParsePrefix("192.88.99.0/24"),  // 6to4 relays
	netip.MustParsePrefix("198.18.0.0/15"),   // benchmarks
	netip.MustParsePrefix("198.51.100.0/24"), // documentation
	netip.MustParsePrefix("203.0.113.0/24"),  // documentation
	netip.MustParsePrefix("240.0.0.0/4"),     // reserved, broadcast
	netip.MustParsePrefix("::/96"),           // IPv4-compatible addresses
	netip.MustParsePrefix("64:ff9b::/96"),    // NAT64, which leads to IPv4
	netip.MustParsePrefix("64:ff9b:1::/48"),  // local-use NAT64
	netip.MustParsePrefix("100::/64"),        // discard
	netip.MustParsePrefix("2001::/23"),       // Teredo and other protocols
	netip.MustParsePrefix("2001:db8::/32"),   // documentation
	netip.MustParsePrefix("3fff::/20"),       // documentation
	netip.MustParsePrefix("2002::/16"),       // 6to4, which leads to IPv4
	netip.MustParsePrefix("fec0::/10"),       // site-local
}

// public returns an error unless the address is on the public internet.
func public(address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %s", ErrPrivateAddress, address)
	}
	ip := ap.Addr().Unmap()
	if !ip.IsGlobalUnicast() || ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() {
		return fmt.Errorf("%w: %s", ErrPrivateAddress, ip)
	}
	for _, p := range forbidden {
		if p.Contains(ip.WithZone("")) {
			return fmt.Errorf("%w: %s", ErrPrivateAddress, ip)
		}
	}
	return nil
}

// serverKey is the context key for the server name of a request.
type serverKey struct{}

// poolHost returns a URL host that is unique to a server name, so that connections are pooled by server.
func poolHost(server string) string {
	return url.PathEscape(strings.NewReplacer("[", "", "]", "-", ":", "_").Replace(server))
}

func newTransport(o Options, r *resolver, reach *reach) *http.Transport {
	return &http.Transport{
		DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			server, _ := ctx.Value(serverKey{}).(string)
			return dialServer(ctx, o, r, reach, network, server)
		},
		ForceAttemptHTTP2: true, MaxIdleConns: maxIdleConns, MaxConnsPerHost: maxConns, IdleConnTimeout: idleTime,
		ResponseHeaderTimeout: headerTime, MaxResponseHeaderBytes: maxHeaderSize, DisableCompression: true,
	}
}

// dialServer tries the addresses that a server name resolves to, in order.
func dialServer(ctx context.Context, o Options, r *resolver, reach *reach, network, server string) (net.Conn, error) {
	t, err := r.resolve(ctx, server)
	if err != nil {
		return nil, err
	}
	for _, address := range t.addresses {
		var conn net.Conn
		if conn, err = dialTLS(ctx, o, reach, network, address, t.tlsName); err == nil {
			return conn, nil
		}
	}
	r.forget(server)
	return nil, err
}

func dialTLS(ctx context.Context, o Options, reach *reach, network, address, name string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	raw, err := reach.host(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, tlsConfig(o, name))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the handshake's error is returned
		return nil, err
	}
	return conn, nil
}

// tlsConfig returns the configuration for a server that must present a certificate for name, which may be an IP
// address.
func tlsConfig(o Options, name string) *tls.Config {
	c := &tls.Config{RootCAs: o.Roots, ServerName: name, MinVersion: tls.VersionTLS12, Time: o.Now}
	if name != "" {
		c.NextProtos = []string{"h2", "http/1.1"}
	}
	return c
}
