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
	"sync"
	"testing"
	"time"

	"ebb/config"
	"ebb/federation/fedclient"
	"ebb/server"
)

// Network is servers that federate with each other over TLS on loopback addresses, under names that only they resolve:
// hs1.test, hs2.test and so on.
type Network struct {
	Servers []*Server
	t       testing.TB
	ca      *authority

	// mu guards what follows.
	mu        sync.Mutex
	addresses map[string]string // by HOST:PORT of the name
	cut       map[[2]string]bool
	intercept func(w http.ResponseWriter, r *http.Request, to string, next http.Handler)
}

// Federation starts n servers that federate, each with the jobs of a real one running; change may alter the configuration of
// the i-th, counted from 0.
func Federation(t testing.TB, n int, change func(i int, cfg *config.Config)) *Network {
	t.Helper()
	net := &Network{t: t, ca: newAuthority(t), addresses: map[string]string{}, cut: map[[2]string]bool{}}
	for i := range n {
		net.add(i, change)
	}
	return net
}

// Name is the name of the i-th server, counted from 0.
func (n *Network) Name(i int) string { return fmt.Sprintf("hs%d.test", i+1) }

// Cut parts two servers from each other, both ways; Heal joins all again.
func (n *Network) Cut(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]string{a, b}], n.cut[[2]string{b, a}] = true, true
}

// Heal ends every Cut.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
}

// Intercept lets a test see every request of a server to another one, and answer in its place; nil ends that.
func (n *Network) Intercept(f func(w http.ResponseWriter, r *http.Request, to string, next http.Handler)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.intercept = f
}

// Serve puts a handler of the test where a server of that name is looked for.
func (n *Network) Serve(name string, h http.Handler) {
	s := httptest.NewUnstartedServer(n.wire(name, h))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{n.ca.issue(n.t, name)}, MinVersion: tls.VersionTLS12}
	s.EnableHTTP2 = true
	s.StartTLS()
	n.t.Cleanup(s.Close)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addresses[name+":8448"] = s.Listener.Addr().String()
}

// ClientOptions are those of a fedclient.Client that reaches the servers of the network, for servers that a test plays.
func (n *Network) ClientOptions(name string) fedclient.Options {
	return fedclient.Options{Server: name, Roots: n.ca.pool, Resolver: nowhere{}, Dial: n.dialer(name)}
}

func (n *Network) add(i int, change func(i int, cfg *config.Config)) {
	n.t.Helper()
	name := n.Name(i)
	roots := filepath.Join(n.t.TempDir(), "ca.pem")
	if err := os.WriteFile(roots, n.ca.pem, 0o600); err != nil {
		n.t.Fatal(err)
	}
	s := build(n.t, func(cfg *config.Config) {
		cfg.ServerName, cfg.Federation.Enabled, cfg.Federation.TrustedCAFile = name, true, roots
		if change != nil {
			change(i, cfg)
		}
	}, server.Options{Resolver: nowhere{}, Dial: n.dialer(name)})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	n.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			n.t.Error(err)
		}
	})
	s.serveClients()
	n.Serve(name, s.Handler("federation"))
	n.Servers = append(n.Servers, s)
}

// wire stands before every server: it drops what comes over a connection that is cut, and lets the test intercept.
func (n *Network) wire(to string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x, _ := fedclient.ParseXMatrix(r.Header.Get("Authorization"))
		n.mu.Lock()
		cut, intercept := n.cut[[2]string{x.Origin, to}], n.intercept
		n.mu.Unlock()
		switch {
		case cut:
			panic(http.ErrAbortHandler) // the connection breaks
		case intercept != nil:
			intercept(w, r, to, next)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

var errNoSuchName = errors.New("there is no such name in this network")

// dialer reaches the servers of the network from one of them.
func (n *Network) dialer(from string) fedclient.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		name, _, _ := net.SplitHostPort(address)
		n.mu.Lock()
		to, cut := n.addresses[address], n.cut[[2]string{from, name}]
		n.mu.Unlock()
		if to == "" || cut {
			return nil, errNoSuchName
		}
		var d net.Dialer
		return d.DialContext(ctx, network, to)
	}
}

// nowhere is a resolver that knows no name: every server is then looked for under its own, at port 8448.
type nowhere struct{}

func (nowhere) LookupSRV(context.Context, string, string, string) (string, []*net.SRV, error) {
	return "", nil, errNoSuchName
}

func (nowhere) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
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

// issue makes a certificate for a name.
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
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}
