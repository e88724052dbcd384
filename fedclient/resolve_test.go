package fedclient

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"ebb/netguard"
)

// says serves a .well-known document.
func says(body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/.well-known/matrix/server" {
			http.NotFound(w, r)
			return
		}
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		_, _ = w.Write([]byte(body))
	}
}

// echo answers /version with the Host header of the request and the server name of its TLS handshake.
func echo(w http.ResponseWriter, r *http.Request) {
	answerJSON(w, map[string]any{"server": map[string]string{"name": r.Host, "version": r.TLS.ServerName}})
}

func TestServerNamesAreResolvedStepByStep(t *testing.T) {
	for _, c := range []struct {
		name, server  string
		wellKnown     string
		srv           map[string][]*net.SRV
		address, cert string // where the server listens, and the name on its certificate
		host, sni     string // what the server must receive
	}{
		{name: "1 an IPv4 address", server: "8.8.0.1", address: "8.8.0.1:8448", cert: "8.8.0.1", host: "8.8.0.1"},
		{name: "1 an IPv4 address with a port", server: "8.8.0.1:5000", address: "8.8.0.1:5000", cert: "8.8.0.1", host: "8.8.0.1:5000"},
		{name: "1 an IPv6 address", server: "[2a00::7]", address: "[2a00::7]:8448", cert: "2a00::7", host: "[2a00::7]"},
		{name: "1 an IPv6 address with a port", server: "[2a00::7]:5000", address: "[2a00::7]:5000", cert: "2a00::7", host: "[2a00::7]:5000"},
		{name: "2 a name with a port, .well-known or not", server: "a.test:5000", wellKnown: `{"m.server":"b.test:1"}`,
			address: "8.8.1.1:5000", cert: "a.test", host: "a.test:5000", sni: "a.test"},
		{name: "3.1 delegated to an address", server: "a.test", wellKnown: `{"m.server":"8.8.0.1"}`, address: "8.8.0.1:8448", cert: "8.8.0.1", host: "8.8.0.1"},
		{name: "3.2 delegated to a name with a port", server: "a.test", wellKnown: `{"m.server":"b.test:5000"}`,
			address: "8.8.1.2:5000", cert: "b.test", host: "b.test:5000", sni: "b.test"},
		{name: "3.3 delegated to a name with SRV", server: "a.test", wellKnown: `{"m.server":"b.test"}`,
			srv:     map[string][]*net.SRV{"_matrix-fed._tcp.b.test": {{Target: "c.test.", Port: 5001}}, "_matrix._tcp.b.test": {{Target: "a.test.", Port: 1}}},
			address: "8.8.1.3:5001", cert: "b.test", host: "b.test", sni: "b.test"},
		{name: "3.4 delegated to a name with the old SRV", server: "a.test", wellKnown: `{"m.server":"b.test"}`,
			srv:     map[string][]*net.SRV{"_matrix._tcp.b.test": {{Target: "c.test.", Port: 5001}}},
			address: "8.8.1.3:5001", cert: "b.test", host: "b.test", sni: "b.test"},
		{name: "3.5 delegated to a name alone", server: "a.test", wellKnown: `{"m.server":"b.test"}`,
			srv:     map[string][]*net.SRV{"_matrix-fed._tcp.a.test": {{Target: "c.test.", Port: 5001}}},
			address: "8.8.1.2:8448", cert: "b.test", host: "b.test", sni: "b.test"},
		{name: "4 SRV", server: "a.test", srv: map[string][]*net.SRV{"_matrix-fed._tcp.a.test": {{Target: "c.test.", Port: 5001}}},
			address: "8.8.1.3:5001", cert: "a.test", host: "a.test", sni: "a.test"},
		{name: "4 SRV, the first target is down", server: "a.test",
			srv:     map[string][]*net.SRV{"_matrix-fed._tcp.a.test": {{Target: "b.test.", Port: 9}, {Target: "c.test.", Port: 5001}}},
			address: "8.8.1.3:5001", cert: "a.test", host: "a.test", sni: "a.test"},
		{name: "5 the old SRV", server: "a.test", srv: map[string][]*net.SRV{"_matrix._tcp.a.test": {{Target: "c.test.", Port: 5001}}},
			address: "8.8.1.3:5001", cert: "a.test", host: "a.test", sni: "a.test"},
		{name: "6 nothing but the name", server: "a.test", address: "8.8.1.1:8448", cert: "a.test", host: "a.test", sni: "a.test"},
		{name: "6 after a .well-known that is no JSON", server: "a.test", wellKnown: `nonsense`, address: "8.8.1.1:8448", cert: "a.test", host: "a.test", sni: "a.test"},
		{name: "6 after a .well-known that names no server", server: "a.test", wellKnown: `{"m.server":"not a/name"}`,
			address: "8.8.1.1:8448", cert: "a.test", host: "a.test", sni: "a.test"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			l.ips = map[string][]string{"a.test": {"8.8.1.1"}, "b.test": {"8.8.9.9", "8.8.1.2"}, "c.test": {"8.8.1.3"}}
			l.srv = c.srv
			if c.wellKnown != "" {
				l.serve("8.8.1.1:443", "a.test", says(c.wellKnown))
			}
			l.serve(c.address, c.cert, echo)
			host, sni, err := l.client("me.test", nil).Version(t.Context(), c.server)
			if err != nil || host != c.host || sni != c.sni {
				t.Errorf("Host %q, certificate for %q, %v; want %q and %q", host, sni, err, c.host, c.sni)
			}
		})
	}
}

