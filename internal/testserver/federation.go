package testserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"ebb/config"
	"ebb/fedclient"
	"ebb/netguard"
	"ebb/server"
)

// Network is a set of servers that federate with each other over TLS on loopback. Only they can resolve their names:
// hs1.test, hs2.test and so on. The names resolve to private addresses, and connections to these reach the listeners of
// the test, so nothing leaves the machine.
type Network struct {
	Servers []*Server
	t       testing.TB
	ca      *authority

	// mu guards the fields below.
	mu        sync.Mutex
	names     []string          // the k-th server, counted from 1, has the address 10.0.0.k
	addresses map[string]string // addresses of the listeners by name; without servers that are stopped
	running   map[string]func() // functions that stop the running servers
	conns     map[net.Conn][2]string
	cut       map[[2]string]bool
	intercept func(w http.ResponseWriter, r *http.Request, to string, next http.Handler)
}

// Federation starts n servers that federate with each other, with all their background jobs. change may modify the
// configuration of the i-th server, counted from 0.
func Federation(t testing.TB, n int, change func(i int, cfg *config.Config)) *Network {
	t.Helper()
	w := &Network{
		t: t, ca: newAuthority(t), addresses: map[string]string{}, running: map[string]func(){}, conns: map[net.Conn][2]string{}, cut: map[[2]string]bool{},
	}
	for i := range n {
		w.add(i, change)
	}
	return w
}

// Name returns the name of the i-th server, counted from 0.
func (n *Network) Name(i int) string { return fmt.Sprintf("hs%d.test", i+1) }

// Cut disconnects two servers from each other and aborts the requests between them. Heal reconnects all servers.
func (n *Network) Cut(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]string{a, b}], n.cut[[2]string{b, a}] = true, true
	n.breakOff(func(from, to string) bool { return from == a && to == b || from == b && to == a })
}

// breakOff closes the connections that f selects. The caller must hold mu.
func (n *Network) breakOff(f func(from, to string) bool) {
	for conn, ends := range n.conns {
		if f(ends[0], ends[1]) {
			_ = conn.Close()
			delete(n.conns, conn)
		}
	}
}

// Heal undoes every Cut.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
}

// Intercept passes every request between servers to f, which may respond itself or call next. A nil f ends the
// interception.
func (n *Network) Intercept(f func(w http.ResponseWriter, r *http.Request, to string, next http.Handler)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.intercept = f
}

// Serve serves a handler of the test under the given server name.
func (n *Network) Serve(name string, h http.Handler) {
	s := httptest.NewUnstartedServer(n.wire(name, h))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{n.ca.issue(n.t, name)}, MinVersion: tls.VersionTLS12}
	s.EnableHTTP2 = true
	s.StartTLS()
	n.t.Cleanup(s.Close)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Contains(n.names, name) {
		n.names = append(n.names, name)
	}
	n.addresses[name] = s.Listener.Addr().String()
}

// ClientOptions returns the options of a fedclient.Client that reaches the servers of the network, with which a test
// can act as the server called name.
func (n *Network) ClientOptions(name string) fedclient.Options {
	return fedclient.Options{Server: name, Roots: n.ca.pool, Resolver: resolver{n}, Dial: n.dialer(name), AllowPrivate: true}
}

func (n *Network) add(i int, change func(i int, cfg *config.Config)) {
	n.t.Helper()
	name := n.Name(i)
	roots := filepath.Join(n.t.TempDir(), "ca.pem")
	if err := os.WriteFile(roots, n.ca.pem, 0o600); err != nil {
		n.t.Fatal(err)
	}
	s := build(n.t, func(cfg *config.Config) {
		cfg.ServerName, cfg.Federation.Enabled, cfg.Federation.TrustedCAFile, cfg.Federation.AllowPrivateAddresses = name, true, roots, true
		if change != nil {
			change(i, cfg)
		}
	}, server.Options{Version: "test", Resolver: resolver{n}, Dial: n.dialer(name)})
	n.Servers = append(n.Servers, s)
	n.run(s)
	n.t.Cleanup(func() { n.Stop(i) })
}

