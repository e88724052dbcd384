// Package oauth is an authorization server for the OAuth 2.0 API of Matrix, without its HTTP endpoints and pages:
// registration of clients, authorization codes with PKCE, device codes, refresh tokens, ID tokens and revocation. It
// also makes login tokens for clients of the legacy API whose users sign in on the same pages (m.login.sso). Tokens are
// made by accounts/gate, and sessions begin and end in accounts.
//
// What can be used once is used up in the write that makes the session, so that of two uses at the same time one fails.
// Codes and tokens are stored as hashes.
package oauth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
	"maunium.net/go/mautrix/id"

	"ebb/accounts"
	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/notices"
	"ebb/storage"
)

// Error is an error of OAuth 2.0 in the form for clients.
type Error struct {
	Status      int
	Code        string
	Description string
}

// Error implements error.
func (e *Error) Error() string { return e.Code + ": " + e.Description }

// Codes of errors.
const (
	errRequest  = "invalid_request"
	errMetadata = "invalid_client_metadata"
	errRedirect = "invalid_redirect_uri"
	errScope    = "invalid_scope"
	errGrant    = "invalid_grant"
	errClient   = "invalid_client"
)

var errURI = errors.New("not a URI of a web page")

func invalid(code, format string, args ...any) *Error {
	return &Error{Status: http.StatusBadRequest, Code: code, Description: fmt.Sprintf(format, args...)}
}

func noClient() *Error {
	return &Error{Status: http.StatusUnauthorized, Code: errClient, Description: "There is no such client: it must register again"}
}

// NoSecrets returns the error for a client that authenticates with a secret. No client has one.
func NoSecrets() *Error {
	return &Error{Status: http.StatusUnauthorized, Code: errClient, Description: "This server gives clients no secrets: send client_id in the body, and no Authorization header"}
}

// BadRequest returns an invalid_request error.
func BadRequest(format string, args ...any) *Error { return invalid(errRequest, format, args...) }

// BadGrantType returns the error for a grant type that is not offered.
func BadGrantType() *Error {
	return invalid("unsupported_grant_type", "grant_type must be one that the server's metadata lists")
}

// The paths of the endpoints and pages.
const (
	PathAuthorize = "/oauth2/authorize"
	PathLink      = "/oauth2/link"
	PathRegister  = "/oauth2/register"
	PathToken     = "/oauth2/token"
	PathRevoke    = "/oauth2/revoke"
	PathDevice    = "/oauth2/device"
	PathAccount   = "/_ebb/account"
	PathKeys      = "/oauth2/keys.json"
)

// Metadata is the metadata of the authorization server (RFC 8414). It also has what OpenID Connect Discovery requires,
// since the ID tokens and their keys are for clients that look for it.
func (s *Service) Metadata() map[string]any {
	grants := []string{GrantCode, GrantRefresh}
	m := map[string]any{
		"issuer":                                s.opts.Issuer,
		"authorization_endpoint":                s.url(PathAuthorize),
		"token_endpoint":                        s.url(PathToken),
		"revocation_endpoint":                   s.url(PathRevoke),
		"registration_endpoint":                 s.url(PathRegister),
		"jwks_uri":                              s.url(PathKeys),
		"response_types_supported":              []string{"code"},
		"response_modes_supported":              []string{modeQuery, modeFragment},
		"code_challenge_methods_supported":      []string{"S256"},
		"token_endpoint_auth_methods_supported": []string{"none"},

		"account_management_uri":               s.url(PathAccount),
		"account_management_actions_supported": accountActions(),

		"revocation_endpoint_auth_methods_supported":     []string{"none"},
		"authorization_response_iss_parameter_supported": true,

		"scopes_supported":                      []string{scopeOpenID, scopeAPI, scopeDevice + "*", unstableScopeAPI, unstableScopeDevice + "*"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{algorithm},
		"claims_supported":                      []string{"iss", "sub", "aud", "iat", "exp", "nonce", "at_hash"},
		"request_parameter_supported":           false,
		"request_uri_parameter_supported":       false,
	}
	if s.opts.Accounts.Requirements().Open {
		m["prompt_values_supported"] = []string{promptCreate}
	}
	if s.opts.DeviceGrant {
		grants = append(grants, GrantDevice)
		m["device_authorization_endpoint"] = s.url(PathDevice)
	}
	m["grant_types_supported"] = grants
	return m
}

// Issuer returns the server's address, which names it as an authorization server.
func (s *Service) Issuer() string { return s.opts.Issuer }

// url returns the address of a path of this server.
func (s *Service) url(path string) string { return strings.TrimSuffix(s.opts.Issuer, "/") + path }

// Options are the dependencies and settings of a Service.
type Options struct {
	DB              *storage.DB
	Accounts        *accounts.Service
	Notices         *notices.Service // nil to alert nobody
	Gate            *gate.Gate
	Secrets         Sealer        // encrypts the keys of ID tokens
	Issuer          string        // the server's address
	Clients         []string      // hosts of the only clients that may register; empty: all may
	DeviceGrant     bool          // whether the device authorization grant is offered
	IdleLifetime    time.Duration // how long a session may go without a refresh; 0: for ever
	SessionLifetime time.Duration // how long a session lasts; 0: for ever
	Now             func() time.Time
	Log             *slog.Logger
}

// Service is an authorization server. It is safe for concurrent use.
type Service struct {
	opts  Options
	rules rules

	current atomic.Pointer[signer] // the key that signed last
	making  singleflight.Group     // of new keys, which take a processor for a while
}

// New returns a Service.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{opts: o, rules: rules{hosts: o.Clients}}
	if u, err := url.Parse(o.Issuer); err == nil {
		s.rules.loopback = u.Scheme == "http" && isLoopback(u.Hostname())
	}
	return s
}

