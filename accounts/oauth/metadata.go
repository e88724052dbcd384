package oauth

import (
	"encoding/json"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The grant types that this server supports.
const (
	GrantCode    = "authorization_code"
	GrantRefresh = "refresh_token"
	GrantDevice  = "urn:ietf:params:oauth:grant-type:device_code"
)

// The kinds of applications.
const (
	web    = "web"
	native = "native"
)

// Bounds of a client's metadata.
const (
	maxRedirects  = 20   // redirect URIs; clients register one to three
	maxURI        = 2048 // bytes
	maxClientName = 200  // bytes
)

// Metadata describes a client. Only members that this server uses are registered.
// Spec: client-server-api#client-metadata
type Metadata struct {
	ApplicationType string   `json:"application_type"`
	ClientName      string   `json:"client_name,omitempty"`
	ClientURI       string   `json:"client_uri"`
	GrantTypes      []string `json:"grant_types"`
	LogoURI         string   `json:"logo_uri,omitempty"`
	PolicyURI       string   `json:"policy_uri,omitempty"`
	RedirectURIs    []string `json:"redirect_uris,omitempty"`
	ResponseTypes   []string `json:"response_types"`
	AuthMethod      string   `json:"token_endpoint_auth_method"`
	TOSURI          string   `json:"tos_uri,omitempty"`
}

// rules are the server's rules on clients.
type rules struct {
	hosts    []string // hosts of the client URIs of the only clients that may register; empty: all may
	loopback bool     // whether web clients may be on the loopback interface, without TLS
}

// Host returns the host of the client URI.
func (m Metadata) Host() string {
	u, err := url.Parse(m.ClientURI)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Hostname())
}

// Title returns the name of the client that is shown to the user.
func (m Metadata) Title() string {
	if m.ClientName != "" {
		return m.ClientName
	}
	return m.Host()
}

// parseMetadata checks the metadata of a client that registers, and returns it in the form in which it is stored.
//
// Errors: invalid_client_metadata, invalid_redirect_uri, invalid_request.
func (r rules) parseMetadata(body []byte) (m Metadata, err error) {
	if !utf8.Valid(body) || json.Unmarshal(body, &m) != nil {
		return m, invalid(errRequest, "The body is not a JSON object with the metadata of a client")
	}
	if err := r.checkURIs(m); err != nil {
		return m, err
	}
	switch m.ApplicationType {
	case "":
		m.ApplicationType = web
	case web, native:
	default:
		return m, invalid(errMetadata, "application_type must be web or native")
	}
	switch {
	case m.AuthMethod != "" && m.AuthMethod != "none":
		return m, invalid(errMetadata, "token_endpoint_auth_method must be none: this server gives out no client secrets")
	case len(m.ClientName) > maxClientName || strings.ContainsFunc(m.ClientName, isControl):
		return m, invalid(errMetadata, "client_name is too long or has control characters")
	}
	m.AuthMethod = "none"
	if err := m.checkGrants(); err != nil {
		return m, err
	}
	return m, r.checkRedirects(m)
}

// isControl reports whether a character is not shown, but may change how others are: controls, marks of direction,
// separators of lines. The joiners of scripts and emoji are allowed.
func isControl(c rune) bool {
	return unicode.In(c, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) && c != '\u200c' && c != '\u200d'
}

// checkURIs checks the client URI and the URIs that are shown to the user.
func (r rules) checkURIs(m Metadata) error {
	home, err := r.parseURI(m.ClientURI)
	if err != nil {
		return invalid(errMetadata, "client_uri must be an https address without a user name, such as https://app.example.org/")
	}
	host := strings.ToLower(home.Hostname())
	if len(r.hosts) > 0 && !slices.Contains(r.hosts, host) {
		return invalid(errMetadata, "This server does not allow this client; its administrator can add %q to oauth.clients", host)
	}
	for name, text := range map[string]string{"logo_uri": m.LogoURI, "policy_uri": m.PolicyURI, "tos_uri": m.TOSURI} {
		if text == "" {
			continue
		}
		if u, err := r.parseURI(text); err != nil || !under(u, host) {
			return invalid(errMetadata, "%s must be an https address on the host of client_uri or a subdomain of it", name)
		}
	}
	return nil
}

