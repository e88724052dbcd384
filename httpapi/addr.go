package httpapi

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// clientAddr returns the client's address: the peer's, or the forwarded one if the peer is a trusted proxy.
func (s *Server) clientAddr(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return "local" // a Unix socket of this machine
	}
	addr := plain(peer.Addr())
	if !s.trusted(addr) {
		return addr.String()
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- { // from the nearest hop; the first that is not a trusted proxy is the client
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

// Network returns the key by which limits count an address: the /64 prefix of an IPv6 address, since one customer has
// at least that many addresses, or the IPv4 address itself.
func Network(client string) string {
	addr, err := netip.ParseAddr(client)
	if err != nil || addr.Is4() {
		return client
	}
	return netip.PrefixFrom(addr.WithZone(""), 64).Masked().String()
}
