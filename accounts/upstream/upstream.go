// Package upstream signs users in by OpenID Connect providers: it sends a browser to a provider, checks the response,
// and ends the sessions that a provider says have ended. The web pages belong to package web, which keeps a Journey in
// a cookie meanwhile, so that strangers cause no writes. Accounts are found and created by package accounts.
//
// Every provider has a redirect URI of its own, and a response is accepted only for the provider to which the browser
// was sent, so that one provider cannot pass off its users as those of another.
package upstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"ebb/accounts"
	"ebb/accounts/gate"
	"ebb/mxerr"
	"ebb/storage"
)

// The paths of the pages and of the endpoint for back-channel logout.
const (
	PathStart    = "/oauth2/upstream/{provider}/start"
	PathCallback = "/oauth2/upstream/{provider}/callback"
	PathLogout   = "/oauth2/upstream/{provider}/logout"
	PathNew      = "/oauth2/upstream/new"
)

// Times and bounds.
const (
	clockSkew       = 2 * time.Minute  // how far the clocks of a provider and of this server may differ
	JourneyLifetime = 10 * time.Minute // how long a user may take at a provider
	PersonLifetime  = 15 * time.Minute // how long a user may take to create or link an account
	logoutLifetime  = 10 * time.Minute // how old a logout token may be, so that its ID need not be remembered for long
	maxToken        = 64 << 10         // bytes of a token of a provider
	maxClaim        = 255              // bytes of a claim that is used
)

// Options are the dependencies and settings of a Service.
type Options struct {
	Providers []Settings
	PublicURL string
	DB        *storage.DB
	Accounts  *accounts.Service
	Now       func() time.Time
	Log       *slog.Logger
}

// Service signs users in by providers. It is safe for concurrent use.
type Service struct {
	opts      Options
	providers []*provider
}

// New returns a Service. It sends no requests.
func New(o Options) (*Service, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{opts: o}
	for _, settings := range o.Providers {
		p, err := newProvider(settings, strings.TrimSuffix(o.PublicURL, "/"), o.Now)
		if err != nil {
			return nil, err
		}
		s.providers = append(s.providers, p)
	}
	return s, nil
}

// Info is what users see of a provider.
type Info struct {
	ID, Name    string
	Icon, Brand string // for clients; "" if not set
	Create      bool   // whether users can create an account
}

// Providers returns the providers in the order of the configuration.
func (s *Service) Providers() (all []Info) {
	if s == nil {
		return nil
	}
	for _, p := range s.providers {
		all = append(all, p.info())
	}
	return all
}

// Provider returns a provider.
//
// Errors: M_NOT_FOUND.
func (s *Service) Provider(id string) (Info, error) {
	p, err := s.provider(id)
	if err != nil {
		return Info{}, err
	}
	return p.info(), nil
}

func (s *Service) provider(id string) (*provider, error) {
	if s != nil {
		for _, p := range s.providers {
			if p.ID == id {
				return p, nil
			}
		}
	}
	return nil, mxerr.NotFound("There is no such identity provider on this server")
}

// Journey is what a browser takes with it to a provider. It is kept in a cookie that only this server can make.
type Journey struct {
	Provider string `json:"p"`
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"` // of PKCE
	Again    bool   `json:"a"` // whether the user must sign in at the provider anew
	To       string `json:"t"` // where the browser continues on this server
	Begun    int64  `json:"b"` // seconds since 1970
}

// Begin returns the address at which a user signs in at a provider. With again, the provider must ask the user to sign
// in even if it has a session.
//
// Errors: M_NOT_FOUND; 502 M_CONNECTION_FAILED if the provider cannot be reached.
func (s *Service) Begin(ctx context.Context, id, to string, again bool) (address string, j Journey, err error) {
	p, err := s.provider(id)
	if err != nil {
		return "", j, err
	}
	d, err := p.discover(ctx)
	if err != nil {
		return "", j, s.unreachable(ctx, p, err)
	}
	j = Journey{
		Provider: id, State: gate.Secret("", 24), Nonce: gate.Secret("", 24), Verifier: oauth2.GenerateVerifier(), Again: again, To: to, Begun: s.opts.Now().Unix(),
	}
	options := []oauth2.AuthCodeOption{oidc.Nonce(j.Nonce), oauth2.S256ChallengeOption(j.Verifier)}
	if again {
		options = append(options, oauth2.SetAuthURLParam("prompt", "login"), oauth2.SetAuthURLParam("max_age", "0"))
	}
	if len(p.RequestACR) > 0 {
		options = append(options, oauth2.SetAuthURLParam("acr_values", strings.Join(p.RequestACR, " ")))
	}
	return p.client(d).AuthCodeURL(j.State, options...), j, nil
}

