package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"ebb/config"
	"ebb/httpapi"
)

// acmeAuthority implements as much of an ACME authority (RFC 8555) as issuing one certificate by TLS-ALPN-01 needs. It
// does not verify the signatures of requests.
type acmeAuthority struct {
	t      *testing.T
	url    string
	key    *ecdsa.PrivateKey
	ca     *x509.Certificate
	prove  string // HOST:PORT of the TLS-ALPN-01 challenge
	host   string
	proved bool
	chain  []byte
	orders int
}

func newACMEAuthority(t *testing.T, host string) *acmeAuthority {
	t.Helper()
	a := &acmeAuthority{t: t, host: host}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	a.ca = &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, a.ca, a.ca, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(a)
	t.Cleanup(s.Close)
	a.url = s.URL
	return a
}

// ServeHTTP implements http.Handler.
func (a *acmeAuthority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Replay-Nonce", "nonce")
	w.Header().Set("Content-Type", "application/json")
	var jws struct{ Payload string }
	_ = json.NewDecoder(r.Body).Decode(&jws)
	payload, _ := base64.RawURLEncoding.DecodeString(jws.Payload)
	order := map[string]any{"status": "pending", "authorizations": []string{a.url + "/authz"}, "finalize": a.url + "/finalize", "certificate": a.url + "/cert",
		"identifiers": []map[string]string{{"type": "dns", "value": a.host}}}
	switch r.URL.Path {
	case "/dir":
		a.say(w, 200, map[string]any{"newNonce": a.url + "/nonce", "newAccount": a.url + "/account", "newOrder": a.url + "/order"})
	case "/nonce":
	case "/account":
		w.Header().Set("Location", a.url+"/account/1")
		a.say(w, 201, map[string]any{"status": "valid"})
	case "/order":
		a.orders++
		w.Header().Set("Location", a.url+"/order/1")
		a.say(w, 201, order)
	case "/order/1", "/finalize":
		if r.URL.Path == "/finalize" {
			a.issue(payload)
		}
		if order["status"] = "ready"; a.chain != nil {
			order["status"] = "valid"
		}
		w.Header().Set("Location", a.url+"/order/1")
		a.say(w, 200, order)
	case "/authz":
		status := "pending"
		if a.proved {
			status = "valid"
		}
		a.say(w, 200, map[string]any{"status": status, "identifier": map[string]string{"type": "dns", "value": a.host}, "challenges": []map[string]any{
			{"type": "tls-alpn-01", "url": a.url + "/challenge", "token": "token", "status": status}}})
	case "/challenge":
		a.check()
		a.say(w, 200, map[string]any{"type": "tls-alpn-01", "url": a.url + "/challenge", "token": "token", "status": "valid"})
	case "/cert":
		_, _ = w.Write(a.chain)
	default:
		http.NotFound(w, r)
	}
}

func (a *acmeAuthority) say(w http.ResponseWriter, status int, v any) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// check performs the handshake of RFC 8737.
func (a *acmeAuthority) check() {
	conn, err := tls.Dial("tcp", a.prove, &tls.Config{ServerName: a.host, NextProtos: []string{"acme-tls/1"}, InsecureSkipVerify: true}) // the challenge certificate is self-signed
	if err != nil {
		a.t.Error(err)
		return
	}
	defer conn.Close()
	state := conn.ConnectionState()
	cert := state.PeerCertificates[0]
	a.proved = state.NegotiatedProtocol == "acme-tls/1" && slices.Equal(cert.DNSNames, []string{a.host}) && len(cert.UnhandledCriticalExtensions) == 1
	if !a.proved {
		a.t.Errorf("the proof is for %v by %q", cert.DNSNames, state.NegotiatedProtocol)
	}
}

func (a *acmeAuthority) issue(payload []byte) {
	var body struct{ CSR string }
	_ = json.Unmarshal(payload, &body)
	der, _ := base64.RawURLEncoding.DecodeString(body.CSR)
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil || !a.proved {
		a.t.Errorf("finalized too early, or without a request: %v", err)
		return
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: csr.DNSNames, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(90 * 24 * time.Hour)}
	if der, err = x509.CreateCertificate(rand.Reader, template, a.ca, csr.PublicKey, a.key); err != nil {
		a.t.Error(err)
		return
	}
	a.chain = slices.Concat(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.ca.Raw}))
}

func TestCertificatesAreFetchedByACMEAndKept(t *testing.T) {
	a := newACMEAuthority(t, "matrix.example.org")
	cfg := config.Default()
	cfg.DataDir = t.TempDir()
	cfg.Listen[0].TLS.ACMEHosts, cfg.ACME.Directory = []string{"matrix.example.org"}, a.url+"/dir"
	for range 2 { // the second server reads the certificate from disk
		serveACME(t, cfg, a)
	}
	if a.orders != 1 {
		t.Errorf("%d certificates were ordered, want 1", a.orders)
	}
	if kept, err := filepath.Glob(filepath.Join(cfg.DataDir, "acme", "matrix.example.org")); err != nil || len(kept) != 1 {
		t.Errorf("kept: %v %v", kept, err)
	}
}

// serveACME starts an address with the configured certificates and sends it a request.
func serveACME(t *testing.T, cfg *config.Config, a *acmeAuthority) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ready := make(chan net.Addr, 1)
	f := httpapi.Front{
		Log: slog.New(slog.DiscardHandler), Ready: func(addresses []net.Addr) { ready <- addresses[0] },
		Listeners: []httpapi.Listener{{Address: "127.0.0.1:0", TLS: acmeConfig(cfg), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") })}},
	}
	var running sync.WaitGroup
	running.Go(func() {
		if err := f.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer running.Wait()
	defer stop()
	a.prove = (<-ready).String()
	pool := x509.NewCertPool()
	pool.AddCert(a.ca)
	client := func(name string) *http.Client {
		return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: name}, DisableKeepAlives: true, ForceAttemptHTTP2: true}}
	}
	resp, err := client("matrix.example.org").Get("https://" + a.prove)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if _ = resp.Body.Close(); err != nil || string(body) != "here" || resp.ProtoMajor != 2 {
		t.Errorf("%q by HTTP/%d %v", body, resp.ProtoMajor, err)
	}
	if resp, err := client("other.example.org").Get("https://" + a.prove); err == nil {
		_ = resp.Body.Close()
		t.Error("a name that is not in the configuration gets a certificate")
	}
}
