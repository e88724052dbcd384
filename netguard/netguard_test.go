package netguard

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// zone resolves names from a table.
type zone map[string][]string

func (z zone) LookupNetIP(_ context.Context, _, host string) (ips []netip.Addr, err error) {
	for _, ip := range z[host] {
		ips = append(ips, netip.MustParseAddr(ip))
	}
	return ips, nil
}

// wire connects to the server at to instead of any address, and records the addresses.
type wire struct {
	to      string
	dialled []string
}

func (w *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.dialled = append(w.dialled, address)
	return (&net.Dialer{}).DialContext(ctx, network, w.to)
}

// client returns a client that allows http and resolves names by z.
func client(t *testing.T, z zone, w *wire, h http.HandlerFunc, o ClientOptions) *http.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	w.to = s.Listener.Addr().String()
	o.Dialer, o.AllowHTTP = NewDialer(DialerOptions{Resolver: z, Dial: w.dial}), true
	return NewClient(o)
}

func get(t *testing.T, c *http.Client, address string) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func TestPrivateAddressesAreNotPublic(t *testing.T) {
	for ip, want := range map[string]bool{
		"8.8.8.8": true, "2606:4700::1": true, "::ffff:8.8.8.8": true,
		"127.0.0.1": false, "10.1.2.3": false, "172.16.0.1": false, "192.168.1.1": false, "169.254.169.254": false, "100.64.0.1": false, "0.0.0.0": false,
		"::ffff:127.0.0.1": false, "::1": false, "::": false, "fe80::1%eth0": false, "fd00::1": false, "fec0::1": false, "64:ff9b::7f00:1": false, "2002:7f00:1::": false,
		"::127.0.0.1": false, "224.0.0.1": false, "255.255.255.255": false, "ff02::1": false,
	} {
		if got := IsPublic(netip.MustParseAddr(ip)); got != want {
			t.Errorf("IsPublic(%s) = %v, want %v", ip, got, want)
		}
	}
}

// If a name were checked and then resolved again, an attacker could rebind it in between.
func TestAddressIsCheckedOnEveryDial(t *testing.T) {
	z, w := zone{"a.test": {"8.8.1.1"}}, &wire{}
	c := client(t, z, w, func(http.ResponseWriter, *http.Request) {}, ClientOptions{})
	if _, err := get(t, c, "http://a.test/"); err != nil {
		t.Fatal(err)
	}
	z["a.test"] = []string{"127.0.0.1"}
	if _, err := get(t, c, "http://a.test/"); !errors.Is(err, ErrPrivateAddress) || len(w.dialled) != 1 || w.dialled[0] != "8.8.1.1:80" {
		t.Errorf("after the name was rebound: %v, dialled %v", err, w.dialled)
	}
	// An address that the net package dials itself is checked again at the moment of dialling.
	if _, err := NewDialer(DialerOptions{}).dial(t.Context(), "tcp", "127.0.0.1:1"); !errors.Is(err, ErrPrivateAddress) {
		t.Errorf("the dialer of the net package lets through: %v", err)
	}
}

func TestPrivateAddressesCanBeAllowed(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	c := NewClient(ClientOptions{Dialer: NewDialer(DialerOptions{AllowPrivate: true}), AllowHTTP: true})
	if _, err := get(t, c, s.URL); err != nil {
		t.Error(err)
	}
	c = NewClient(ClientOptions{Dialer: NewDialer(DialerOptions{}), AllowHTTP: true})
	if _, err := get(t, c, s.URL); !errors.Is(err, ErrPrivateAddress) {
		t.Errorf("where they are not allowed: %v", err)
	}
}

func TestAllAddressesOfANameAreTried(t *testing.T) {
	var dialled []string
	d := NewDialer(DialerOptions{Resolver: zone{"a.test": {"10.0.0.1", "8.8.1.1", "8.8.1.2", "8.8.1.3"}}, Dial: func(_ context.Context, _, address string) (net.Conn, error) {
		if dialled = append(dialled, address); address == "8.8.1.2:443" {
			conn, _ := net.Pipe()
			return conn, nil
		}
		return nil, errors.New("refused")
	}})
	conn, err := d.DialContext(t.Context(), "tcp", "a.test:443")
	if err != nil || strings.Join(dialled, " ") != "8.8.1.1:443 8.8.1.2:443" {
		t.Fatalf("%v, dialled %v", err, dialled)
	}
	conn.Close()
	if _, err := d.DialContext(t.Context(), "tcp", "nowhere.test:443"); err == nil {
		t.Error("a name without addresses is dialled")
	}
}

