package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// shortSecret is the length below which a shared secret causes a warning. Anybody who can reach the server and knows
// the secret can create administrators.
const shortSecret = 16

// Warnings returns the settings that the server accepts although they may be dangerous or unintended.
func (c *Config) Warnings() Problems {
	w := problems{of: c}
	c.warnOfAddresses(&w)
	c.warnOfFederation(&w)
	c.warnOfProxies(&w)
	c.warnOfUpstream(&w)
	if c.Registration.Mode == "open" {
		w.add("registration.mode", "is open: everybody can create accounts, so expect spam and abuse")
	}
	if n := len(c.Registration.SharedSecret); n > 0 && n < shortSecret {
		w.add("registration.shared_secret", "is short: anybody who guesses it can create administrators; use at least %d characters", shortSecret)
	}
	c.warnOfBackups(&w)
	if c.DatabaseKeys == keysOff && !strings.HasPrefix(c.Database, "sqlite:") {
		w.add("database_keys", "is off: PostgreSQL keeps deleted messages in its log and on replicas, where they can be read")
	}
	if !c.RateLimits.Enabled {
		w.add("rate_limits.enabled", "is false: anybody can try any number of passwords")
	}
	if c.Media.URLPreviews.Enabled && c.Media.URLPreviews.AllowPrivateAddresses {
		w.add("media.url_previews.allow_private_addresses", "is true: every user can read web pages in this server's own network")
	}
	if c.Media.AllowUnauthenticated {
		w.add("media.allow_unauthenticated", "is true: anybody who knows the address of a file can download it without an account")
	}
	return w.list
}

func (c *Config) warnOfAddresses(w *problems) {
	for i, l := range c.Listen {
		host, _, err := net.SplitHostPort(l.Address)
		if err != nil || loopback(host) {
			continue
		}
		key := fmt.Sprintf("listen[%d]", i)
		// Without a secret, all admin requests are refused.
		dangerous := map[string]bool{"admin": c.Registration.SharedSecret != "", "metrics": true}
		for _, api := range l.Serve {
			if dangerous[api] {
				w.add(key+".serve", "%s is served at %s, which other machines may be able to reach: serve it at an address of its own, such as 127.0.0.1:9008", api, l.Address)
			}
		}
		if l.TLS.Certificate == "" && len(l.TLS.ACMEHosts) == 0 && len(c.TrustedProxies) == 0 {
			w.add(key+".tls", "%s serves plain HTTP, so passwords and messages can be read on the network: give it a certificate or, "+
				"if only a proxy with a certificate can reach it, name the proxy in trusted_proxies", l.Address)
		}
	}
	if u, err := url.Parse(c.PublicURL); err == nil && u.Scheme == "http" && !loopback(u.Hostname()) {
		w.add("public_url", "is an http address: clients would send passwords unencrypted, and many refuse to connect")
	}
}

// loopback reports whether a host can be reached only from this machine.
func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}

func (c *Config) warnOfFederation(w *problems) {
	serves := slices.ContainsFunc(c.Listen, func(l Listener) bool { return slices.Contains(l.Serve, "federation") })
	switch {
	case c.Federation.Enabled && !serves:
		w.add("federation.enabled", "is true, but no address serves federation: other servers cannot reach this one")
	case !c.Federation.Enabled && serves:
		w.add("federation.enabled", "is false, although an address serves federation: requests of other servers are refused there")
	}
	if !c.Federation.Enabled {
		return
	}
	if host, _, _ := strings.Cut(c.ServerName, ":"); loopback(host) {
		w.add("server_name", "%q means the local machine on every machine: other servers cannot reach this one", c.ServerName)
	}
	if c.Push.AllowPrivateGateways {
		w.add("push.allow_private_gateways", "is true: every user can make this server send requests into its own network")
	}
	if c.Federation.AllowPrivateAddresses {
		w.add("federation.allow_private_addresses", "is true: other servers can make this one send requests into its own network")
	}
}

// widest is the shortest network prefix in trusted_proxies that causes no warning.
const widest = 8

func (c *Config) warnOfProxies(w *problems) {
	for i, text := range c.TrustedProxies {
		if n, err := ParseNetwork(text); err == nil && n.Bits() < widest {
			w.add(fmt.Sprintf("trusted_proxies[%d]", i), "%s is a very large network: anybody in it can fake another address by sending X-Forwarded-For", text)
		}
	}
	ownTLS := slices.ContainsFunc(c.Listen, func(l Listener) bool { return l.TLS.Certificate != "" || len(l.TLS.ACMEHosts) > 0 })
	if strings.HasPrefix(c.PublicURL, "https://") && !ownTLS && len(c.TrustedProxies) == 0 && len(c.Listen) > 0 {
		w.add("trusted_proxies", "is empty, although public_url is https and no address has a certificate: name the proxy; otherwise all clients share one rate limit")
	}
}

// ShortestRetention returns the shortest time after which the configuration makes messages expire: the default, or the
// most that rooms may choose. It returns 0 if messages are kept for ever.
func (c *Config) ShortestRetention() Duration {
	shortest := Duration(0)
	for _, d := range []*Duration{c.Retention.Default.MaxLifetime, c.Retention.Limits.MaxLifetime.Max} {
		if d != nil && (shortest == 0 || *d < shortest) {
			shortest = *d
		}
	}
	return shortest
}

func (c *Config) warnOfBackups(w *problems) {
	if len(c.Backup.Recipients) == 0 {
		return
	}
	if c.Backup.Ledger == "" {
		w.add("backup.ledger", "is not set: a restored backup brings back what was deleted after it, and signs everybody out; name a file on another disk")
	}
	if shortest := c.ShortestRetention(); shortest > 0 && (c.Backup.Keep == 0 || c.Backup.Keep > shortest) {
		w.add("backup.keep", "is longer than messages are kept, which is %s: backups still have messages that the server has deleted", shortest)
	}
}
