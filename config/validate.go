package config

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"math"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"
)

// maxServerName is the maximum length of a server name. It leaves room for a localpart within the 255 bytes of a user
// ID.
const maxServerName = 230

// Validate reports all mistakes in the values together, each with its key. It does not check any files.
func (c *Config) Validate() error { return c.mistakes(nil).Err() }

// mistakes returns the mistakes in the values. It leaves out keys for which found contains a problem already.
func (c *Config) mistakes(found Problems) Problems {
	p := problems{of: c}
	c.validateNames(&p)
	c.validateListen(&p)
	c.validateRegistration(&p)
	c.Encryption.validate(&p)
	c.Email.SMTP.validate(&p)
	for i, name := range c.Identity.Servers {
		p.check(id.ValidateServerName(name), fmt.Sprintf("identity.servers[%d]", i), "%q is not HOST or HOST:PORT", name)
	}
	c.RateLimits.validate(&p)
	c.Media.validate(&p)
	c.TURN.validate(&p)
	c.Retention.validate(&p)
	if _, err := c.Calls.Transports(); err != nil {
		p.add("calls.rtc_transports", "%v", err)
	}
	p.check(!c.Push.Email || c.Email.SMTP.Host != "", "push.email", "needs email.smtp.host: the SMTP server that sends the e-mails")
	p.check(c.Push.EmailDelay >= 0, "push.email_delay", "must not be negative")
	p.check(c.Push.EmailInterval >= 0, "push.email_interval", "must not be negative")
	p.check(c.DelayedEvents.MaxDelay > 0, "delayed_events.max_delay", "must be positive; delayed_events.max_per_user: 0 switches delayed events off")
	p.check(c.DelayedEvents.MaxPerUser >= 0 && c.DelayedEvents.MaxPerUser <= 1000, "delayed_events.max_per_user", "must be between 0 and 1000")
	c.Federation.validate(&p)
	c.WellKnown.validate(&p)
	for i, proxy := range c.TrustedProxies {
		if _, err := ParseNetwork(proxy); err != nil {
			p.add(fmt.Sprintf("trusted_proxies[%d]", i), "%q is neither an address such as 127.0.0.1 nor a network such as 10.0.0.0/8", proxy)
		}
	}
	c.Auth.validate(&p, c.OAuth.Enabled)
	c.Auth.Passkeys.validate(&p, c.PublicURL)
	c.Auth.JWT.validate(&p)
	c.Auth.LDAP.validate(&p)
	c.validateProviders(&p)
	c.Audit.validate(&p)
	c.Notices.validate(&p)
	c.Backup.validate(&p)
	c.validateOAuth(&p)
	p.check(c.Login.AccessTokenLifetime > 0, "login.access_token_lifetime", "must be positive")
	p.notAbsurd("login.access_token_lifetime", c.Login.AccessTokenLifetime)
	p.lifetime("login.idle_lifetime", c.Login.IdleLifetime, Duration(24*time.Hour))
	p.lifetime("reports.keep", c.Reports.Keep, Duration(24*time.Hour))
	p.check(c.Cache.Size >= 16<<20, "cache.size", "must be at least 16M")
	p.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	p.oneOf("log.format", c.Log.Format, "text", "json")
	p.oneOf("holds.notify", c.Holds.Notify, "never", "on_request")
	p.oneOf("log.addresses", c.Log.Addresses, "full", "network", "none")
	return slices.DeleteFunc(p.list, func(one Problem) bool {
		return slices.ContainsFunc(found, func(f Problem) bool {
			return f.Key != "" && (one.Key == f.Key || strings.HasPrefix(one.Key, f.Key+".") || strings.HasPrefix(one.Key, f.Key+"["))
		})
	})
}

// oneOf checks that value is one of words.
func (p *problems) oneOf(key, value string, words ...string) {
	p.check(slices.Contains(words, value), key, "is %q, but must be one of %s", value, strings.Join(words, ", "))
}