func TestCertificateForAnotherNameIsRefused(t *testing.T) {
	l := newLab(t)
	l.ips["a.test"] = []string{"8.8.1.1"}
	l.serve("8.8.1.1:8448", "b.test", echo)
	c := l.client("me.test", nil)
	if _, _, err := c.Version(t.Context(), "a.test"); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v", err)
	}
	l.serve("8.8.1.1:8448", "a.test", echo)
	l.advance(10 * 365 * 24 * time.Hour)
	if _, _, err := c.Version(t.Context(), "a.test"); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("an expired certificate: %v", err)
	}
}

func TestWellKnownIsCachedAsDeclaredWithinBounds(t *testing.T) {
	for _, c := range []struct {
		name   string
		header []string
		want   time.Duration
	}{
		{"nothing said", nil, 24 * time.Hour},
		{"max-age", []string{"Cache-Control", "public, max-age=7200"}, 2 * time.Hour},
		{"too short", []string{"Cache-Control", "max-age=1"}, 5 * time.Minute},
		{"too long", []string{"Cache-Control", "max-age=99999999999"}, 48 * time.Hour},
		{"no-store", []string{"Cache-Control", "no-store"}, 5 * time.Minute},
		{"Expires", []string{"Expires", "Tue, 01 Jan 2030 03:00:00 GMT"}, 3 * time.Hour},
		{"max-age before Expires", []string{"Expires", "Tue, 01 Jan 2030 03:00:00 GMT", "Cache-Control", "max-age=3600"}, time.Hour},
		{"nonsense", []string{"Expires", "soon", "Cache-Control", "max-age=x"}, 24 * time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			l.ips["a.test"] = []string{"8.8.1.1"}
			asked := 0
			serve := says(`{"m.server":"a.test:5000"}`, c.header...)
			l.serve("8.8.1.1:443", "a.test", func(w http.ResponseWriter, r *http.Request) { asked++; serve(w, r) })
			client := l.client("me.test", nil)
			look := func() {
				t.Helper()
				if got := client.resolve.delegation(t.Context(), "a.test"); got != "a.test:5000" {
					t.Fatalf("delegated to %q", got)
				}
			}
			look()
			l.advance(c.want - time.Second)
			look()
			if asked != 1 {
				t.Fatalf("asked %d times within %s", asked, c.want)
			}
			l.advance(2 * time.Second)
			look()
			if asked != 2 {
				t.Errorf("asked %d times after %s", asked, c.want)
			}
		})
	}
}

func TestFailedWellKnownIsRetriedLessAndLessOften(t *testing.T) {
	l := newLab(t)
	l.ips["a.test"] = []string{"8.8.1.1"}
	asked := 0
	l.serve("8.8.1.1:443", "a.test", func(w http.ResponseWriter, r *http.Request) { asked++; http.NotFound(w, r) })
	r := l.client("me.test", nil).resolve
	for _, wait := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, 32 * time.Minute, time.Hour, time.Hour} {
		before := asked
		r.delegation(t.Context(), "a.test")
		l.advance(wait - time.Second)
		r.delegation(t.Context(), "a.test")
		if asked != before+1 {
			t.Fatalf("asked %d times within %s", asked-before, wait)
		}
		l.advance(time.Second)
	}
}

