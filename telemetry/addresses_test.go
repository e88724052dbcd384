package telemetry

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
)

func TestAddressesAreShortenedInAllPartsOfALogRecord(t *testing.T) {
	for _, c := range []struct {
		shown        Addresses
		want, hidden []string
	}{
		{FullAddresses, []string{"peer=192.0.2.77", "alice@example.org", "2001:db8:1:2::77", "203.0.113.9:4711", "198.51.100.5"}, []string{"(address)"}},
		{NetworkAddresses, []string{"peer=192.0.2.0/24", "…@example.org", "2001:db8:1::/48", "203.0.113.0/24", "198.51.100.0/24"}, []string{"0.2.77", "alice@", "::77", "113.9", "100.5"}},
		{NoAddresses, []string{"(address)"}, []string{"192.0", "alice@", "example.org", "2001", "203.0", "198.51"}},
	} {
		for _, format := range []string{"text", "json"} {
			var out bytes.Buffer
			l, err := NewLogger(&out, slog.LevelInfo, format, c.shown)
			if err != nil {
				t.Fatal(err)
			}
			ctx := WithRequest(t.Context(), "r-1", "192.0.2.77")
			l.With("address", "alice@example.org").InfoContext(ctx, "TLS handshake error from [2001:db8:1:2::77]:443",
				"err", errors.New("read tcp 203.0.113.9:4711: reset"), "all", []netip.Addr{netip.MustParseAddr("198.51.100.5")}, "n", 4)
			for _, text := range c.want {
				if format == "json" {
					text = strings.ReplaceAll(text, "peer=", `"peer":"`)
				}
				if !strings.Contains(out.String(), text) {
					t.Errorf("%s, %s: %q is not in %s", c.shown, format, text, out.String())
				}
			}
			for _, text := range c.hidden {
				if strings.Contains(out.String(), text) {
					t.Errorf("%s, %s: %q is in %s", c.shown, format, text, out.String())
				}
			}
		}
	}
}

func TestWhatIsNotSomebodysAddressIsLogged(t *testing.T) {
	for _, text := range []string{
		"127.0.0.1:8008", "[::]:8448", "@alice:example.org", "!room:example.org", "$event:192.0.2.1.example", "ed25519:abcd", "12:34:56.789", "1.5s", "v1.19", "deadbeef:1", "2026-11-30T08:00:00.000Z",
	} {
		if got := NoAddresses.shorten(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}