// url checks that text is a URL with one of the schemes.
func (p *problems) url(key, text string, schemes ...string) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || !slices.Contains(schemes, u.Scheme):
		p.add(key, "%q is not an %s address", text, strings.Join(schemes, " or "))
	case u.User != nil:
		p.add(key, "has a user name or password in it, which clients would see: remove it")
	}
}

func (c *Config) validateNames(p *problems) {
	p.check(id.ValidateServerName(c.ServerName) && len(c.ServerName) <= maxServerName, "server_name",
		"%q is not a server name such as example.org: without https:// and without a path", c.ServerName)
	p.url("public_url", c.PublicURL, "http", "https")
	if u, err := url.Parse(c.PublicURL); err == nil && (u.RawQuery != "" || u.Fragment != "") {
		p.add("public_url", "%q has a query or a fragment: remove it", c.PublicURL)
	}
	p.check(c.DataDir != "", "data_dir", "is empty")
	c.validateDatabase(p)
	p.url("acme.directory", c.ACME.Directory, "https")
	p.check(c.ACME.Email == "" || emailForm.MatchString(c.ACME.Email), "acme.email", "%q is not an e-mail address", c.ACME.Email)
}

// emailForm matches anything that could be an e-mail address.
var emailForm = regexp.MustCompile(`^[^@\s]+@[^@\s]+$`)

// validateDatabase checks the database setting. Its messages do not quote the value, because the URL may contain a
// password.
func (c *Config) validateDatabase(p *problems) {
	const key = "database"
	if path, ok := strings.CutPrefix(c.Database, "sqlite:"); ok {
		p.check(path != "", key, "has no path after sqlite:")
		p.check(!strings.HasPrefix(path, ":memory:"), key, "would be kept in memory only: give the path of a file")
		return
	}
	if !strings.HasPrefix(c.Database, "postgres://") && !strings.HasPrefix(c.Database, "postgresql://") {
		p.add(key, "must begin with sqlite:, postgres:// or postgresql://")
		return
	}
	if _, err := url.Parse(c.Database); err != nil {
		p.add(key, "is not a valid address: write special characters in the password as %%XX (/ is %%2F, # is %%23, @ is %%40)")
	}
}

func (c *Config) validateRegistration(p *problems) {
	p.oneOf("registration.mode", c.Registration.Mode, "closed", "token", "open")
	p.oneOf("registration.email", c.Registration.Email, "off", "optional", "required")
	p.check(c.Registration.Email != "optional" && c.Registration.Email != "required" || c.Email.SMTP.Host != "", "registration.email", "%s needs email.smtp.host: the addresses are verified by e-mail", c.Registration.Email)
	for i, domain := range c.Email.AllowedDomains {
		p.check(emailForm.MatchString("a@"+domain), fmt.Sprintf("email.allowed_domains[%d]", i), "%q is not a domain such as example.org", domain)
	}
	p.check(c.Registration.GuestLifetime > 0, "registration.guest_lifetime", "must be positive")
	p.notAbsurd("registration.guest_lifetime", c.Registration.GuestLifetime)
	seen := map[string]bool{}
	for i, t := range c.Registration.Terms {
		key := fmt.Sprintf("registration.terms[%d]", i)
		p.check(t.ID != "" && t.Name != "", key, "needs id, name and url")
		p.url(key+".url", t.URL, "http", "https")
		p.check(!seen[t.ID], key+".id", "%q is listed twice", t.ID)
		seen[t.ID] = true
	}
}

// maxLifetime is the longest lifetime that can be set: a hundred years. A longer one is a mistake, and so near to what
// a time can hold that computing with it would overflow.
const maxLifetime = Duration(100 * 365 * 24 * time.Hour)