// Lifetimes of codes and tokens.
const (
	accessLifetime = 5 * time.Minute
	codeLifetime   = time.Minute
	codeKept       = time.Hour // after which a replayed code is unknown
)

// Grant is a successful response of the token endpoint.
type Grant struct {
	gate.Tokens
	Scope   string
	IDToken string // "" if the client did not ask for one
}

// Authorize checks an authorization request. If the request has an error that may be sent to the client, it also
// returns the Request, for Request.Refuse; otherwise the redirect URI cannot be trusted, and the user must be shown the
// error.
func (s *Service) Authorize(ctx context.Context, q url.Values) (r Request, safe bool, err error) {
	c, err := s.client(ctx, q.Get("client_id"))
	if err != nil {
		return r, false, err
	}
	r = Request{ClientID: q.Get("client_id"), Client: c, RedirectURI: q.Get("redirect_uri"), issuer: s.opts.Issuer, mode: q.Get("response_mode")}
	if len(q["client_id"]) != 1 || len(q["redirect_uri"]) != 1 || !c.allows(r.RedirectURI) {
		return r, false, invalid(errRequest, "redirect_uri is not one that this client has registered")
	}
	if r.State = q.Get("state"); len(r.State) > maxState {
		r.State = ""
	}
	err = r.checkRequest(q)
	return r, true, err
}

// Approve makes an authorization code for a user who has consented in a browser, and returns the address to which the
// browser is sent. The session of the browser is checked within the write.
func (s *Service) Approve(ctx context.Context, r Request, session string) (string, error) {
	code := gate.Secret("ebb_c_", 32)
	err := s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		who, found, err := tx.WebSession(gate.KeyOf(session).String())
		if err != nil {
			return err
		}
		if !found {
			return mxerr.Forbidden("You have been signed out in this browser: go back to your client and start again")
		}
		return tx.AddOAuthCode(gate.KeyOf(code).String(), storage.OAuthCode{
			Client: r.ClientID, RedirectURI: r.RedirectURI, Challenge: r.Challenge, Scope: r.Scope.Granted, DeviceID: r.Scope.DeviceID, Nonce: r.Nonce,
			User: who.User, Evidence: who.Evidence, Upstream: who.Upstream, ExpiresTS: tx.Now().Add(codeLifetime).UnixMilli(),
		})
	})
	return r.Answer(url.Values{"code": {code}}), err
}

var errUsed = errors.New("used before")

