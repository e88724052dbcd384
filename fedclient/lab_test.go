package fedclient

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/pdu"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// lab is a private network whose names, addresses and listeners are defined by the test.
type lab struct {
	t    *testing.T
	ca   *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool

	// mu guards the fields below.
	mu        sync.Mutex
	now       time.Time
	ips       map[string][]string
	srv       map[string][]*net.SRV // by _service._tcp.name
	listeners map[string]string     // IP:PORT to the address of the real listener
	dialled   []string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{
		t: t, pool: x509.NewCertPool(), now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC),
		ips: map[string][]string{}, srv: map[string][]*net.SRV{}, listeners: map[string]string{},
	}
	template := certificate()
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	var err error
	if l.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, l.key.Public(), l.key)
	if err != nil {
		t.Fatal(err)
	}
	if l.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	l.pool.AddCert(l.ca)
	return l
}

func certificate() *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore:    time.Date(2029, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

// serve serves a handler at an address, with a certificate for the name.
func (l *lab) serve(address, name string, h http.HandlerFunc) {
	l.t.Helper()
	template := certificate()
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		l.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, l.ca, key.Public(), l.key)
	if err != nil {
		l.t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
	s.EnableHTTP2 = true
	s.Config.ErrorLog = nil
	s.StartTLS()
	l.t.Cleanup(s.Close)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listeners[address] = s.Listener.Addr().String()
}

var errNoHost = errors.New("no such host")

// LookupSRV implements Resolver.
func (l *lab) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	records := l.srv["_"+service+"._"+proto+"."+name]
	if records == nil {
		return "", nil, errNoHost
	}
	return "", records, nil
}

// LookupNetIP implements Resolver.
func (l *lab) LookupNetIP(_ context.Context, _, host string) (ips []netip.Addr, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, ip := range l.ips[host] {
		ips = append(ips, netip.MustParseAddr(ip))
	}
	if ips == nil {
		return nil, errNoHost
	}
	return ips, nil
}

func (l *lab) dial(ctx context.Context, network, address string) (net.Conn, error) {
	l.mu.Lock()
	l.dialled = append(l.dialled, address)
	to := l.listeners[address]
	l.mu.Unlock()
	if to == "" {
		return nil, errors.New("connection refused: " + address)
	}
	return (&net.Dialer{}).DialContext(ctx, network, to)
}

func (l *lab) wasDialled(address string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.dialled, address)
}

func (l *lab) clock() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func (l *lab) advance(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = l.now.Add(d)
}

// signerOf returns a Signer with a new key.
func signerOf(server, version string) pdu.Signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return pdu.Signer{Server: server, KeyID: id.KeyID("ed25519:" + version), Key: key}
}

// client returns the client of a server with this name; change may modify its options.
func (l *lab) client(server string, change func(*Options)) *Client {
	o := Options{Server: server, Signer: signerOf(server, "c"), Now: l.clock, Roots: l.pool, Resolver: l, Dial: l.dial}
	if change != nil {
		change(&o)
	}
	c := New(o)
	l.t.Cleanup(c.Close)
	return c
}

// ring returns a KeyRing for a client, with its own database.
func (l *lab) ring(c *Client, notaries ...string) *KeyRing {
	l.t.Helper()
	return NewKeyRing(c, storagetest.Open(l.t, storage.Config{Now: l.clock}), notaries, nil)
}

// answerJSON writes v as JSON.
func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
