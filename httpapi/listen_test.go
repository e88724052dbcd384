package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// run starts a front and returns its addresses and a function that stops it and returns its error.
func run(t *testing.T, f Front) (addresses []net.Addr, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan []net.Addr, 1), make(chan error, 1)
	f.Log, f.Ready = slog.New(slog.DiscardHandler), func(a []net.Addr) { ready <- a }
	go func() { ended <- f.Run(ctx) }()
	t.Cleanup(cancel)
	select {
	case addresses = <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	return addresses, func() error { cancel(); return <-ended }
}

func get(t *testing.T, c *http.Client, address string) (string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", address, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.Proto + " " + string(body), err
}

func TestStopLetsRunningRequestsEnd(t *testing.T) {
	parked, drained := make(chan struct{}), make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(parked)
		<-drained
		_, _ = io.WriteString(w, "answered")
	})
	addresses, stop := run(t, Front{Listeners: []Listener{{Address: "127.0.0.1:0", Handler: h}}, Drain: func() { close(drained) }})
	answer := make(chan string, 1)
	go func() {
		body, err := get(t, http.DefaultClient, "http://"+addresses[0].String())
		if err != nil {
			body = err.Error()
		}
		answer <- body
	}()
	<-parked
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if got := <-answer; got != "HTTP/1.1 answered" {
		t.Error(got)
	}
	if _, err := net.DialTimeout("tcp", addresses[0].String(), time.Second); err == nil {
		t.Error("connections are still accepted")
	}
}

func TestClientThatSendsTooMuchReceivesTheError(t *testing.T) {
	s := New(Options{Log: slog.New(slog.DiscardHandler), Routes: []Route{{Method: "POST", Path: "/up", Handler: func(r *Request) (any, error) {
		return nil, r.Decode(&struct{}{})
	}}}})
	addresses, _ := run(t, Front{Listeners: []Listener{{Address: "127.0.0.1:0", Handler: s}}})
	for _, size := range []int64{32 << 20, -1} {
		conn, err := net.Dial("tcp", addresses[0].String())
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.NewRequestWithContext(t.Context(), "POST", "http://x/up", io.LimitReader(zeros{}, 32<<20))
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = size
		if err := r.Write(conn); err != nil { // the client sends everything before it reads the response
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode != 413 || err != nil || !strings.Contains(string(body), "M_TOO_LARGE") {
			t.Errorf("%d %s %v", resp.StatusCode, body, err)
		}
		resp.Body.Close()
		conn.Close()
	}
}

// zeros is an endless reader.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestAddressInUseIsNamedAndTheOthersAreClosed(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	f := Front{Log: slog.New(slog.DiscardHandler), Listeners: []Listener{{Address: "127.0.0.1:0"}, {Address: taken.Addr().String()}}}
	if err := f.Run(t.Context()); err == nil || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Fatal(err)
	}
}