// Exchange returns tokens for an authorization code. If the code was used before, somebody may have stolen it, so the
// session that began with it ends.
//
// Errors: invalid_client, invalid_grant.
func (s *Service) Exchange(ctx context.Context, clientID, code, redirect, verifier, network string) (Grant, error) {
	client, err := s.client(ctx, clientID)
	if err != nil {
		return Grant{}, err
	}
	hash := gate.KeyOf(code).String()
	c, found, err := s.code(ctx, hash)
	if err != nil {
		return Grant{}, err
	}
	bad := invalid(errGrant, "The code is unknown or has expired, or it was given to another client, redirect URI or code verifier")
	switch {
	case !found || c.Client != clientID:
		return Grant{}, bad
	case c.Family != "":
		return Grant{}, errors.Join(bad, s.endReplayed(ctx, hash))
	case c.RedirectURI != redirect || !verifies(verifier, c.Challenge) || c.ExpiresTS <= s.opts.Now().UnixMilli():
		return Grant{}, bad
	}
	g, err := s.begin(ctx, start{path: gate.PathCode, client: clientID, name: client.Title(), scope: c.Scope, device: c.DeviceID, network: network,
		user: c.User, evidence: c.Evidence, upstream: c.Upstream, nonce: c.Nonce, use: func(tx *storage.Tx, family string) error {
			if first, err := tx.UseOAuthCode(hash, family); err != nil || !first {
				return errors.Join(err, errUsed)
			}
			return nil
		}})
	if errors.Is(err, errUsed) {
		return Grant{}, errors.Join(bad, s.endReplayed(ctx, hash))
	}
	return g, err
}

func (s *Service) code(ctx context.Context, hash string) (c storage.OAuthCode, found bool, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		c, found, err = tx.OAuthCode(hash)
		return err
	})
	return c, found, err
}

// endReplayed ends the session that began with an authorization code.
func (s *Service) endReplayed(ctx context.Context, hash string) error {
	_, err := s.opts.Accounts.EndSessions(ctx, "authorization code used twice", func(tx *storage.Tx) ([]storage.OAuthSession, error) {
		c, found, err := tx.OAuthCode(hash)
		if err != nil || !found || c.Family == "" {
			return nil, err
		}
		return some(tx.OAuthSessionOf(c.Family))
	})
	return err
}

// some converts the result of a lookup of one session to a list of sessions.
func some(o storage.OAuthSession, found bool, err error) ([]storage.OAuthSession, error) {
	if err != nil || !found {
		return nil, err
	}
	return []storage.OAuthSession{o}, nil
}

// start describes a session that begin is to begin.
type start struct {
	path     gate.Path
	client   string
	name     string // of a new device
	scope    string
	device   string
	network  string
	user     ident.UserNID
	evidence int64
	upstream string // see gate.Attempt
	nonce    string
	use      func(tx *storage.Tx, family string) error // marks the code as used
}

// begin begins a session of the user on the device, and returns its tokens.
func (s *Service) begin(ctx context.Context, b start) (g Grant, err error) {
	var k *signer // is found first, since the session could not be undone if there were none
	if wantsIDToken(b.scope) {
		if k, err = s.signer(ctx); err != nil {
			return Grant{}, err
		}
	}
	name := gate.Secret("", 16)
	family := gate.KeyOf(name).String()
	at := gate.Attempt{Path: b.path, User: b.user, Shown: gate.Evidence(b.evidence), Upstream: b.upstream, Network: b.network}
	n := accounts.NewSession{Device: id.DeviceID(b.device), DisplayName: b.name, Refresh: true, Lifetime: s.lifetime(s.opts.Now().UnixMilli()), Family: prefix(name, 1)}
	in, err := s.opts.Accounts.SignIn(ctx, at, n, func(tx *storage.Tx, _ accounts.SignedIn) error {
		d, _, err := tx.Device(b.user, b.device)
		if err != nil {
			return err
		}
		if err := b.use(tx, family); err != nil {
			return err
		}
		if err := s.used(tx, b.client); err != nil {
			return err
		}
		return tx.AddOAuthSession(storage.OAuthSession{Device: d.NID, Client: b.client, Scope: b.scope, Family: family, Generation: 1})
	})
	if err != nil {
		return Grant{}, grantError(err)
	}
	g = Grant{Tokens: in.Tokens, Scope: b.scope}
	if k != nil {
		g.IDToken, err = s.idToken(k, b.client, b.nonce, in)
	}
	return g, err
}

// grantError returns the invalid_grant error for an account that cannot be signed in to.
func grantError(err error) error {
	var e *mxerr.Error
	if errors.As(err, &e) && e.Status < 500 && e.Status != http.StatusTooManyRequests {
		return invalid(errGrant, "%s", e.Msg)
	}
	return err
}

// lifetime returns how long an access token lasts in a session that began at a time (ms).
func (s *Service) lifetime(created int64) time.Duration {
	if s.opts.SessionLifetime == 0 {
		return accessLifetime
	}
	return min(accessLifetime, time.UnixMilli(created).Add(s.opts.SessionLifetime).Sub(s.opts.Now()))
}

