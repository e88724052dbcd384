package httpapi

import (
	"crypto/tls"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"ebb/config"
)

// Certificate is a TLS certificate and its key, loaded from PEM files. It reads the files again when one of them
// changes, so a renewal needs no restart.
type Certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	now               func() time.Time

	// mu guards the fields below; a leaf lock.
	mu      sync.Mutex
	current *tls.Certificate
	read    [2]fs.FileInfo // the state of the files when they were last read
	failed  time.Time      // when reading the files failed last; zero after a success
	said    string         // the last error that was logged; it is not logged again
}

// NewCertificate loads a certificate and its key.
func NewCertificate(certFile, keyFile string, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, log: log, now: time.Now}
	return c, c.Load()
}

// TLS returns a configuration that serves the certificate.
func (c *Certificate) TLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get, NextProtos: []string{"h2", "http/1.1"}}
}

// Load reads the files even if they have not changed. If they cannot be read, or do not belong together, the current
// certificate stays in use.
func (c *Certificate) Load() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.load()
}

func (c *Certificate) load() (err error) {
	defer func() {
		if c.failed = (time.Time{}); err != nil {
			c.failed = c.now()
		}
	}()
	// Stat is called before the files are read, so a change in between causes another read.
	for i, name := range []string{c.certFile, c.keyFile} {
		if c.read[i], err = os.Stat(name); err != nil {
			return err
		}
	}
	certificate, err := config.ReadFile(c.certFile)
	if err != nil {
		return err
	}
	key, err := config.ReadFile(c.keyFile)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return fmt.Errorf("%s with %s: %w", c.certFile, c.keyFile, err)
	}
	c.current, c.said = &pair, ""
	return nil
}

// retryCertificate is how long to wait before reading files again that could not be read and look unchanged. Fixing a
// file's permissions does not change its modification time.
const retryCertificate = 10 * time.Second

// changed reports whether the files must be read again. A renewal may replace the certificate and the key one after the
// other, in either order.
func (c *Certificate) changed() bool {
	if !c.failed.IsZero() && c.now().Sub(c.failed) >= retryCertificate {
		return true
	}
	for i, name := range []string{c.certFile, c.keyFile} {
		now, err := os.Stat(name)
		was := c.read[i]
		switch {
		case err != nil || was == nil:
			if (err != nil) != (was == nil) {
				return true
			}
		case !now.ModTime().Equal(was.ModTime()) || now.Size() != was.Size() || !os.SameFile(now, was):
			return true
		}
	}
	return false
}

// get returns the certificate for a handshake. If a renewed certificate cannot be read, the old one stays in use.
func (c *Certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.changed() {
		return c.current, nil
	}
	switch err := c.load(); {
	case err == nil:
		c.log.Info("a changed certificate was loaded", "file", c.certFile)
	case err.Error() != c.said:
		c.said = err.Error()
		c.log.Warn("the changed certificate cannot be used; the previous one stays in use", "err", err)
	}
	return c.current, nil
}