// writeCertificate writes a certificate for 127.0.0.1 with the given serial number.
func writeCertificate(t *testing.T, dir string, serial int64, changed time.Time) (cert, key string) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, priv.Public(), priv)
	if err != nil {
		t.Fatal(err)
	}
	der2, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{key: {Type: "PRIVATE KEY", Bytes: der2}, cert: {Type: "CERTIFICATE", Bytes: der}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(cert, changed, changed); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func TestTLSListenerLoadsRenewedCertificate(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	cert, key := writeCertificate(t, dir, 1, now.Add(-time.Hour))
	c, err := NewCertificate(cert, key, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	addresses, stop := run(t, Front{Listeners: []Listener{{Address: "127.0.0.1:0", TLS: c.TLS(), Handler: http.NotFoundHandler()}}})
	serial := func() (n int64) {
		c := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true,
			VerifyConnection: func(s tls.ConnectionState) error { n = s.PeerCertificates[0].SerialNumber.Int64(); return nil }}}}
		defer c.CloseIdleConnections()
		if got, err := get(t, c, "https://"+addresses[0].String()); err != nil || !strings.HasPrefix(got, "HTTP/2.0") {
			t.Fatal(got, err)
		}
		return n
	}
	if n := serial(); n != 1 {
		t.Fatal(n)
	}
	writeCertificate(t, dir, 2, now)
	if n := serial(); n != 2 {
		t.Fatal("the renewed certificate is not used:", n)
	}
	if err := os.WriteFile(cert, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := serial(); n != 2 {
		t.Fatal(n)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// served returns the serial number of the certificate presented in a handshake.
func (c *Certificate) served(t *testing.T) int64 {
	t.Helper()
	pair, err := c.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf.SerialNumber.Int64()
}

func move(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// TestCertificateWhoseKeyArrivesLaterIsRead covers renewal tools that write the two files one after the other, in
// either order.
func TestCertificateWhoseKeyArrivesLaterIsRead(t *testing.T) {
	for _, keyFirst := range []bool{false, true} {
		dir, next, now := t.TempDir(), t.TempDir(), time.Now()
		cert, key := writeCertificate(t, dir, 1, now.Add(-time.Hour))
		newCert, newKey := writeCertificate(t, next, 2, now)
		var log bytes.Buffer
		c, err := NewCertificate(cert, key, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		first, firstTo, second, secondTo := newCert, cert, newKey, key
		if keyFirst {
			first, firstTo, second, secondTo = newKey, key, newCert, cert
		}
		move(t, first, firstTo)
		for range 3 {
			if n := c.served(t); n != 1 {
				t.Fatalf("between the two files the certificate is %d", n)
			}
		}
		if n := strings.Count(log.String(), "stays in use"); n != 1 {
			t.Errorf("it was said %d times that the new one cannot be used:\n%s", n, &log)
		}
		move(t, second, secondTo)
		if n := c.served(t); n != 2 {
			t.Errorf("key first: %t; once both files are there the certificate is %d", keyFirst, n)
		}
	}
}

func TestMissingOrUnreadableCertificateIsReadOnceRestored(t *testing.T) {
	dir, next, now := t.TempDir(), t.TempDir(), time.Now()
	cert, key := writeCertificate(t, dir, 1, now.Add(-time.Hour))
	newCert, newKey := writeCertificate(t, next, 2, now)
	c, err := NewCertificate(cert, key, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c.now = func() time.Time { return now }
	move(t, key, key+".away")
	if n := c.served(t); n != 1 {
		t.Fatal(n)
	}
	if err := c.Load(); err == nil {
		t.Error("a key that is gone was read")
	}
	move(t, newKey, key)
	move(t, newCert, cert)
	if n := c.served(t); n != 2 {
		t.Error("after both are back:", n)
	}
	// Unreadable files that look unchanged are tried again after a while, because fixing their permissions does not
	// change the modification time.
	c.mu.Lock()
	c.failed = now
	c.mu.Unlock()
	if c.changed() {
		t.Error("tried again at once")
	}
	now = now.Add(retryCertificate)
	if !c.changed() {
		t.Error("never tried again")
	}
}

// countingConn counts what is written to it.
type countingConn struct {
	net.Conn
	written *atomic.Int64
}

func (c countingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.written.Add(int64(n))
	return n, err
}

// With HTTP/2, the server receives the body of a request in memory before anybody reads it, such as that of a request
// that waits for events.
func TestBodyThatNobodyReadsTakesLittleMemoryWithHTTP2(t *testing.T) {
	cert, key := writeCertificate(t, t.TempDir(), 1, time.Now())
	c, err := NewCertificate(cert, key, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/first" {
			<-release
		}
	})
	addresses, stop := run(t, Front{Listeners: []Listener{{Address: "127.0.0.1:0", TLS: c.TLS(), Handler: h}}})
	var sent atomic.Int64
	client := &http.Client{Transport: &http.Transport{
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			return countingConn{conn, &sent}, err
		},
	}}
	if got, err := get(t, client, "https://"+addresses[0].String()+"/first"); err != nil || !strings.HasPrefix(got, "HTTP/2.0") {
		t.Fatal(got, err) // the others use its connection
	}
	var sending sync.WaitGroup
	for range 4 {
		sending.Go(func() {
			r, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+addresses[0].String(), zeros{})
			if err != nil {
				t.Error(err)
				return
			}
			if resp, err := client.Do(r); err == nil {
				_ = resp.Body.Close()
			}
		})
	}
	const overhead = 64 << 10 // handshake, headers and frames
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline) && sent.Load() <= maxReceived+overhead; {
		time.Sleep(5 * time.Millisecond)
	}
	if n := sent.Load(); n > maxReceived+overhead || n < maxReceived/2 {
		t.Errorf("%d bytes were received over one connection, want about %d", n, maxReceived)
	}
	close(release)
	sending.Wait()
	if err := stop(); err != nil {
		t.Error(err)
	}
}
