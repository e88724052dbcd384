package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"ebb/regular"
)

// CheckFiles checks every file and folder named in the configuration, with the permissions of the current user.
// Mistakes keep the server from starting; warnings do not.
func (c *Config) CheckFiles(now time.Time) (mistakes, warnings Problems) {
	p, w := problems{of: c}, problems{of: c}
	c.checkDataDir(&p, &w)
	c.checkDatabaseFile(&p)
	c.checkSecrets(&p, &w)
	for i, l := range c.Listen {
		if l.TLS.Certificate != "" && l.TLS.PrivateKey != "" {
			c.checkCertificate(&p, &w, fmt.Sprintf("listen[%d].tls", i), l.TLS, now)
		}
	}
	if _, err := c.Authorities(); err != nil {
		p.add("federation.trusted_ca_file", "%v", err)
	}
	_, services := c.AppServices()
	return append(p.list, services...), w.list
}

// maxFile bounds a file that the configuration names, in bytes. The authorities of a system have some 250 KiB.
const maxFile = 4 << 20

// ReadFile reads a file that the configuration names, which must be a regular one.
func ReadFile(path string) ([]byte, error) { return regular.ReadFile(path, maxFile) }

// The bits of access(2).
const (
	mayRead  = 4
	mayWrite = 2
	mayEnter = 1
)

// access returns an error unless this process has the given access to a file or folder. The error is a *fs.PathError
// that OwnerOf can explain.
func access(path string, how uint32) error {
	if err := syscall.Access(path, how); err != nil {
		return &fs.PathError{Op: "access", Path: path, Err: err}
	}
	return nil
}

func (c *Config) checkDataDir(p, w *problems) {
	const key = "data_dir"
	info, err := os.Stat(c.Dir())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.add(key, "the folder %s does not exist: ebb init creates it, with the signing key", c.Dir())
		return
	case err == nil && !info.IsDir():
		p.add(key, "%s is not a folder", c.Dir())
		return
	case err == nil:
		err = access(c.Dir(), mayRead|mayWrite|mayEnter)
	}
	if err != nil {
		p.add(key, "%v%s", err, OwnerOf(err))
		return
	}
	if info.Mode().Perm()&0o022 != 0 {
		w.add(key, "other users of this machine can write to %s: run chmod go-w on it", c.Dir())
	}
}

// checkDatabaseFile checks an SQLite database file without opening it as a database.
func (c *Config) checkDatabaseFile(p *problems) {
	const key = "database"
	path, ok := strings.CutPrefix(c.DSN(), "sqlite:")
	if !ok {
		return
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		p.add(key, "%s is a folder", path)
	case err == nil && !info.Mode().IsRegular():
		p.add(key, "%s is not a regular file", path)
	case err == nil:
		err = access(path, mayRead|mayWrite)
	case errors.Is(err, fs.ErrNotExist):
		err = nil
		if folder := filepath.Dir(path); folder != c.Dir() && exists(folder) {
			err = access(folder, mayRead|mayWrite|mayEnter)
		}
	}
	if err != nil {
		p.add(key, "%v%s", err, OwnerOf(err))
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// checkSecrets checks which users can read files that contain secrets.
func (c *Config) checkSecrets(p, w *problems) {
	inFile := strings.Contains(c.Database, "@")
	for _, f := range c.secretFiles() {
		if f.file == "" {
			inFile = inFile || *f.secret != ""
		} else if err := access(c.abs(f.file), mayRead); err != nil {
			p.add(f.key, "%v%s", err, OwnerOf(err))
		}
	}
	info, err := os.Stat(c.path)
	if err == nil && inFile && len(c.source.secrets) == 0 && info.Mode().Perm()&0o044 != 0 {
		w.list = append(w.list, Problem{Text: "other users of this machine can read the secrets in " + c.path + ": run chmod go-r on it"})
	}
}

// checkCertificate loads a certificate with its key.
func (c *Config) checkCertificate(p, w *problems, key string, t TLS, now time.Time) {
	certificate, err := ReadFile(c.abs(t.Certificate))
	if err != nil {
		p.add(key+".certificate", "%v%s", err, OwnerOf(err))
	}
	private, keyErr := ReadFile(c.abs(t.PrivateKey))
	if keyErr != nil {
		p.add(key+".private_key", "%v%s", keyErr, OwnerOf(keyErr))
	}
	if err != nil || keyErr != nil {
		return
	}
	pair, err := tls.X509KeyPair(certificate, private)
	if err != nil {
		p.add(key, "%s with %s: %v", t.Certificate, t.PrivateKey, err)
		return
	}
	if leaf, err := x509.ParseCertificate(pair.Certificate[0]); err == nil && now.After(leaf.NotAfter) {
		w.add(key+".certificate", "%s expired at %s", t.Certificate, leaf.NotAfter.Format(time.RFC3339))
	}
}

// Authorities returns the certificate authorities that are trusted for other servers, or nil for those of the system.
func (c *Config) Authorities() (*x509.CertPool, error) {
	if c.Federation.TrustedCAFile == "" {
		return nil, nil
	}
	raw, err := ReadFile(c.abs(c.Federation.TrustedCAFile))
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, OwnerOf(err))
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if block, _ := pem.Decode(raw); block == nil || !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("%s has no PEM certificate", c.Federation.TrustedCAFile)
	}
	return pool, nil
}