// unreachable logs why a provider cannot be used, and returns the error for the user.
func (s *Service) unreachable(ctx context.Context, p *provider, err error) error {
	s.opts.Log.WarnContext(ctx, "Cannot sign in a user by an identity provider", "provider", p.ID, "err", err)
	return mxerr.New(http.StatusBadGateway, mxerr.CodeConnectionFailed, "%s cannot be used at the moment. Try again later, or sign in another way", p.Name).Because(err)
}

// refused logs why a response of a provider was refused, and returns the error for the user.
func (s *Service) refused(ctx context.Context, p *provider, err error) error {
	s.opts.Log.WarnContext(ctx, "The response of an identity provider was refused", "provider", p.ID, "err", err)
	return mxerr.Forbidden("The response of %s is not valid. Start again, or ask the administrator of this server", p.Name).Because(err)
}

// Person is a user whom a provider has signed in.
type Person struct {
	Provider    string        `json:"p"`
	Issuer      string        `json:"i"`
	Subject     string        `json:"s"`
	Label       string        `json:"l"` // how the provider calls the user
	Name        string        `json:"n"` // the localpart of a new account; "" if the user chooses it
	Suggested   string        `json:"g"` // for a user who chooses it
	DisplayName string        `json:"d"`
	Email       string        `json:"e"` // verified by the provider; or ""
	Shown       gate.Evidence `json:"w"`
	Session     string        `json:"x"` // see gate.Attempt.Upstream
	SignedIn    int64         `json:"a"` // seconds since 1970; when the user signed in at the provider; 0: unknown
	Expires     int64         `json:"u"` // seconds since 1970
}

// Expired reports whether the user has taken too long to create or link an account.
func (s *Service) Expired(p Person) bool { return s.opts.Now().Unix() >= p.Expires }

// At returns when the user signed in at the provider, or the zero time if that is unknown.
func (p Person) At() time.Time {
	if p.SignedIn == 0 {
		return time.Time{}
	}
	return time.Unix(p.SignedIn, 0)
}

// Finish checks the response of a provider, with which the browser comes back, and returns the user. A response can be
// used once.
//
// Errors: M_FORBIDDEN, M_NOT_FOUND; 502 M_CONNECTION_FAILED if the provider cannot be reached.
func (s *Service) Finish(ctx context.Context, j Journey, id string, q url.Values) (Person, error) {
	p, err := s.provider(id)
	if err != nil {
		return Person{}, err
	}
	if j.Provider != id || j.State == "" || q.Get("state") != j.State || s.opts.Now().After(time.Unix(j.Begun, 0).Add(JourneyLifetime)) {
		return Person{}, mxerr.Forbidden("This sign-in was not begun in this browser, or took too long: start again")
	}
	d, err := p.discover(ctx)
	if err != nil {
		return Person{}, s.unreachable(ctx, p, err)
	}
	if iss := q.Get("iss"); iss != p.Issuer && (iss != "" || d.SendsIssuer) { // RFC 9207
		return Person{}, s.refused(ctx, p, fmt.Errorf("the response is of %q", iss))
	}
	if code := q.Get("error"); code != "" {
		s.opts.Log.InfoContext(ctx, "An identity provider did not sign a user in", "provider", p.ID, "error", code, "description", q.Get("error_description"))
		return Person{}, mxerr.Forbidden("%s has not signed you in. Start again, or sign in another way", p.Name)
	}
	token, err := p.exchange(ctx, d, q.Get("code"), j.Verifier)
	if err != nil {
		return Person{}, s.exchangeError(ctx, p, err)
	}
	claims, err := p.claims(ctx, d, token, j)
	if err != nil {
		return Person{}, s.refused(ctx, p, err)
	}
	if err := s.once(ctx, "state", j.State, time.Unix(j.Begun, 0).Add(JourneyLifetime)); err != nil {
		return Person{}, err
	}
	person := p.person(claims)
	person.Expires = s.opts.Now().Add(PersonLifetime).Unix()
	return person, nil
}

