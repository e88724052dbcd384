package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"
)

// problems collects mistakes with the key they are at.
type problems []error

func (p *problems) add(key, format string, args ...any) {
	*p = append(*p, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
}

func (p *problems) check(ok bool, key, format string, args ...any) {
	if !ok {
		p.add(key, format, args...)
	}
}

// maxServerName leaves room for a local part within the 255 bytes of a user id.
const maxServerName = 230

// Validate reports every mistake at once, each with its key.
func (c *Config) Validate() error {
	var p problems
	p.check(id.ValidateServerName(c.ServerName) && len(c.ServerName) <= maxServerName, "server_name", "%q is not a server name", c.ServerName)
	if u, err := url.Parse(c.PublicURL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		p.add("public_url", "%q is not an http or https address", c.PublicURL)
	}
	p.check(c.DataDir != "", "data_dir", "is empty")
	p.check(strings.HasPrefix(c.Database, "sqlite:") && c.Database != "sqlite:" || strings.HasPrefix(c.Database, "postgres://"),
		"database", "%q is neither sqlite:PATH nor postgres://…", c.Database)
	if u, err := url.Parse(c.ACME.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
		p.add("acme.directory", "%q is not an https address", c.ACME.Directory)
	}
	p.check(len(c.Listen) > 0, "listen", "there is no address")
	for i, l := range c.Listen {
		l.validate(&p, fmt.Sprintf("listen[%d]", i))
	}
	p.check(slices.Contains([]string{"closed", "token", "open"}, c.Registration.Mode), "registration.mode", "%q is none of closed, token, open", c.Registration.Mode)
	p.check(c.Login.AccessTokenLifetime > 0, "login.access_token_lifetime", "must be positive")
	c.RateLimits.validate(&p)
	c.Media.validate(&p)
	c.Retention.validate(&p)
	c.Federation.validate(&p)
	for i, t := range c.Registration.Terms {
		p.check(t.ID != "" && t.URL != "" && t.Name != "", fmt.Sprintf("registration.terms[%d]", i), "needs id, name and url")
	}
	for i, proxy := range c.TrustedProxies {
		if _, err := ParseNetwork(proxy); err != nil {
			p.add(fmt.Sprintf("trusted_proxies[%d]", i), "%q is neither an address nor a network", proxy)
		}
	}
	p.check(c.Cache.Size >= 16<<20, "cache.size", "must be at least 16M")
	p.check(slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level), "log.level", "%q is none of debug, info, warn, error", c.Log.Level)
	p.check(slices.Contains([]string{"text", "json"}, c.Log.Format), "log.format", "%q is neither text nor json", c.Log.Format)
	return errors.Join(p...)
}

func (l Listener) validate(p *problems, key string) {
	_, port, err := net.SplitHostPort(l.Address)
	p.check(err == nil && port != "", key+".address", "%q is not HOST:PORT", l.Address)
	p.check(len(l.Serve) > 0, key+".serve", "serves nothing")
	for _, s := range l.Serve {
		p.check(slices.Contains([]string{"client", "federation", "admin", "metrics"}, s), key+".serve", "%q is none of client, federation, admin, metrics", s)
	}
	p.check((l.TLS.Certificate == "") == (l.TLS.PrivateKey == ""), key+".tls", "needs both certificate and private_key")
	p.check(l.TLS.Certificate == "" || len(l.TLS.ACMEHosts) == 0, key+".tls", "has a certificate and acme_hosts, which exclude each other")
	for i, host := range l.TLS.ACMEHosts {
		p.check(id.ValidateServerName(host) && strings.Contains(host, ".") && !strings.ContainsAny(host, "[:"), fmt.Sprintf("%s.tls.acme_hosts[%d]", key, i), "%q is not a name with a dot in it", host)
	}
}

// serverPattern is a server name with wildcards.
var serverPattern = regexp.MustCompile(`^[a-zA-Z0-9.:*?\[\]-]{1,230}$`)

func (f Federation) validate(p *problems) {
	for key, list := range map[string][]string{"allowed_servers": f.AllowedServers, "denied_servers": f.DeniedServers} {
		for i, pattern := range list {
			p.check(serverPattern.MatchString(pattern), fmt.Sprintf("federation.%s[%d]", key, i), "%q is no server name, with or without * and ?", pattern)
		}
	}
	for i, name := range f.Notaries {
		p.check(id.ValidateServerName(name), fmt.Sprintf("federation.notaries[%d]", i), "%q is not a server name", name)
	}
}

func (r RateLimits) validate(p *problems) {
	for name, b := range map[string]Bucket{
		"sends": r.Sends, "reads": r.Reads, "logins": r.Logins, "registrations": r.Registrations, "anonymous": r.Anonymous,
		"joins": r.Joins, "uploads": r.Uploads, "claims": r.Claims,
	} {
		p.check(b.PerSecond > 0 && b.Burst > 0, "rate_limits."+name, "needs a positive per_second and burst")
	}
}

func (m Media) validate(p *problems) {
	p.check(m.MaxUploadSize > 0, "media.max_upload_size", "must be positive")
	p.check(m.MaxPendingUploads > 0, "media.max_pending_uploads", "must be positive")
	p.check(m.PendingUploadExpiry > 0, "media.pending_upload_expiry", "must be positive")
	p.check(m.MaxRemoteSize > 0, "media.max_remote_size", "must be positive")
	p.check(m.RemoteCacheSize >= m.MaxRemoteSize, "media.remote_cache_size", "must be at least media.max_remote_size")
	p.check(m.RemoteCacheLifetime > 0, "media.remote_cache_lifetime", "must be positive")
}

func (r Retention) validate(p *problems) {
	p.check(r.PurgeInterval > 0, "retention.purge_interval", "must be positive")
	ordered := func(key string, low, high *Duration) {
		p.check(low == nil || high == nil || *low <= *high, key, "the minimum is larger than the maximum")
	}
	ordered("retention.default", r.Default.MinLifetime, r.Default.MaxLifetime)
	ordered("retention.limits.min_lifetime", r.Limits.MinLifetime.Min, r.Limits.MinLifetime.Max)
	ordered("retention.limits.max_lifetime", r.Limits.MaxLifetime.Min, r.Limits.MaxLifetime.Max)
}

// ParseNetwork reads an address or a network in CIDR form.
func ParseNetwork(text string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	return a.Prefix(a.BitLen())
}
