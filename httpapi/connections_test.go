package httpapi

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
)

// dial opens a connection and reports whether a request on it gets a response.
func dial(t *testing.T, address string) (c net.Conn, served bool) {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") // a refused connection shows only when reading
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return c, false
	}
	_ = resp.Body.Close()
	return c, true
}

func TestConnectionsOfANetworkAreBounded(t *testing.T) {
	h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	addresses, stop := run(t, Front{Listeners: []Listener{{Address: "127.0.0.1:0", Handler: h}, {Address: "127.0.0.1:0", Handler: h}}, Connections: 3})
	var open []net.Conn
	for i := range 3 {
		c, served := dial(t, addresses[i%2].String())
		if !served {
			t.Fatalf("connection %d is refused", i)
		}
		open = append(open, c)
	}
	for _, a := range addresses {
		if _, served := dial(t, a.String()); served {
			t.Errorf("a fourth connection is served at %s", a)
		}
	}
	_ = open[0].Close()
	again := false
	for range 10_000 { // the server notices a moment later that the connection was closed
		if _, again = dial(t, addresses[0].String()); again {
			break
		}
	}
	if !again {
		t.Error("a connection that was closed still counts")
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestTrustedProxyConnectionsAreUnbounded(t *testing.T) {
	h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	addresses, _ := run(t, Front{
		Listeners: []Listener{{Address: "127.0.0.1:0", Handler: h}}, Connections: 1, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	for i := range 5 {
		if _, served := dial(t, addresses[0].String()); !served {
			t.Errorf("connection %d of a proxy is refused", i)
		}
	}
}