// checkGrants checks the grant types and response types, and drops those that this server does not support.
func (m *Metadata) checkGrants() error {
	if m.GrantTypes == nil {
		m.GrantTypes = []string{GrantCode}
	}
	if m.ResponseTypes == nil {
		m.ResponseTypes = []string{"code"}
	}
	m.GrantTypes = known(append(m.GrantTypes, GrantRefresh), GrantCode, GrantRefresh, GrantDevice) // every session gets a refresh token
	m.ResponseTypes = known(m.ResponseTypes, "code")
	byCode := slices.Contains(m.GrantTypes, GrantCode)
	switch {
	case !byCode && !slices.Contains(m.GrantTypes, GrantDevice):
		return invalid(errMetadata, "grant_types must have authorization_code or %s", GrantDevice)
	case byCode && len(m.ResponseTypes) == 0:
		return invalid(errMetadata, "response_types must have code")
	case byCode && len(m.RedirectURIs) == 0:
		return invalid(errRedirect, "redirect_uris is missing")
	}
	return nil
}

// known returns the elements that list and all have in common, in the order of all.
func known(list []string, all ...string) []string {
	return slices.DeleteFunc(all, func(s string) bool { return !slices.Contains(list, s) })
}

// parseURI parses the URI of a web page.
func (r rules) parseURI(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxURI || u.User != nil || !isHost(u.Hostname()) || u.Opaque != "" || strings.ContainsFunc(text, notURI):
		return nil, errURI
	case u.Scheme == "https", u.Scheme == "http" && r.loopback && isLoopback(u.Hostname()):
		return u, nil
	}
	return nil, errURI
}

// notURI reports whether a character cannot be in a URI. Browsers read a backslash as a slash, which Go does not.
func notURI(c rune) bool {
	return c <= ' ' || c >= 0x7f || c == '\\' || c == '<' || c == '>' || c == '"'
}

// hostForm matches names and addresses of hosts. Go also accepts characters such as ; and *, which have a meaning in
// the content security policy that names the host.
var hostForm = regexp.MustCompile(`^[A-Za-z0-9._:-]+$`)

func isHost(name string) bool { return hostForm.MatchString(name) }

// under reports whether the host of u is host or a subdomain of it.
func under(u *url.URL, host string) bool {
	own := strings.ToLower(u.Hostname())
	return own == host || strings.HasSuffix(own, "."+host) && net.ParseIP(own) == nil
}

func isLoopback(host string) bool { return host == "localhost" || host == "127.0.0.1" || host == "::1" }

// checkRedirects checks the redirect URIs.
// Spec: client-server-api#redirect-uri-validation
func (r rules) checkRedirects(m Metadata) error {
	if len(m.RedirectURIs) > maxRedirects {
		return invalid(errRedirect, "There must not be more than %d redirect URIs", maxRedirects)
	}
	for _, text := range m.RedirectURIs {
		u, err := url.Parse(text)
		switch {
		case err != nil || len(text) > maxURI || strings.ContainsFunc(text, notURI):
			return invalid(errRedirect, "A redirect URI is not a URI")
		case strings.Contains(text, "#"):
			return invalid(errRedirect, "A redirect URI must not have a fragment")
		case m.ApplicationType == native && r.nativeRedirect(m.Host(), u, text):
		case r.webRedirect(m.Host(), text):
		default:
			return invalid(errRedirect, "%.200q is not a redirect URI of a client at %s", text, m.Host())
		}
	}
	return nil
}

func (r rules) webRedirect(host, text string) bool {
	u, err := r.parseURI(text)
	return err == nil && under(u, host)
}

// nativeRedirect reports whether u is a redirect URI that a native client of host may use: its scheme is host with the
// labels reversed, possibly with more labels, or it is an http URI on the loopback interface.
func (r rules) nativeRedirect(host string, u *url.URL, text string) bool {
	if u.Scheme == "http" {
		return isLoopback(u.Hostname()) && u.Port() == "" && !strings.HasSuffix(u.Host, ":") && u.User == nil
	}
	return ownScheme(u.Scheme, host) && !strings.HasPrefix(text[len(u.Scheme):], "://")
}

// allows reports whether a client may be redirected to a URI. It must be one that the client has registered, except
// that the port of a native client on the loopback interface may be any.
func (m Metadata) allows(redirect string) bool {
	if slices.Contains(m.RedirectURIs, redirect) {
		return true
	}
	u, err := url.Parse(redirect)
	if err != nil || m.ApplicationType != native || u.Scheme != "http" || u.User != nil || u.Port() == "" || !isLoopback(u.Hostname()) ||
		strings.ContainsFunc(redirect, notURI) || strings.Contains(redirect, "#") {
		return false
	}
	plain, found := strings.CutPrefix(redirect, "http://"+u.Host)
	return found && slices.Contains(m.RedirectURIs, "http://"+strings.TrimSuffix(u.Host, ":"+u.Port())+plain)
}