// exchangeError returns the error for a code that a provider did not accept, or for a provider that did not answer.
func (s *Service) exchangeError(ctx context.Context, p *provider, err error) error {
	var e *oauth2.RetrieveError
	if errors.As(err, &e) && e.Response != nil && e.Response.StatusCode < http.StatusInternalServerError {
		return s.refused(ctx, p, err)
	}
	return s.unreachable(ctx, p, err)
}

// once returns an error if something that a provider has sent was used before.
//
// Errors: M_FORBIDDEN.
func (s *Service) once(ctx context.Context, kind, value string, expires time.Time) error {
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		fresh, err := tx.UseUpstream(gate.KeyOf(kind+"\x00"+value).String(), expires.Add(clockSkew).UnixMilli())
		if err == nil && !fresh {
			err = mxerr.Forbidden("This was used before: start again")
		}
		return err
	})
}

// sessionKey identifies a session of a provider; see gate.Attempt.Upstream. sid may be "".
func sessionKey(issuer, sid string) string { return issuerKey(issuer) + hash(sid) }

func issuerKey(issuer string) string { return hash(issuer)[:16] + "." }

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// maxEnded bounds the sessions that one logout token ends. It is the bound of the devices of a user.
const maxEnded = accounts.MaxDevices

// Logout ends the sessions that began from the session of a provider that a logout token names, or from all sessions of
// a user at the provider if the token names only the user.
// Spec: OpenID Connect Back-Channel Logout 1.0, 2.6
//
// Errors: M_NOT_FOUND, M_FORBIDDEN; 502 M_CONNECTION_FAILED if the provider cannot be reached.
func (s *Service) Logout(ctx context.Context, id, token string) error {
	p, err := s.provider(id)
	if err != nil {
		return err
	}
	if len(token) > maxToken {
		return mxerr.Forbidden("The logout token is too long")
	}
	d, err := p.discover(ctx)
	if err != nil {
		return s.unreachable(ctx, p, err)
	}
	t, err := p.verifier(d).VerifyLogout(p.context(ctx), token)
	if err == nil && (t.IssuedAt.After(s.opts.Now().Add(clockSkew)) || s.opts.Now().After(t.IssuedAt.Add(logoutLifetime+clockSkew))) {
		err = errors.New("it is not recent")
	}
	if err != nil {
		s.opts.Log.WarnContext(ctx, "The logout token of an identity provider was refused", "provider", p.ID, "err", err)
		return mxerr.Forbidden("The logout token is not valid").Because(err)
	}
	if err := s.once(ctx, "logout "+p.Issuer, t.TokenID, t.IssuedAt.Add(logoutLifetime+clockSkew)); err != nil {
		return err
	}
	_, err = s.opts.Accounts.EndSessions(ctx, "signed out at "+p.ID, func(tx *storage.Tx) ([]storage.OAuthSession, error) {
		return ended(tx, t)
	})
	return err
}

// ended deletes the sessions of browsers that a logout token ends, and returns those of devices.
func ended(tx *storage.Tx, t *oidc.LogoutToken) ([]storage.OAuthSession, error) {
	of := storage.UpstreamIdentity{}
	if t.Subject != "" {
		var found bool
		var err error
		if of, found, err = tx.UpstreamIdentity(t.Issuer, t.Subject); err != nil || !found {
			return nil, err
		}
	}
	if t.SessionID == "" {
		if err := tx.DropUpstreamOf(of.User); err != nil {
			return nil, err
		}
		all, err := tx.UpstreamSessionsOf(of.User, maxEnded)
		return slices.DeleteFunc(all, func(o storage.OAuthSession) bool { return !strings.HasPrefix(o.Family, issuerKey(t.Issuer)) }), err
	}
	key := sessionKey(t.Issuer, t.SessionID)
	if err := tx.DropUpstream(key); err != nil {
		return nil, err
	}
	all, err := tx.UpstreamSessions(key, maxEnded)
	return slices.DeleteFunc(all, func(o storage.OAuthSession) bool { return of.User != 0 && o.User != of.User }), err
}
