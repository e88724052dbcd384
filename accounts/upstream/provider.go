package upstream

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/template"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"

	"ebb/accounts/gate"
	"ebb/accounts/jwt"
	"ebb/keyed"
	"ebb/netguard"
)

// Settings are the settings of a provider.
type Settings struct {
	ID, Name         string
	Icon, Brand      string
	Issuer           string
	ClientID, Secret string   // no secret for a public client
	Scopes           []string // empty for the usual ones
	Localpart        string   // template of the localpart of a new account; "" if users choose it
	DisplayName      string   // template
	Email            string   // template
	Create           bool     // whether users can create an account
	SkipUserinfo     bool     // whether the claims in the ID token are enough
	RequestACR       []string // acr_values of the request
	SecondFactor     jwt.SecondFactor
	Roots            *x509.CertPool // nil for those of the system
}

// Bounds of requests to a provider.
const (
	requestTime    = 10 * time.Second
	maxResponse    = 1 << 20 // bytes
	maxConnections = 8
	discoveryTime  = time.Hour        // how long the metadata and the keys of a provider are kept
	keysPause      = 30 * time.Second // the shortest time between two requests for keys because a token has an unknown one
)

// algorithms are the accepted signature algorithms of tokens, all with public keys.
var algorithms = []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA}

// provider is an OpenID Connect provider.
type provider struct {
	Settings
	redirect  string
	now       func() time.Time
	http      *http.Client
	documents *keyed.Memo[string, *document] // its metadata, by issuer
	keys      *keyed.Memo[string, keySet]    // by address

	localpart, displayName, email *template.Template
}

func newProvider(c Settings, publicURL string, now func() time.Time) (*provider, error) {
	p := &provider{Settings: c, redirect: publicURL + strings.ReplaceAll(PathCallback, "{provider}", c.ID), now: now}
	// The administrator has chosen the address, which may be in this server's own network.
	p.http = netguard.NewClient(netguard.ClientOptions{
		Dialer: netguard.NewDialer(netguard.DialerOptions{AllowPrivate: true}), Roots: c.Roots, Timeout: requestTime, MaxBody: maxResponse, Connections: maxConnections,
		AllowHTTP: strings.HasPrefix(c.Issuer, "http://"),
	})
	p.documents = keyed.NewMemo(keyed.Options[string, *document]{Entries: 2, Lifetime: discoveryTime, Now: now})
	p.keys = keyed.NewMemo(keyed.Options[string, keySet]{Entries: 4, Lifetime: discoveryTime, Now: now})
	for _, t := range []struct {
		to   **template.Template
		name string
		text string
	}{{&p.localpart, "localpart", c.Localpart}, {&p.displayName, "display_name", c.DisplayName}, {&p.email, "email", c.Email}} {
		var err error
		if *t.to, err = template.New(t.name).Option("missingkey=error").Funcs(functions).Parse(t.text); err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
	}
	return p, nil
}

func (p *provider) info() Info {
	return Info{ID: p.ID, Name: p.Name, Icon: p.Icon, Brand: p.Brand, Create: p.Create}
}

// context returns a context with which go-oidc and oauth2 use the client of the provider.
func (p *provider) context(ctx context.Context) context.Context {
	return oidc.ClientContext(ctx, p.http)
}

// document is the metadata of a provider.
type document struct {
	provider    *oidc.Provider
	JWKS        string   `json:"jwks_uri"`
	SendsIssuer bool     `json:"authorization_response_iss_parameter_supported"`
	AuthMethods []string `json:"token_endpoint_auth_methods_supported"`
}

// discover returns the metadata of the provider.
func (p *provider) discover(ctx context.Context) (*document, error) {
	return p.documents.Get(ctx, p.Issuer, func(ctx context.Context) (*document, error) {
		ctx, cancel := context.WithTimeout(ctx, requestTime)
		defer cancel()
		found, err := oidc.NewProvider(p.context(ctx), p.Issuer)
		if err != nil {
			return nil, err
		}
		d := &document{provider: found}
		if err := found.Claims(d); err != nil {
			return nil, err
		}
		if d.JWKS == "" || found.Endpoint().AuthURL == "" || found.Endpoint().TokenURL == "" {
			return nil, errors.New("the metadata lacks an endpoint")
		}
		return d, nil
	})
}