// lifetime checks how long something is kept. 0 means for ever; any other lifetime must be at least least.
func (p *problems) lifetime(key string, d, least Duration) {
	switch {
	case d < 0:
		p.add(key, "must not be negative; 0s means for ever")
	case d > 0 && d < least:
		p.add(key, "is %s, but must be at least %s, or 0s for ever", d, least)
	default:
		p.notAbsurd(key, d)
	}
}

// notAbsurd checks that a time span is not so long that it must be a mistake.
func (p *problems) notAbsurd(key string, d Duration) {
	p.check(d <= maxLifetime, key, "is longer than %s, a hundred years: leave the limit out instead", maxLifetime)
}

func (a Audit) validate(p *problems) {
	p.lifetime("audit.keep", a.Keep, Duration(time.Hour))
	p.lifetime("audit.keep_addresses", a.Addresses, Duration(time.Hour))
	p.check(a.Checkpoints.Interval >= Duration(time.Second), "audit.checkpoints.interval", "must be at least 1s")
	if a.Checkpoints.Webhook != "" {
		p.url("audit.checkpoints.webhook", a.Checkpoints.Webhook, "http", "https")
	}
	if address := a.Checkpoints.Syslog; address != "" && address != "local" {
		u, err := url.Parse(address)
		p.check(err == nil && u.Host != "" && (u.Scheme == "udp" || u.Scheme == "tcp"), "audit.checkpoints.syslog",
			"%q is not udp://HOST:PORT, tcp://HOST:PORT or local", address)
	}
}

// noticeLocalpart and noticeLocalpartLength say what notices.localpart may be. A pattern that counts to a hundred would
// take long to compile, at each start.
var noticeLocalpart = regexp.MustCompile(`^[a-z0-9._=/+-]+$`)

const noticeLocalpartLength = 100

func (n Notices) validate(p *problems) {
	p.check(n.Localpart == "" || len(n.Localpart) <= noticeLocalpartLength && noticeLocalpart.MatchString(n.Localpart), "notices.localpart", "%q is not the local part of a user ID, such as server-notices", n.Localpart)
	p.check(n.RoomName != "" && len(n.RoomName) <= 100, "notices.room_name", "must have 1 to 100 bytes")
}

func (b Backup) validate(p *problems) {
	p.lifetime("backup.keep", b.Keep, 0)
	for i, r := range b.Recipients {
		p.check(strings.HasPrefix(r, "age1") || strings.HasPrefix(r, "ssh-"), fmt.Sprintf("backup.recipients[%d]", i),
			"is not the public part of an age key (age1…) or of an SSH key")
	}
}

func (a Auth) validate(p *problems, pages bool) {
	for _, mode := range []struct{ key, value string }{{"auth.mfa", a.MFA}, {"auth.mfa_administrators", a.MFAAdministrators}} {
		p.oneOf(mode.key, mode.value, "off", "optional", "required")
		p.check(pages || mode.value != "optional" && mode.value != "required", mode.key,
			"%s needs oauth.enabled: users set up and show second factors on the web pages", mode.value)
	}
	p.check(a.MFAGrace >= 0, "auth.mfa_grace", "must not be negative")
	p.check(a.AdminApproval >= Duration(time.Minute) && a.AdminApproval <= Duration(24*time.Hour), "auth.admin_approval", "must be 1m to 24h")
	p.check(a.Password.MinLength >= 1 && a.Password.MinLength <= 128, "auth.password.min_length", "must be 1 to 128")
}

var aaguid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func (k Passkeys) validate(p *problems, publicURL string) {
	for i, model := range k.AAGUIDs {
		p.check(aaguid.MatchString(model), fmt.Sprintf("auth.passkeys.aaguids[%d]", i), "%q is not an AAGUID such as cb69481e-8ff7-4039-93ec-0a2729a154a8", model)
	}
	u, err := url.Parse(publicURL)
	if k.RPID == "" || err != nil {
		return
	}
	const key = "auth.passkeys.rp_id"
	host := strings.ToLower(u.Hostname())
	switch {
	case net.ParseIP(k.RPID) != nil:
		p.add(key, "browsers refuse passkeys for a bare address such as %s: use a name, such as localhost to try it on this computer", k.RPID)
	case k.RPID != strings.ToLower(k.RPID) || host != k.RPID && !strings.HasSuffix(host, "."+k.RPID):
		p.add(key, "must be the host of public_url, %s, or a domain above it, in lower case", host)
	}
}