// Landscape 6, row 19: .well-known redirects to an endless file, in circles, or to another host.
func TestWellKnownIsBoundedInSizeAndRedirects(t *testing.T) {
	endless := 0
	for name, h := range map[string]http.HandlerFunc{
		"a redirect to an endless file": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/huge" {
				http.Redirect(w, r, "/huge", http.StatusFound)
				return
			}
			for chunk := []byte(strings.Repeat(" ", 32<<10)); ; endless += len(chunk) {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		},
		"redirects without end": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path+"x", http.StatusFound) },
		"a redirect to plain HTTP": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://a.test/other", http.StatusFound)
		},
		"a redirect into the local network": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://192.168.0.1/", http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.ips["a.test"] = []string{"8.8.1.1"}
			l.serve("8.8.1.1:443", "a.test", h)
			l.serve("192.168.0.1:443", "192.168.0.1", says(`{"m.server":"evil.test"}`))
			if got := l.client("me.test", nil).resolve.delegation(t.Context(), "a.test"); got != "" {
				t.Errorf("delegated to %q", got)
			}
			if l.wasDialled("192.168.0.1:443") {
				t.Error("the redirect was followed into the local network")
			}
		})
	}
	if endless > 8<<20 { // the size of the connection's buffers
		t.Errorf("%d bytes of the endless file were read", endless)
	}
	l := newLab(t)
	l.ips["a.test"] = []string{"8.8.1.1"}
	l.serve("8.8.1.1:443", "a.test", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			answerJSON(w, map[string]string{"m.server": "b.test:1"})
			return
		}
		http.Redirect(w, r, "/elsewhere", http.StatusMovedPermanently)
	})
	if got := l.client("me.test", nil).resolve.delegation(t.Context(), "a.test"); got != "b.test:1" {
		t.Errorf("one redirect leads to %q", got)
	}
}

// Landscape 6, row 20.
func TestPrivateAddressesAreNotDialled(t *testing.T) {
	l := newLab(t)
	inside := []string{
		"127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255",
		"192.0.0.8", "198.18.0.1", "240.0.0.1", "::1", "::", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "fe80::1", "fc00::1", "fd12::1", "ff02::1",
		"64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::1", "2001::1", "fec0::1", "100::1",
	}
	for i, ip := range inside {
		name := fmt.Sprintf("n%d.test", i)
		l.ips[name] = []string{ip}
		l.serve(net.JoinHostPort(ip, "8448"), name, echo)
		l.serve(net.JoinHostPort(ip, "443"), name, says(`{"m.server":"x.test"}`))
	}
	c := l.client("me.test", nil)
	for i, ip := range inside {
		literal := ip
		if strings.Contains(ip, ":") {
			literal = "[" + ip + "]"
		}
		for _, server := range []string{literal, fmt.Sprintf("n%d.test", i), fmt.Sprintf("n%d.test:8448", i)} {
			if _, _, err := c.Version(t.Context(), server); err == nil || !strings.Contains(err.Error(), netguard.ErrPrivateAddress.Error()) {
				t.Errorf("%s, which is %s: %v", server, ip, err)
			}
		}
	}
	if len(l.dialled) > 0 {
		t.Errorf("dialled %v", l.dialled)
	}
	open := l.client("me.test", func(o *Options) { o.AllowPrivate = true })
	if _, _, err := open.Version(t.Context(), "n3.test:8448"); err != nil {
		t.Errorf("where private addresses are allowed: %v", err)
	}
}

// A name that resolves to a public address when it is checked and to a private one when it is dialled would get around
// the check.
func TestAddressIsCheckedOnEveryDial(t *testing.T) {
	l := newLab(t)
	l.serve("8.8.1.1:8448", "a.test", echo)
	l.serve("127.0.0.1:8448", "a.test", echo)
	l.ips["a.test"] = []string{"8.8.1.1"}
	c := l.client("me.test", nil)
	if _, _, err := c.Version(t.Context(), "a.test"); err != nil {
		t.Fatal(err)
	}
	c.Close() // the next request dials again, with the cached target
	l.ips["a.test"] = []string{"127.0.0.1"}
	if _, _, err := c.Version(t.Context(), "a.test"); err == nil || l.wasDialled("127.0.0.1:8448") {
		t.Errorf("after the name was rebound: %v, dialled %v", err, l.dialled)
	}
}

func TestInvalidServerNamesAreNotContacted(t *testing.T) {
	l := newLab(t)
	c := l.client("me.test", func(o *Options) { o.Allowed = func(s string) bool { return s != "bad.test" } })
	for _, server := range []string{"", "me.test", "a test", "a.test/x", "a.test:x", "[::1", "[zz]", "[:::]", "user@a.test", "bad.test", strings.Repeat("a", 300)} {
		if _, _, err := c.Version(t.Context(), server); err == nil {
			t.Errorf("%q is asked", server)
		}
	}
	if len(l.dialled) > 0 {
		t.Errorf("dialled %v", l.dialled)
	}
}
