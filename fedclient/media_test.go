package fedclient

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"ebb/netguard"
)

// inside resolves every name to an address in the local network.
type inside struct{}

func (inside) LookupSRV(context.Context, string, string, string) (string, []*net.SRV, error) {
	return "", nil, errors.New("no such record")
}

func (inside) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("fd00::1")}, nil
}

// CVE-2023-32683, CVE-2024-52594: a location named by another server must not give access to the local network.
func TestFilesAreNotReadFromPrivateAddresses(t *testing.T) {
	c := New(Options{Server: "own.test", Resolver: inside{}})
	for _, place := range []string{"https://rebound.test/x", "https://127.0.0.1/x", "https://[::1]:8448/x", "https://169.254.169.254/latest/meta-data", "https://10.0.0.1/"} {
		if _, err := c.fetch(t.Context(), place); !errors.Is(err, netguard.ErrPrivateAddress) {
			t.Errorf("%s: %v", place, err)
		}
	}
	for _, place := range []string{"http://example.org/", "file:///etc/passwd", "https://user:password@example.org/", "https:///x", "gopher://example.org/", "::"} {
		if _, err := c.fetch(t.Context(), place); !errors.Is(err, ErrBadAnswer) {
			t.Errorf("%s: %v", place, err)
		}
	}
}
