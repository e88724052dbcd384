// Package oidctest runs OpenID Connect providers in tests: a real one, made with zitadel/oidc and its example storage,
// and one that does what a test tells it, for attacks.
package oidctest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/op"
	"golang.org/x/text/language"
)

// The client and a user of the real provider.
const (
	Secret   = "client secret"
	Username = "test-user2"
	Password = "verysecure"
	Subject  = "id2"
)

// Real is an OpenID Connect provider.
type Real struct {
	Issuer   string
	ClientID string
	storage  *storage.Storage
	http     *httptest.Server
}

// NewReal starts a provider on a loopback address. The ID of its client must be used in one test only, since the
// example storage keeps the clients of the process.
func NewReal(t testing.TB, clientID string, redirects ...string) *Real {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Real{Issuer: "http://" + l.Addr().String(), ClientID: clientID}
	storage.RegisterClients(storage.WebClient(clientID, Secret, redirects...))
	r.storage = storage.NewStorage(storage.NewUserStore(r.Issuer))
	provider, err := op.NewProvider(&op.Config{
		CryptoKey: sha256.Sum256([]byte("test")), CodeMethodS256: true, AuthMethodPost: true, SupportedUILocales: []language.Tag{language.English},
	}, r.storage, op.StaticIssuer(r.Issuer), op.WithAllowInsecure())
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", provider)
	interceptor := op.NewIssuerInterceptor(provider.IssuerFromRequest)
	// Its page for signing in, which the test fills in.
	mux.HandleFunc("POST /login/username", interceptor.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		id := req.FormValue("id")
		if err := r.storage.CheckUsernamePassword(req.FormValue("username"), req.FormValue("password"), id); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		http.Redirect(w, req, op.AuthCallbackURL(provider)(req.Context(), id), http.StatusFound)
	}))
	r.http = httptest.NewUnstartedServer(mux)
	_ = r.http.Listener.Close() // replaced by the one whose address is the issuer
	r.http.Listener = l
	r.http.Start()
	t.Cleanup(r.Stop)
	return r
}

// Stop stops the provider before the test ends.
func (r *Real) Stop() { r.http.Close() }

// LogoutToken returns a logout token, signed with the key of the provider.
func (r *Real) LogoutToken(t testing.TB, claims map[string]any) string {
	t.Helper()
	key, err := r.storage.SigningKey(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return sign(t, key.SignatureAlgorithm(), jose.JSONWebKey{Key: key.Key(), KeyID: key.ID()}, logoutClaims(r.Issuer, r.ClientID, claims))
}

// logoutClaims returns the claims of a logout token, with changes. A nil value removes a claim.
func logoutClaims(issuer, client string, change map[string]any) map[string]any {
	now := time.Now()
	claims := map[string]any{
		"iss": issuer, "aud": client, "iat": now.Unix(), "exp": now.Add(2 * time.Minute).Unix(), "jti": fmt.Sprint(now.UnixNano()),
		"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
	}
	return with(claims, change)
}

func with(claims, change map[string]any) map[string]any {
	for name, value := range change {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	return claims
}

// sign returns a signed JSON Web Token.
func sign(t testing.TB, algorithm jose.SignatureAlgorithm, key any, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}