// client returns the settings with which tokens are requested.
func (p *provider) client(d *document) *oauth2.Config {
	endpoint := d.provider.Endpoint()
	endpoint.AuthStyle = oauth2.AuthStyleInHeader
	if p.Secret == "" || len(d.AuthMethods) > 0 && !slices.Contains(d.AuthMethods, "client_secret_basic") {
		endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	scopes := p.Scopes
	if len(scopes) == 0 {
		scopes = []string{oidc.ScopeOpenID, "profile", "email"}
	}
	return &oauth2.Config{ClientID: p.ClientID, ClientSecret: p.Secret, Endpoint: endpoint, RedirectURL: p.redirect, Scopes: scopes}
}

func (p *provider) exchange(ctx context.Context, d *document, code, verifier string) (*oauth2.Token, error) {
	return p.client(d).Exchange(p.context(ctx), code, oauth2.VerifierOption(verifier))
}

// verifier returns what verifies tokens of the provider.
func (p *provider) verifier(d *document) *oidc.IDTokenVerifier {
	return oidc.NewVerifier(p.Issuer, remoteKeys{p, d.JWKS}, &oidc.Config{
		ClientID: p.ClientID, SupportedSigningAlgs: algorithms, Now: func() time.Time { return p.now().Add(-clockSkew) },
	})
}

// claims verifies the tokens of a response and returns the claims about the user: those of the ID token, and others
// that userinfo has.
func (p *provider) claims(ctx context.Context, d *document, token *oauth2.Token, j Journey) (map[string]any, error) {
	raw, ok := token.Extra("id_token").(string)
	if !ok || len(raw) > maxToken {
		return nil, errors.New("it has no ID token")
	}
	t, err := p.verifier(d).Verify(p.context(ctx), raw)
	if err != nil {
		return nil, err
	}
	claims := map[string]any{}
	if err := t.Claims(&claims); err != nil {
		return nil, err
	}
	azp, _ := claims["azp"].(string)
	switch {
	case t.Nonce != j.Nonce:
		return nil, errors.New("the ID token has another nonce")
	case t.Subject == "" || len(t.Subject) > maxClaim:
		return nil, errors.New("the ID token has no subject")
	case len(t.Audience) > 1 && azp != p.ClientID || azp != "" && azp != p.ClientID:
		return nil, errors.New("the ID token was issued to another client")
	case t.IssuedAt.After(p.now().Add(clockSkew)):
		return nil, errors.New("the ID token was issued in the future")
	case j.Again && signedInAt(claims).Before(time.Unix(j.Begun, 0).Add(-clockSkew)):
		return nil, errors.New("the user was to sign in anew, but auth_time is missing or old")
	}
	if p.SkipUserinfo || d.provider.UserInfoEndpoint() == "" {
		return claims, nil
	}
	info, err := d.provider.UserInfo(p.context(ctx), oauth2.StaticTokenSource(token))
	if err != nil {
		return nil, fmt.Errorf("userinfo: %w", err)
	}
	if info.Subject != t.Subject {
		return nil, errors.New("userinfo is about another subject")
	}
	more := map[string]any{}
	if err := info.Claims(&more); err != nil {
		return nil, fmt.Errorf("userinfo: %w", err)
	}
	for name, value := range more {
		if _, there := claims[name]; !there && name != "amr" && name != "acr" && name != "auth_time" && name != "sid" { // userinfo is not signed
			claims[name] = value
		}
	}
	return claims, nil
}

// signedInAt returns when the user signed in at the provider, or the zero time if the claims do not say.
func signedInAt(claims map[string]any) time.Time {
	seconds, ok := claims["auth_time"].(float64)
	if !ok {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0)
}

// person returns the user whom claims describe.
func (p *provider) person(claims map[string]any) Person {
	text := func(name string) string { s, _ := claims[name].(string); return usable(s) }
	u := Person{
		Provider: p.ID, Issuer: p.Issuer, Subject: text("sub"), Name: fill(p.localpart, claims), DisplayName: fill(p.displayName, claims),
		Suggested: strings.ToLower(text("preferred_username")), Shown: gate.Upstream,
	}
	if verified, _ := claims["email_verified"].(bool); verified {
		u.Email = fill(p.email, claims)
	}
	for _, name := range []string{"email", "preferred_username", "name", "sub"} {
		if u.Label == "" {
			u.Label = text(name)
		}
	}
	if p.SecondFactor.Met(claims) {
		u.Shown |= gate.UpstreamMFA
	}
	sid, _ := claims["sid"].(string)
	u.Session = sessionKey(p.Issuer, sid)
	if at := signedInAt(claims); !at.IsZero() && !at.After(p.now().Add(clockSkew)) {
		u.SignedIn = min(at.Unix(), p.now().Unix())
	}
	return u
}

// usable returns text without surrounding spaces, or "" if it is too long or has control characters.
func usable(text string) string {
	text = strings.TrimSpace(text)
	if len(text) > maxClaim || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return ""
	}
	return text
}

