package server

import (
	"crypto/tls"
	"path/filepath"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"ebb/config"
)

// acmeConfig is the TLS of every address that has acme_hosts: certificates are fetched when somebody first asks for a name,
// and renewed a month before their end. The authority proves them by a handshake (TLS-ALPN-01) at port 443, which may come to
// any of the addresses, since all share what is under way. Keys and certificates are kept below data_dir.
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
