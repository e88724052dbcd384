package httpapi

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// clientAddr is the address that speaks, seen through the proxies that are trusted.
func (s *Server) clientAddr(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return "local" // a socket of this machine
	}
	addr := plain(peer.Addr())
	if !s.trusted(addr) {
		return addr.String()
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- { // from the nearest; the first that is no proxy of ours is the client
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

// parseHop reads an address of X-Forwarded-For. Some proxies write the port too, and IPv6 addresses between brackets.
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

// plain returns an address as networks contain it: an IPv4 address as one, a link-local address without its zone.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

func (s *Server) trusted(addr netip.Addr) bool { return isIn(s.opt.TrustedProxies, addr) }

func isIn(networks []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// Network returns what limits count an address as: the /64 of an IPv6 address, since one customer has at least that many
// addresses, and an IPv4 address itself.
func Network(client string) string {
	addr, err := netip.ParseAddr(client)
	if err != nil || addr.Is4() {
		return client
	}
	return netip.PrefixFrom(addr.WithZone(""), 64).Masked().String()
}