// functions can be used in templates.
var functions = template.FuncMap{
	"lower":  strings.ToLower,
	"before": func(sep, text string) string { before, _, _ := strings.Cut(text, sep); return before },
	"after":  func(sep, text string) string { _, after, _ := strings.Cut(text, sep); return after },
	"replace": func(from, to, text string) string {
		if from == "" {
			return text
		}
		return strings.ReplaceAll(text, from, to)
	},
}

// fill returns the result of a template, or "" if the claims lack something.
func fill(t *template.Template, claims map[string]any) string {
	var out bytes.Buffer
	if err := t.Execute(&bounded{&out, maxClaim + 1}, claims); err != nil {
		return ""
	}
	return usable(out.String())
}

// bounded is a writer that fails beyond a number of bytes.
type bounded struct {
	to   io.Writer
	left int
}

var errTooLong = errors.New("the result of the template is too long")

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, errTooLong
	}
	return b.to.Write(p)
}

// keySet is the public keys of a provider.
type keySet struct {
	keys    []jose.JSONWebKey
	fetched time.Time
}

// remoteKeys is an oidc.KeySet that fetches the keys of a provider. Unlike that of go-oidc, it does not fetch them for
// every token with an unknown key, since strangers can send logout tokens.
type remoteKeys struct {
	p       *provider
	address string
}

// VerifySignature implements oidc.KeySet. The caller has checked the algorithm.
func (k remoteKeys) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	accepted := make([]jose.SignatureAlgorithm, len(algorithms))
	for i, name := range algorithms {
		accepted[i] = jose.SignatureAlgorithm(name)
	}
	jws, err := jose.ParseSignedCompact(token, accepted)
	if err != nil {
		return nil, err
	}
	set, err := k.get(ctx)
	if err != nil {
		return nil, err
	}
	payload, ok := set.verify(jws)
	if !ok && k.p.now().Sub(set.fetched) >= keysPause {
		k.p.keys.Forget(k.address)
		if set, err = k.get(ctx); err != nil {
			return nil, err
		}
		payload, ok = set.verify(jws)
	}
	if !ok {
		return nil, errors.New("no key of the provider verifies the signature")
	}
	return payload, nil
}

// verify returns the payload of a token that one of the keys has signed.
func (s keySet) verify(jws *jose.JSONWebSignature) (payload []byte, ok bool) {
	if len(jws.Signatures) != 1 {
		return nil, false
	}
	id := jws.Signatures[0].Header.KeyID
	for _, key := range s.keys {
		if !key.IsPublic() || key.Use != "" && key.Use != "sig" || id != "" && key.KeyID != id {
			continue
		}
		if payload, err := jws.Verify(key); err == nil {
			return payload, true
		}
	}
	return nil, false
}

// get returns the keys of the provider.
func (k remoteKeys) get(ctx context.Context) (keySet, error) {
	return k.p.keys.Get(ctx, k.address, func(ctx context.Context) (keySet, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.address, nil)
		if err != nil {
			return keySet{}, err
		}
		resp, err := k.p.http.Do(req)
		if err != nil {
			return keySet{}, err
		}
		defer func() { _ = resp.Body.Close() }() // everything was read
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			return keySet{}, err
		}
		if resp.StatusCode != http.StatusOK {
			return keySet{}, fmt.Errorf("fetch the keys: %s", resp.Status)
		}
		return parseKeys(raw, k.p.now())
	})
}