// prefix returns the part of a refresh token between its kind and its secret: the name of the family and the
// generation. They show whether an unknown token was replaced or never existed, without a row for every old token.
func prefix(family string, generation int64) string { return fmt.Sprintf("%s.%d.", family, generation) }

// parsePrefix returns the family and the generation of a refresh token.
func parsePrefix(token string) (family string, generation int64, ok bool) {
	rest, found := strings.CutPrefix(token, "ebb_r_")
	parts := strings.SplitN(rest, ".", 3)
	if !found || len(parts) != 3 {
		return "", 0, false
	}
	if _, err := fmt.Sscan(parts[1], &generation); err != nil {
		return "", 0, false
	}
	return parts[0], generation, true
}

// Refresh returns new tokens for a refresh token. The old ones remain valid until one of the new ones is used, because
// the response may be lost. If an old refresh token is used after that, somebody may have stolen it, so the session
// ends.
//
// The refresh of a locked account fails with M_USER_LOCKED and changes nothing: the session goes on when the account is
// unlocked.
//
// Errors: invalid_client, invalid_grant, M_USER_LOCKED.
func (s *Service) Refresh(ctx context.Context, clientID, token string) (Grant, error) {
	family, _, ok := parsePrefix(token)
	bad := invalid(errGrant, "The refresh token is unknown, has expired or belongs to another client: sign in again")
	if !ok || clientID == "" {
		return Grant{}, bad
	}
	var g Grant
	var err error
	g.Tokens, err = s.opts.Accounts.Renew(ctx, gate.PathOAuthRefresh, token, func(tx *storage.Tx, t storage.RefreshTokenRow) (gate.TokenOptions, error) {
		o, found, err := tx.OAuthSession(t.Device)
		if err != nil {
			return gate.TokenOptions{}, err
		}
		if !found || o.Client != clientID || s.expired(o) {
			return gate.TokenOptions{}, bad
		}
		g.Scope = o.Scope
		if err := tx.OAuthSessionUsed(t.Device); err != nil {
			return gate.TokenOptions{}, err
		}
		return gate.TokenOptions{Lifetime: s.lifetime(o.CreatedTS), Family: prefix(family, o.Generation+1)}, s.used(tx, clientID)
	})
	switch mxerr.Code(err) {
	case mxerr.CodeUnknownToken:
		return Grant{}, errors.Join(bad, s.endReused(ctx, token))
	case mxerr.CodeUserLocked:
		return Grant{}, err
	}
	return g, grantError(err)
}

// endReused ends the session of a refresh token that was replaced by one that has been used. A token that was replaced
// by a repeated refresh before anybody used it does not count: a client may have sent two requests at once.
func (s *Service) endReused(ctx context.Context, token string) error {
	family, generation, _ := parsePrefix(token)
	_, err := s.opts.Accounts.EndSessions(ctx, "refresh token used again", func(tx *storage.Tx) ([]storage.OAuthSession, error) {
		o, found, err := tx.OAuthSessionOf(gate.KeyOf(family).String())
		if reused := found && generation < o.Generation; err != nil || !reused {
			return nil, err
		}
		return []storage.OAuthSession{o}, s.opts.Notices.Add(tx, notices.Notice{User: o.User, Kind: notices.TokenReused, Details: notices.Details{Device: o.DeviceID}})
	})
	return err
}

// expired reports whether a session has been idle for too long or has lasted too long.
func (s *Service) expired(o storage.OAuthSession) bool {
	now := s.opts.Now()
	over := func(since int64, lifetime time.Duration) bool {
		return lifetime > 0 && !now.Before(time.UnixMilli(since).Add(lifetime))
	}
	return over(o.UsedTS, s.opts.IdleLifetime) || over(o.CreatedTS, s.opts.SessionLifetime)
}

// Revoke ends the session of an access token or refresh token. Anybody who has a token may revoke it, so that somebody
// who finds a leaked token can do so. An unknown token is no error.
func (s *Service) Revoke(ctx context.Context, token string) error {
	hash := gate.KeyOf(token).String()
	_, err := s.opts.Accounts.EndSessions(ctx, "token revoked", func(tx *storage.Tx) ([]storage.OAuthSession, error) {
		if t, found, err := tx.RefreshToken(hash); err != nil || found {
			return s.sessionOf(tx, t.Device, err)
		}
		t, found, err := tx.AccessToken(hash)
		if !found {
			return nil, err
		}
		return s.sessionOf(tx, t.Device, err)
	})
	return err
}