// run runs a server until it is stopped.
func (n *Network) run(s *Server) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stopClients := s.serveClients()
	n.Serve(s.Name(), s.Handler("federation"))
	n.mu.Lock()
	defer n.mu.Unlock()
	n.running[s.Name()] = func() {
		stopClients()
		stop()
		if err := <-ended; err != nil {
			n.t.Error(err)
		}
	}
}

// Stop stops the i-th server, which is then unreachable until Start is called.
func (n *Network) Stop(i int) {
	name := n.Name(i)
	n.mu.Lock()
	end := n.running[name]
	delete(n.running, name)
	delete(n.addresses, name)
	n.breakOff(func(from, to string) bool { return from == name || to == name })
	n.mu.Unlock()
	if end != nil {
		end()
	}
}

// Start starts a stopped server with its stored data. Its users are still logged in.
func (n *Network) Start(i int) {
	n.t.Helper()
	n.Servers[i].open()
	n.run(n.Servers[i])
}

// Diagnose runs the doctor on the i-th server, with a configuration that change may modify.
func (n *Network) Diagnose(i int, with string, change func(*config.Config)) ([]server.Finding, error) {
	s := n.Servers[i]
	cfg := *s.cfg
	cfg.Listen = []config.Listener{{Serve: []string{"client", "federation"}}}
	if change != nil {
		change(&cfg)
	}
	return server.Diagnose(context.Background(), &cfg, server.Options{Now: s.Now, Resolver: resolver{n}, Dial: n.dialer("doctor")}, with)
}

// wire wraps the handler of every server. It aborts requests between servers that are cut off from each other, and lets
// the test intercept the others.
func (n *Network) wire(to string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x, _ := fedclient.ParseXMatrix(r.Header.Get("Authorization"))
		n.mu.Lock()
		cut, intercept := n.cut[[2]string{x.Origin, to}], n.intercept
		n.mu.Unlock()
		switch {
		case cut:
			panic(http.ErrAbortHandler) // breaks the connection
		case intercept != nil:
			intercept(w, r, to, next)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

var errNoSuchName = errors.New("there is no such name in this network")

// dialer returns the DialFunc of one server, which connects to the other servers.
func (n *Network) dialer(from string) netguard.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		listener, to := n.listener(from, address)
		if listener == "" {
			return nil, errNoSuchName
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, listener)
		if err != nil {
			return nil, err
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		n.conns[conn] = [2]string{from, to}
		return conn, nil
	}
}

// listener returns the real address of the listener behind an address of the network, and the name of its server. It
// returns "" if the server cannot be reached.
func (n *Network) listener(from, address string) (listener, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, name := range n.names {
		if address == addressOf(i)+":8448" && !n.cut[[2]string{from, name}] {
			return n.addresses[name], name
		}
	}
	return "", ""
}

func addressOf(i int) string { return fmt.Sprintf("10.0.0.%d", i+1) }

// resolver resolves the names of a network, none of which has SRV records.
type resolver struct{ n *Network }

func (resolver) LookupSRV(context.Context, string, string, string) (string, []*net.SRV, error) {
	return "", nil, errNoSuchName
}

func (r resolver) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	r.n.mu.Lock()
	defer r.n.mu.Unlock()
	if i := slices.Index(r.n.names, host); i >= 0 {
		return []netip.Addr{netip.MustParseAddr(addressOf(i))}, nil
	}
	return nil, errNoSuchName
}

// authority is a certificate authority that only the servers of one test trust.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, cert: template("test authority")}
	a.cert.IsCA, a.cert.BasicConstraintsValid, a.cert.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	a.pool = x509.NewCertPool()
	a.pool.AppendCertsFromPEM(a.pem)
	return a
}

// issue creates a certificate for a name.
func (a *authority) issue(t testing.TB, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := template(name)
	c.DNSNames = []string{name}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		// The clocks of the tests show the year 2030.
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}
