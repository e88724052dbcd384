// Package netguard makes requests to addresses that strangers choose, such as other servers and files that these
// servers keep elsewhere. It checks every IP address when it is dialled, so that nobody can make this server send
// requests into its own network, and it bounds the cost of a request. It has no knowledge of Matrix.
//
// A client made by NewClient checks the URL of a request and of every redirect. Its Dialer resolves the host name,
// checks the resulting addresses and dials a checked address itself. The response is bounded in size and time.
package netguard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// ErrPrivateAddress means that a connection was refused because the address is not on the public internet.
var ErrPrivateAddress = errors.New("the address is not on the public internet")

// Resolver resolves host names; *net.Resolver implements it.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// DialFunc is a function that opens a connection.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

const (
	// dialTime bounds the time for resolving a name and for connecting.
	dialTime     = 10 * time.Second
	keepAlive    = 30 * time.Second
	maxAddresses = 8 // addresses tried for one name
)

// DialerOptions configures a Dialer.
type DialerOptions struct {
	Resolver     Resolver // nil means the system's resolver
	Dial         DialFunc // dials IP addresses that were checked; nil means the network
	AllowPrivate bool     // allows loopback, private and reserved addresses
}

// Dialer connects to hosts. It resolves names itself and dials the resulting addresses, so that the checked address is
// the dialled one; a second lookup could return a different address.
type Dialer struct {
	lookup  Resolver
	dial    DialFunc
	private bool
}

// NewDialer returns a Dialer.
func NewDialer(o DialerOptions) *Dialer {
	d := &Dialer{lookup: o.Resolver, dial: o.Dial, private: o.AllowPrivate}
	if d.lookup == nil {
		d.lookup = net.DefaultResolver
	}
	if d.dial == nil {
		nd := &net.Dialer{KeepAlive: keepAlive}
		if !o.AllowPrivate {
			nd.Control = func(_, address string, _ syscall.RawConn) error { return check(address) }
		}
		d.dial = nd.DialContext
	}
	return d
}

// DialContext connects to HOST:PORT. If the host is a name, it tries the name's addresses one after the other.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ips, err := d.LookUp(ctx, name)
	if err != nil {
		return nil, err
	}
	err = fmt.Errorf("%s has no address", name)
	for i, ip := range ips {
		var conn net.Conn
		if conn, err = d.one(ctx, network, net.JoinHostPort(ip.String(), port), i == len(ips)-1); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// LookUp resolves a name. It returns an IP address unchanged.
func (d *Dialer) LookUp(ctx context.Context, name string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{ip}, nil
	}
	ips, err := d.lookup.LookupNetIP(ctx, "ip", name)
	return ips[:min(len(ips), maxAddresses)], err
}

// one dials one IP address. Unless it is the last address of a name, it gets only part of the remaining time.
func (d *Dialer) one(ctx context.Context, network, address string, last bool) (net.Conn, error) {
	if !d.private {
		if err := check(address); err != nil {
			return nil, err
		}
	}
	if !last {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, dialTime/4)
		defer cancel()
	}
	return d.dial(ctx, network, address)
}

// forbidden lists networks in which no public host can be, in addition to those that netip recognises.
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

// IsPublic reports whether an address is on the public internet.
func IsPublic(ip netip.Addr) bool {
	ip = ip.Unmap()
	if !ip.IsGlobalUnicast() || ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() {
		return false
	}
	for _, p := range forbidden {
		if p.Contains(ip.WithZone("")) {
			return false
		}
	}
	return true
}

// check returns an error if IP:PORT is not on the public internet.
func check(address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil || !IsPublic(ap.Addr()) {
		return fmt.Errorf("%w: %s", ErrPrivateAddress, address)
	}
	return nil
}
