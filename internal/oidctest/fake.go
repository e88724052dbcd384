package oidctest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Fake is a provider that signs everybody in at once, and does what a test tells it.
type Fake struct {
	Issuer   string
	ClientID string

	// Claims changes those of the ID token, and Userinfo those of userinfo; a nil value removes a claim.
	Claims, Userinfo map[string]any
	// IDToken replaces the ID token, if it is set. It gets the claims.
	IDToken func(claims map[string]any) string
	// Serve handles a request in place of the provider if it returns true.
	Serve func(http.ResponseWriter, *http.Request) bool

	t     testing.TB
	key   *ecdsa.PrivateKey
	mu    sync.Mutex
	codes map[string]url.Values // authorization requests by code
	keys  int                   // requests for the keys
}

// NewFake starts a provider on a loopback address.
func NewFake(t testing.TB, clientID string) *Fake {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := &Fake{ClientID: clientID, t: t, key: key, codes: map[string]url.Values{}}
	h := httptest.NewServer(f)
	f.Issuer = h.URL
	t.Cleanup(h.Close)
	return f
}

// KeyRequests returns how often the keys were fetched.
func (f *Fake) KeyRequests() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.keys
}

// ServeHTTP implements http.Handler.
func (f *Fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.Serve != nil && f.Serve(w, r) {
		return
	}
	answer := func(v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v) // the client notices
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		answer(map[string]any{
			"issuer": f.Issuer, "authorization_endpoint": f.Issuer + "/authorize", "token_endpoint": f.Issuer + "/token", "userinfo_endpoint": f.Issuer + "/userinfo",
			"jwks_uri": f.Issuer + "/keys", "id_token_signing_alg_values_supported": []string{"ES256", "HS256", "none"},
		})
	case "/keys":
		f.keys++
		answer(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: f.key.Public(), KeyID: "1", Use: "sig"}}})
	case "/authorize":
		code := rand.Text()
		f.codes[code] = r.URL.Query()
		//nolint:gosec // a provider for tests, which trusts its client
		http.Redirect(w, r, r.URL.Query().Get("redirect_uri")+"?"+url.Values{"code": {code}, "state": {r.URL.Query().Get("state")}}.Encode(), http.StatusFound)
	case "/token":
		asked, found := f.codes[r.FormValue("code")]
		if !found {
			http.Error(w, `{"error":"invalid_grant"}`, http.StatusBadRequest)
			return
		}
		answer(map[string]any{"access_token": "x", "token_type": "Bearer", "id_token": f.idToken(asked.Get("nonce"))})
	case "/userinfo":
		answer(with(map[string]any{"sub": "subject", "email": "user@example.org", "email_verified": true, "name": "From userinfo"}, f.Userinfo))
	default:
		http.NotFound(w, r)
	}
}

// idToken returns the ID token for an authorization request.
func (f *Fake) idToken(nonce string) string {
	now := time.Now()
	claims := with(map[string]any{
		"iss": f.Issuer, "aud": f.ClientID, "sub": "subject", "nonce": nonce, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "preferred_username": "dora", "sid": "session 1",
	}, f.Claims)
	if f.IDToken != nil {
		return f.IDToken(claims)
	}
	return f.Sign(claims)
}

// Sign returns a token with claims, signed with the key of the provider.
func (f *Fake) Sign(claims map[string]any) string {
	return sign(f.t, jose.ES256, jose.JSONWebKey{Key: f.key, KeyID: "1"}, claims)
}

// SignHS256 returns a token with claims, signed with a secret.
func (f *Fake) SignHS256(secret string, claims map[string]any) string {
	return sign(f.t, jose.HS256, []byte(secret), claims)
}

// SignWithAnotherKey returns a token with claims that a key which the provider does not publish has signed.
func (f *Fake) SignWithAnotherKey(claims map[string]any) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	return sign(f.t, jose.ES256, jose.JSONWebKey{Key: key, KeyID: "1"}, claims)
}

// Unsigned returns a token with claims and the algorithm none.
func Unsigned(claims map[string]any) string {
	raw, _ := json.Marshal(claims) // never fails
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(raw) + "."
}

// LogoutToken returns a logout token, signed with the key of the provider.
func (f *Fake) LogoutToken(change map[string]any) string {
	return f.Sign(logoutClaims(f.Issuer, f.ClientID, change))
}
