package httpapi

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// clientAddr returns the client's address. This is the address of the peer or, if the peer is a trusted proxy, the
// address that the proxy forwards.
func (s *Server) clientAddr(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return "local" // the peer is connected through a Unix socket
	}
	addr := plain(peer.Addr())
	if !s.trusted(addr) {
		return addr.String()
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- { // starting at the nearest hop, the first address that is not a trusted proxy is the client's
		hop, ok := parseHop(hops[i])
		if !ok {
			break
		}
		if addr = hop; !s.trusted(addr) {
			break
		}
	}
	return addr.String()
}

// parseHop parses an address from X-Forwarded-For. Some proxies append the port, and some put IPv6 addresses in
// brackets.
func parseHop(text string) (netip.Addr, bool) {
	text = strings.Trim(strings.TrimSpace(text), `"`)
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
	if err != nil {
		withPort, err := netip.ParseAddrPort(text)
		if err != nil {
			return addr, false
		}
		addr = withPort.Addr()
	}
	return plain(addr), true
}

// plain normalises an address for comparison with networks: it unmaps IPv4-mapped addresses and drops the IPv6 zone.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

func (s *Server) trusted(addr netip.Addr) bool { return isIn(s.opt.TrustedProxies, addr) }

func isIn(networks []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// Network returns the key under which rate limits count an address. For IPv6 this is the /64 prefix, because every
// customer has at least that many addresses; for IPv4 it is the address itself.
func Network(client string) string {
	addr, err := netip.ParseAddr(client)
	if err != nil || addr.Is4() {
		return client
	}
	return netip.PrefixFrom(addr.WithZone(""), 64).Masked().String()
}