func TestEveryHopOfARedirectIsChecked(t *testing.T) {
	z, w := zone{"a.test": {"8.8.1.1"}, "b.test": {"8.8.1.2"}, "in.test": {"10.0.0.1"}}, &wire{}
	c := client(t, z, w, func(w http.ResponseWriter, r *http.Request) {
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusFound)
			return
		}
		_, _ = io.WriteString(w, "arrived")
	}, ClientOptions{MaxRedirects: 1})
	to := func(target string) string { return "http://a.test/?to=" + url.QueryEscape(target) }
	for target, want := range map[string]error{
		"http://in.test/": ErrPrivateAddress, "http://127.0.0.1/": ErrPrivateAddress, "http://[::1]/": ErrPrivateAddress,
		"file:///etc/passwd": ErrURL, "ftp://b.test/": ErrURL, "http://user:password@b.test/": ErrURL, to("http://b.test/"): ErrRedirects,
	} {
		if body, err := get(t, c, to(target)); !errors.Is(err, want) {
			t.Errorf("to %s: %q, %v, want %v", target, body, err, want)
		}
	}
	if body, err := get(t, c, to("http://b.test/")); err != nil || body != "arrived" {
		t.Errorf("an allowed redirect: %q, %v", body, err)
	}
}

func TestRedirectsCanBeReturned(t *testing.T) {
	var asked atomic.Int32
	c := client(t, zone{"a.test": {"8.8.1.1"}}, &wire{}, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Redirect(w, r, "http://a.test/", http.StatusTemporaryRedirect)
	}, ClientOptions{ReturnRedirects: true})
	if _, err := get(t, c, "http://a.test/"); err != nil || asked.Load() != 1 {
		t.Errorf("%v after %d requests", err, asked.Load())
	}
}

func TestURLsAreCheckedBeforeTheyAreRequested(t *testing.T) {
	w := &wire{}
	c := NewClient(ClientOptions{Dialer: NewDialer(DialerOptions{Resolver: zone{"a.test": {"8.8.1.1"}}, Dial: w.dial})})
	for _, address := range []string{"http://a.test/", "https://user@a.test/", "gopher://a.test/"} {
		if _, err := get(t, c, address); !errors.Is(err, ErrURL) {
			t.Errorf("%s: %v", address, err)
		}
	}
	if len(w.dialled) > 0 {
		t.Errorf("dialled %v", w.dialled)
	}
}

func TestResponseIsBoundedInSize(t *testing.T) {
	for size, tooLarge := range map[int]bool{0: false, 99: false, 100: false, 101: true, 1 << 20: true} {
		c := client(t, zone{"a.test": {"8.8.1.1"}}, &wire{}, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strings.Repeat("x", size))
		}, ClientOptions{MaxBody: 100})
		body, err := get(t, c, "http://a.test/")
		if errors.Is(err, ErrTooLarge) != tooLarge || len(body) != min(size, 100) {
			t.Errorf("%d bytes: got %d, %v", size, len(body), err)
		}
	}
}

func TestEndlessResponseIsAborted(t *testing.T) {
	done := make(chan struct{})
	defer close(done)
	c := client(t, zone{"a.test": {"8.8.1.1"}}, &wire{}, func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-done
	}, ClientOptions{MaxBody: 100, Timeout: 50 * time.Millisecond})
	if _, err := get(t, c, "http://a.test/"); err == nil {
		t.Error("a response that never ends has an end")
	}
}

func TestProxyFromTheEnvironmentIsNotUsed(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	w := &wire{}
	c := client(t, zone{"a.test": {"8.8.1.1"}}, w, func(http.ResponseWriter, *http.Request) {}, ClientOptions{})
	if _, err := get(t, c, "http://a.test/"); err != nil || w.dialled[0] != "8.8.1.1:80" {
		t.Errorf("%v, dialled %v", err, w.dialled)
	}
}
