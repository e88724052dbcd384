package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// writeCertificate writes a new certificate to cert.pem and key.pem.
func writeCertificate(t *testing.T, dir string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"test"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
}

// serial returns the serial number of the certificate that the server presents.
func (s site) serial(t *testing.T) int64 {
	t.Helper()
	conn, err := tls.Dial("tcp", s.address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

func hangUp(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

func TestHangupReloadsCertificatesLogLevelAndSecret(t *testing.T) {
	s := newSite(t, 0)
	base := "server_name: test\ndata_dir: .\nlisten: [{address: '" + s.address + "', serve: [client, admin], tls: {certificate: cert.pem, private_key: key.pem}}]\n"
	stamp := time.Now().Add(-time.Hour)
	pretend := func(serial int64) { // writes a certificate without changing the file's modification time
		writeCertificate(t, s.dir, serial)
		for _, name := range []string{"cert.pem", "key.pem"} {
			if err := os.Chtimes(filepath.Join(s.dir, name), stamp, stamp); err != nil {
				t.Fatal(err)
			}
		}
	}
	pretend(1)
	better := base + "log: {level: debug}\nregistration: {shared_secret: correct horse battery}\ncache: {size: 64M}\n"
	write(t, s.config, base)
	stop, log := s.serveAndLog(t)
	if n := s.serial(t); n != 1 {
		t.Fatal(n)
	}
	pretend(2)
	write(t, s.config, better)
	hangUp(t)
	log.await(t, "the configuration was reloaded", 1)
	log.await(t, "need a restart", 1)
	if n := s.serial(t); n != 2 {
		t.Errorf("after the hangup certificate %d is shown", n)
	}
	must(t, "", "healthcheck", "--config", s.config)
	log.await(t, "level=DEBUG", 1)
	for _, want := range []string{"log.level", "registration.shared_secret", "cache.size"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not name %s:\n%s", want, log)
		}
	}
	if strings.Contains(log.String(), "correct horse") {
		t.Error("the log has the secret")
	}
	// An invalid configuration changes nothing, and neither does an unreadable certificate.
	write(t, s.config, base+"log: {level: loud}\n")
	hangUp(t)
	log.await(t, "the configuration was not reloaded", 1)
	write(t, s.config, base)
	write(t, filepath.Join(s.dir, "key.pem"), "no key")
	hangUp(t)
	log.await(t, "some settings were not reloaded", 1)
	if n := s.serial(t); n != 2 {
		t.Errorf("with a bad key certificate %d is shown", n)
	}
	if code := stop(); code != 0 {
		t.Errorf("serve ended with %d", code)
	}
}
