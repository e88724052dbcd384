package oauth

import (
	"context"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"ebb/accounts/gate"
	"ebb/mxerr"
	"ebb/storage"
)

// Single sign-on (m.login.sso) is for clients that do not use OAuth 2.0. Their users sign in on the same pages, and the
// client gets a login token, with which it calls POST /login.

// ssoTokenLifetime is how long the login token in a redirect is valid. The specification suggests about five seconds,
// which phones often need to switch from the browser to the client.
const ssoTokenLifetime = 30 * time.Second

// SSORedirect is the redirectUrl of a client: where the browser continues with a login token. Clients of the legacy API
// do not register, so it can be anywhere, and users must be shown where it leads.
type SSORedirect struct {
	text string
	url  *url.URL
}

// neverRedirected lists schemes that lead to no client: the browser itself or another program would handle them.
var neverRedirected = []string{"about", "android-app", "blob", "chrome", "data", "file", "filesystem", "ftp", "intent", "javascript", "mailto", "sms", "tel", "vbscript", "view-source", "ws", "wss"}

// SSORedirect checks a redirectUrl. It must be an https address, an address on the loopback interface, or have a scheme
// of an application. If only certain clients may be used (oauth.clients), it must belong to one of them.
//
// Errors: invalid_request.
func (s *Service) SSORedirect(text string) (SSORedirect, error) {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return SSORedirect{}, invalid(errRequest, "redirectUrl is missing: go back to your client and start again")
	case err != nil || len(text) > maxURI || u.Scheme == "" || strings.ContainsFunc(text, notURI):
		return SSORedirect{}, invalid(errRequest, "redirectUrl is not a URL of a client")
	}
	good := false
	switch {
	case u.User != nil || slices.Contains(neverRedirected, u.Scheme):
	case u.Scheme == "https":
		good = isHost(u.Hostname())
	case u.Scheme == "http":
		good = isLoopback(u.Hostname())
	default:
		good = true
	}
	if !good {
		return SSORedirect{}, invalid(errRequest, "redirectUrl must be an https address, an http address on this computer, or have the scheme of an application")
	}
	if len(s.rules.hosts) > 0 && !slices.ContainsFunc(s.rules.hosts, func(host string) bool { return belongs(u, host) }) {
		return SSORedirect{}, invalid(errRequest, "This server does not allow this client; its administrator can add its host to oauth.clients")
	}
	return SSORedirect{text, u}, nil
}

// belongs reports whether a redirectUrl belongs to the client of a host.
func belongs(u *url.URL, host string) bool {
	if u.Scheme == "https" {
		return under(u, host)
	}
	return u.Scheme != "http" && ownScheme(u.Scheme, host)
}

// ownScheme reports whether a scheme begins with the reversed labels of a host.
func ownScheme(scheme, host string) bool {
	labels := strings.Split(host, ".")
	if net.ParseIP(host) != nil || len(labels) < 2 {
		return false
	}
	slices.Reverse(labels)
	own := strings.Join(labels, ".")
	return scheme == own || strings.HasPrefix(scheme, own+".")
}

// URL returns the redirectUrl as the client gave it.
func (r SSORedirect) URL() string { return r.text }

// Target returns where the redirect leads, as the user is shown it: a host, or the scheme of an application. The host
// of an address with such a scheme means nothing.
func (r SSORedirect) Target() string {
	if r.url.Scheme == "http" || r.url.Scheme == "https" {
		return r.url.Host
	}
	return r.url.Scheme + ":"
}

// with returns the redirectUrl with a login token, instead of those that it may have.
func (r SSORedirect) with(token string) string {
	rest, fragment, hasFragment := strings.Cut(r.text, "#")
	path, query, _ := strings.Cut(rest, "?")
	var kept []string
	for _, part := range strings.Split(query, "&") {
		name, _, _ := strings.Cut(part, "=")
		if plain, err := url.QueryUnescape(name); part != "" && (err != nil || plain != "loginToken") {
			kept = append(kept, part)
		}
	}
	to := path + "?" + strings.Join(append(kept, "loginToken="+token), "&")
	if hasFragment {
		to += "#" + fragment
	}
	return to
}

// ApproveSSO makes a login token for a user who has consented in a browser, and returns the address to which the
// browser is sent. The session of the client gets the evidence of that of the browser.
// Spec: client-server-api#handling-the-callback-from-the-authentication-server
//
// Errors: M_FORBIDDEN.
func (s *Service) ApproveSSO(ctx context.Context, r SSORedirect, session, network string) (string, error) {
	token := ""
	err := s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		who, found, err := tx.WebSession(gate.KeyOf(session).String())
		if err == nil && !found {
			err = mxerr.Forbidden("You have been signed out in this browser: go back to your client and start again")
		}
		if err != nil {
			return err
		}
		pass, err := s.opts.Gate.Admit(tx, gate.Attempt{Path: gate.PathSSO, User: who.User, Shown: gate.Evidence(who.Evidence), Upstream: who.Upstream, Network: network})
		if err != nil {
			return err
		}
		token, err = pass.LoginToken(ssoTokenLifetime)
		return err
	})
	if err != nil {
		return "", err
	}
	return r.with(token), nil
}
