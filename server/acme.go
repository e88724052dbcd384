package server

import (
	"crypto/tls"
	"path/filepath"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"ebb/config"
)

// acmeConfig returns the TLS configuration of every address that has acme_hosts. A certificate is issued when a client
// first asks for its name, and renewed a month before it expires. The authority checks a name with a handshake
// (TLS-ALPN-01) on port 443, which any of the addresses can answer, since all share the state. Keys and certificates
// are stored below data_dir.
func acmeConfig(cfg *config.Config) *tls.Config {
	var hosts []string
	for _, l := range cfg.Listen {
		hosts = append(hosts, l.TLS.ACMEHosts...)
	}
	m := &autocert.Manager{
		Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(filepath.Join(cfg.Dir(), "acme")), HostPolicy: autocert.HostWhitelist(hosts...),
		Client: &acme.Client{DirectoryURL: cfg.ACME.Directory, UserAgent: "Ebb"}, Email: cfg.ACME.Email,
	}
	c := m.TLSConfig()
	c.MinVersion = tls.VersionTLS12
	return c
}
