package fedclient

import (
	"net/netip"
	"strconv"
	"strings"

	"ebb/rooms/pdu"
)

// These constants bound DNS names, in bytes.
const (
	maxDNSName  = 253
	maxDNSLabel = 63
)

// possibleServer reports whether a server with this name can exist. The grammar of server names allows many names that
// no server can have, such as a..b, 1.2.3.999 or a:99999; those are not looked up.
// Spec: appendices#server-name
func possibleServer(name string) bool {
	if !pdu.ValidServerName(name) {
		return false
	}
	host, port, found := strings.Cut(name, ":")
	if literal, isLiteral := strings.CutPrefix(name, "["); isLiteral {
		host, port, _ = strings.Cut(literal, "]")
		port, found = strings.CutPrefix(port, ":")
	}
	if n, err := strconv.ParseUint(port, 10, 16); found && (err != nil || n == 0) {
		return false
	}
	if strings.HasPrefix(name, "[") || isNumeric(host) {
		address, err := netip.ParseAddr(host)
		return err == nil && address.Is6() == strings.HasPrefix(name, "[")
	}
	return possibleHost(host)
}

// isNumeric reports whether the last label of a host name is a number. That is the case for an IPv4 address, but never
// for a domain.
func isNumeric(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	return last != "" && strings.Trim(last, "0123456789") == ""
}

// possibleHost reports whether text is a valid host name, with or without a final dot.
func possibleHost(host string) bool {
	host = strings.TrimSuffix(host, ".")
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > maxDNSLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return len(host) <= maxDNSName
}