func (c *Config) validateOAuth(p *problems) {
	o := c.OAuth
	p.oneOf("oauth.device_grant", o.DeviceGrant, "on", "off")
	p.lifetime("oauth.idle_lifetime", o.IdleLifetime, Duration(time.Hour))
	p.lifetime("oauth.session_lifetime", o.SessionLifetime, Duration(time.Hour))
	for i, host := range o.Clients {
		p.check(host != "" && host == strings.ToLower(host) && !strings.ContainsAny(host, ":/ "), fmt.Sprintf("oauth.clients[%d]", i),
			"%q is not a host name in lower case such as app.element.io", host)
	}
	if problem := c.pageProblem(); o.Enabled && problem != "" {
		p.add("oauth.enabled", "%s", problem)
	}
}

// pageProblem returns why there can be no web pages at public_url, or "". If public_url is no address, it returns "",
// since that is a mistake of its own.
func (c *Config) pageProblem() string {
	u, err := url.Parse(c.PublicURL)
	switch {
	case err != nil:
		return ""
	case u.Scheme == "http" && u.Hostname() != "localhost" && u.Hostname() != "127.0.0.1" && u.Hostname() != "::1":
		return "needs a public_url with https: passwords and tokens would not be protected"
	case u.Path != "" && u.Path != "/":
		return "needs a public_url without a path: the web pages are at its root"
	}
	return ""
}

func (s SMTP) validate(p *problems) {
	const key = "email.smtp"
	p.oneOf(key+".tls", s.TLS, "starttls", "implicit", "none")
	p.check(s.Port > 0 && s.Port < 1<<16, key+".port", "%d is not a port", s.Port)
	p.check(s.Timeout > 0, key+".timeout", "must be positive")
	if s.Host == "" {
		return
	}
	_, notIP := netip.ParseAddr(s.Host)
	p.check(notIP == nil || id.ValidateServerName(s.Host) && !strings.Contains(s.Host, ":"), key+".host", "%q is not the name or the address of a server; set the port with the key port", s.Host)
	p.check(s.TLS != "none" || loopback(s.Host), key+".tls", "none is only for an SMTP server on this machine: the password and the e-mails would be sent to %s unencrypted", s.Host)
	p.check((s.Username == "") == (s.Password == ""), key+".password", "needs both username and password, or neither")
	from, err := mail.ParseAddress(s.From)
	p.check(err == nil && emailForm.MatchString(from.Address), key+".from", "%q does not have the form Name <name@example.org>", s.From)
}

func (c *Config) validateListen(p *problems) {
	p.check(len(c.Listen) > 0, "listen", "must have at least one address")
	for i, l := range c.Listen {
		key := fmt.Sprintf("listen[%d]", i)
		l.validate(p, key)
		for j, other := range c.Listen[:i] {
			p.check(!l.overlaps(other), key+".address", "%s overlaps with listen[%d] (%s): list every address only once, with all the APIs that it serves", l.Address, j, other.Address)
		}
	}
}

// overlaps reports whether two listeners cannot be bound at the same time. A listener for all interfaces overlaps with
// every other listener on its port.
func (l Listener) overlaps(other Listener) bool {
	host, port, err := net.SplitHostPort(l.Address)
	host2, port2, err2 := net.SplitHostPort(other.Address)
	if err != nil || err2 != nil || port != port2 || port == "0" {
		return false
	}
	return strings.EqualFold(host, host2) || allInterfaces(host) || allInterfaces(host2)
}

