package ident

import "net/netip"

// MaskedNetwork returns the network of an address: its /24 (IPv4) or /48 (IPv6), which is about what a household or an
// office has. It also accepts a network, such as a /64. It returns "" for anything else.
func MaskedNetwork(text string) string {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return ""
		}
		addr = prefix.Addr()
	}
	addr = addr.Unmap().WithZone("")
	bits := 48
	if addr.Is4() {
		bits = 24
	}
	return netip.PrefixFrom(addr, bits).Masked().String()
}
