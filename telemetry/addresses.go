package telemetry

import (
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"strings"

	"ebb/ident"
)

// Addresses says how much of the addresses of people a log shows.
type Addresses string

// These are the values of Addresses.
const (
	FullAddresses    Addresses = "full"    // all of them
	NetworkAddresses Addresses = "network" // the network of an IP address and the domain of an e-mail address
	NoAddresses      Addresses = "none"    // neither
)

// hiddenAddress stands where an address was.
const hiddenAddress = "(address)"

var (
	// ipForm matches whatever could be an IP address; netip decides.
	ipForm = regexp.MustCompile(`[0-9A-Fa-f:.]*[0-9A-Fa-f][:.][0-9A-Fa-f:.]*[0-9A-Fa-f:]|::[0-9A-Fa-f]+`)
	// emailForm matches e-mail addresses. User IDs do not match, because they begin with @ and have a colon before the
	// domain.
	emailForm = regexp.MustCompile(`[\pL\pN._%+=/'-]+@([\pL\pN-]+(?:\.[\pL\pN-]+)+)`)
)

// shorten returns a text with less of the addresses in it.
func (a Addresses) shorten(text string) string {
	if a == FullAddresses {
		return text
	}
	text = ipForm.ReplaceAllStringFunc(text, a.shortenIP)
	if a == NetworkAddresses {
		return emailForm.ReplaceAllString(text, "…@$1")
	}
	return emailForm.ReplaceAllString(text, hiddenAddress)
}

// shortenIP returns the network of an IP address, which may have a port, or hides it. Other texts, and addresses of
// this machine, are returned as they are.
func (a Addresses) shortenIP(text string) string {
	ip, after := parseIP(text)
	switch {
	case !ip.IsValid() || ip.IsLoopback() || ip.IsUnspecified():
		return text
	case a == NetworkAddresses:
		return ident.MaskedNetwork(ip.String()) + after
	}
	return hiddenAddress + after
}

// parseIP parses an IP address, which may be followed by a port, and returns the colon that may follow it in a
// sentence. The result is not valid if there is no address.
func parseIP(text string) (ip netip.Addr, after string) {
	ip, err := netip.ParseAddr(text)
	if err == nil {
		return ip, ""
	}
	text, found := strings.CutSuffix(text, ":")
	if found {
		after = ":"
	}
	if ip, err = netip.ParseAddr(text); err == nil {
		return ip, after
	}
	withPort, _ := netip.ParseAddrPort(text) // the zero value is not valid
	return withPort.Addr(), after
}

// shortenAttr is shorten for an attribute of a log record, or its message.
func (a Addresses) shortenAttr(attr slog.Attr) slog.Attr {
	var text string
	switch attr.Value.Kind() {
	case slog.KindString:
		text = attr.Value.String()
	case slog.KindAny:
		text = fmt.Sprint(attr.Value.Any())
	default: // numbers and times
		return attr
	}
	if short := a.shorten(text); short != text {
		attr.Value = slog.StringValue(short)
	}
	return attr
}