// allInterfaces reports whether a host stands for all addresses of the machine.
func allInterfaces(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

// hostPort checks that text has the form HOST:PORT.
func (p *problems) hostPort(key, text, example string) {
	host, port, err := net.SplitHostPort(text)
	switch {
	case text == "":
		p.add(key, "is missing: HOST:PORT, such as %s", example)
	case err != nil || port == "":
		p.add(key, "%q is not HOST:PORT, such as %s; put an IPv6 address in brackets", text, example)
	default:
		if _, err := net.DefaultResolver.LookupPort(context.Background(), "tcp", port); err != nil {
			p.add(key, "the port in %q is not a number up to 65535", text)
		}
		p.check(!strings.ContainsAny(host, "/@ "), key, "the host in %q is not a name or an IP address", text)
	}
}

func (l Listener) validate(p *problems, key string) {
	p.hostPort(key+".address", l.Address, "127.0.0.1:8008")
	p.check(len(l.Serve) > 0, key+".serve", "serves nothing: name one or more of client, federation, admin, metrics")
	for i, s := range l.Serve {
		p.oneOf(fmt.Sprintf("%s.serve[%d]", key, i), s, "client", "federation", "admin", "metrics")
		p.check(!slices.Contains(l.Serve[:i], s), fmt.Sprintf("%s.serve[%d]", key, i), "%q is listed twice", s)
	}
	p.check((l.TLS.Certificate == "") == (l.TLS.PrivateKey == ""), key+".tls", "needs both certificate and private_key")
	p.check(l.TLS.Certificate == "" || len(l.TLS.ACMEHosts) == 0, key+".tls", "has both a certificate and acme_hosts: remove one of them")
	for i, host := range l.TLS.ACMEHosts {
		p.check(id.ValidateServerName(host) && strings.Contains(host, ".") && !strings.ContainsAny(host, "[:"), fmt.Sprintf("%s.tls.acme_hosts[%d]", key, i), "%q is not a full host name such as matrix.example.org", host)
	}
}

// ownClientMembers lists the members of /.well-known/matrix/client that other settings determine.
var ownClientMembers = []string{"m.homeserver", "io.element.e2ee", "org.matrix.msc4143.rtc_foci"}

func (e Encryption) validate(p *problems) {
	for i, kind := range e.Force {
		p.oneOf(fmt.Sprintf("encryption.force[%d]", i), kind, "public", "private", "direct")
		p.check(!slices.Contains(e.Forbid, kind), "encryption.forbid", "%s is also in encryption.force: remove it from one of the lists", kind)
	}
	for i, kind := range e.Forbid {
		p.oneOf(fmt.Sprintf("encryption.forbid[%d]", i), kind, "public", "private", "direct")
	}
}

func (w WellKnown) validate(p *problems) {
	p.check(w.Server == "" || id.ValidateServerName(w.Server), "well_known.server", "%q is not HOST or HOST:PORT", w.Server)
	if w.SupportPage != "" {
		p.url("well_known.support_page", w.SupportPage, "http", "https")
	}
	for name := range w.ClientExtra {
		p.check(!slices.Contains(ownClientMembers, name), "well_known.client_extra", "%s cannot be added, because Ebb sets it", name)
	}
	if w.PolicyKey != "" {
		key, err := base64.RawStdEncoding.DecodeString(w.PolicyKey)
		if err != nil { // the example in the specification uses the URL-safe alphabet
			key, err = base64.RawURLEncoding.DecodeString(w.PolicyKey)
		}
		p.check(err == nil && len(key) == ed25519.PublicKeySize, "well_known.policy_key", "is not an ed25519 public key in unpadded base64")
	}
	for i, contact := range w.Contacts {
		key := fmt.Sprintf("well_known.contacts[%d]", i)
		p.check(contact.Role != "", key+".role", "is missing: m.role.admin or m.role.security")
		p.check(contact.MatrixID != "" || contact.EmailAddress != "", key, "needs matrix_id or email_address")
		if contact.MatrixID != "" {
			_, _, err := id.UserID(contact.MatrixID).Parse()
			p.check(err == nil, key+".matrix_id", "%q is not a user ID such as @admin:example.org", contact.MatrixID)
		}
		p.check(contact.EmailAddress == "" || emailForm.MatchString(contact.EmailAddress), key+".email_address", "%q is not an e-mail address", contact.EmailAddress)
	}
}

var serverPattern = regexp.MustCompile(`^[a-zA-Z0-9.:*?\[\]-]+$`)

const serverPatternLength = 230

// isServerPattern reports whether a text is a server name that may contain wildcards.
func isServerPattern(text string) bool {
	return len(text) <= serverPatternLength && serverPattern.MatchString(text)
}

func (f Federation) validate(p *problems) {
	for key, list := range map[string][]string{"allowed_servers": f.AllowedServers, "denied_servers": f.DeniedServers} {
		for i, pattern := range list {
			p.check(isServerPattern(pattern), fmt.Sprintf("federation.%s[%d]", key, i), "%q is not a server name such as example.org or *.example.org", pattern)
		}
	}
	for i, name := range f.Notaries {
		p.check(id.ValidateServerName(name), fmt.Sprintf("federation.notaries[%d]", i), "%q is not a server name", name)
	}
}

func (r RateLimits) validate(p *problems) {
	p.check(r.Connections > 0, "rate_limits.connections", "must be positive")
	for name, b := range map[string]Bucket{
		"sends": r.Sends, "reads": r.Reads, "logins": r.Logins, "registrations": r.Registrations, "emails": r.Emails, "anonymous": r.Anonymous, "invites": r.Invites,
		"joins": r.Joins, "uploads": r.Uploads, "claims": r.Claims,
	} {
		p.check(b.PerSecond > 0 && !math.IsInf(b.PerSecond, 0) && b.Burst > 0, "rate_limits."+name, "needs a positive per_second and burst; rate_limits.enabled switches all limits off")
	}
}

func (t TURN) validate(p *problems) {
	for i, uri := range t.URIs {
		scheme, rest, found := strings.Cut(uri, ":")
		p.check(found && (scheme == "turn" || scheme == "turns" || scheme == "stun" || scheme == "stuns") && rest != "" && !strings.HasPrefix(rest, "/"),
			fmt.Sprintf("turn.uris[%d]", i), "%q is not an address such as turn:turn.example.org", uri)
	}
	p.check(t.Lifetime >= Duration(time.Minute), "turn.lifetime", "must be at least 1m")
	p.check((t.Username == "") == (t.Password == ""), "turn.password", "needs both username and password, or neither")
	p.check(t.SharedSecret == "" || t.Username == "", "turn.username", "give either a shared secret or a username, not both")
	p.check(len(t.URIs) == 0 || t.SharedSecret+t.SharedSecretFile+t.Username != "", "turn.shared_secret", "is missing: TURN servers need a shared secret, or a username and password")
}

func (m Media) validate(p *problems) {
	p.check(m.MaxUploadSize > 0, "media.max_upload_size", "must be positive")
	p.check(m.MaxPendingUploads > 0, "media.max_pending_uploads", "must be positive")
	p.check(m.PendingUploadExpiry > 0, "media.pending_upload_expiry", "must be positive")
	p.notAbsurd("media.pending_upload_expiry", m.PendingUploadExpiry)
	p.check(m.MaxRemoteSize > 0, "media.max_remote_size", "must be positive")
	p.check(m.RemoteCacheSize >= m.MaxRemoteSize, "media.remote_cache_size", "must be at least media.max_remote_size")
	p.check(m.RemoteCacheLifetime > 0, "media.remote_cache_lifetime", "must be positive")
	p.notAbsurd("media.remote_cache_lifetime", m.RemoteCacheLifetime)
	p.lifetime("media.unused_lifetime", m.UnusedLifetime, Duration(24*time.Hour))
	m.URLPreviews.validate(p)
}

// languageForm matches a language tag with an optional weight, as in Accept-Language.
var languageForm = regexp.MustCompile(`^[A-Za-z0-9*-]{1,35}(;q=[01](\.[0-9]{1,3})?)?$`)

func (v Previews) validate(p *problems) {
	const key = "media.url_previews"
	for name, list := range map[string][]string{"allowed_hosts": v.AllowedHosts, "denied_hosts": v.DeniedHosts} {
		for i, pattern := range list {
			p.check(isServerPattern(pattern), fmt.Sprintf("%s.%s[%d]", key, name, i), "%q is not a host such as example.org or *.example.org", pattern)
		}
	}
	for i, language := range v.Languages {
		p.check(languageForm.MatchString(language), fmt.Sprintf("%s.languages[%d]", key, i), "%q is not a language such as en or de-AT", language)
	}
	p.check(v.Lifetime > 0, key+".lifetime", "must be positive")
	p.notAbsurd(key+".lifetime", v.Lifetime)
	p.check(v.MaxImageSize > 0, key+".max_image_size", "must be positive")
	p.check(v.CacheSize >= v.MaxImageSize, key+".cache_size", "must be at least max_image_size")
}

func (r Retention) validate(p *problems) {
	p.check(r.PurgeInterval > 0, "retention.purge_interval", "must be positive")
	p.notAbsurd("retention.purge_interval", r.PurgeInterval)
	for key, d := range map[string]*Duration{"retention.left_rooms": r.LeftRooms, "retention.forgotten_rooms": r.ForgottenRooms} {
		if d != nil {
			p.check(*d >= 0, key, "must not be negative")
			p.notAbsurd(key, *d)
		}
	}
	p.check(r.PurgeDelay >= 0, "retention.purge_delay", "must not be negative")
	p.notAbsurd("retention.purge_delay", r.PurgeDelay)
	p.check(r.Redacted >= 0, "retention.redacted", "must not be negative")
	p.notAbsurd("retention.redacted", r.Redacted)
	p.check(r.ReceiptsKeep >= 0, "retention.receipts_keep", "must not be negative")
	p.notAbsurd("retention.receipts_keep", r.ReceiptsKeep)
	for key, l := range map[string]Lifetimes{"default": r.Default, "direct": r.Direct, "private": r.Private, "public": r.Public, "encrypted": r.Encrypted} {
		p.span("retention."+key, "min_lifetime", "max_lifetime", l.MinLifetime, l.MaxLifetime)
	}
	p.span("retention.limits.min_lifetime", "min", "max", r.Limits.MinLifetime.Min, r.Limits.MinLifetime.Max)
	p.span("retention.limits.max_lifetime", "min", "max", r.Limits.MaxLifetime.Min, r.Limits.MaxLifetime.Max)
	// A room can choose these, so a maximum of 0 would delete its messages as they arrive.
	p.nonzero("retention.limits.max_lifetime.max", r.Limits.MaxLifetime.Max)
}

// span checks two ends of a range of lifetimes. nil means that there is no limit.
func (p *problems) span(key, lowName, highName string, low, high *Duration) {
	for name, d := range map[string]*Duration{lowName: low, highName: high} {
		if d != nil {
			p.check(*d >= 0, key+"."+name, "must not be negative; null means no limit")
			p.notAbsurd(key+"."+name, *d)
		}
	}
	if highName == "max_lifetime" {
		p.nonzero(key+"."+highName, high)
	}
	p.check(low == nil || high == nil || *low <= *high, key, "the minimum is larger than the maximum")
}

// nonzero refuses a longest lifetime of 0, with which messages would be deleted as they arrive.
func (p *problems) nonzero(key string, d *Duration) {
	p.check(d == nil || *d != 0, key, "is 0: messages would be deleted as they arrive; null means no limit")
}

// ParseNetwork parses an address or a network in CIDR form.
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
