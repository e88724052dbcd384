package server_test

import (
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"ebb/accounts"
	"ebb/accounts/gate"
	"ebb/config"
	"ebb/ident"
	"ebb/internal/testserver"
	"ebb/mxerr"
)

const jwtSecret = "0123456789abcdef0123456789abcdef"

// signedToken returns a JSON Web Token with the claims.
func signedToken(t *testing.T, claims jwt.MapClaims) string {
	t.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(jwtSecret))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// jwt returns a JSON Web Token for alice.
func (o *office) jwt() string {
	return signedToken(o.t, jwt.MapClaims{"sub": "alice", "exp": o.Now().Add(time.Hour).Unix()})
}

// newJWT starts a server that accepts JSON Web Tokens.
func newJWT(t *testing.T, policy gate.Policy, change func(*config.Config)) *testserver.Server {
	t.Helper()
	return testserver.NewWithPolicy(t, policy, func(c *config.Config) {
		c.Auth.JWT.Algorithms, c.Auth.JWT.Secret, c.Auth.JWT.Issuer, c.Auth.JWT.Audiences = []string{"HS256"}, jwtSecret, "portal", []string{"chat"}
		if change != nil {
			change(c)
		}
	})
}

// claims returns valid claims for a user, with changes.
func claims(s *testserver.Server, sub string, change jwt.MapClaims) jwt.MapClaims {
	c := jwt.MapClaims{"sub": sub, "exp": s.Now().Add(time.Hour).Unix(), "iss": "portal", "aud": "chat"}
	for name, value := range change {
		c[name] = value
	}
	return c
}

// offers reports whether a login type is among the flows.
func offers(s *testserver.Server, kind string) bool {
	_, _, raw := s.Anonymous().Raw("GET", "/v3/login", nil)
	return strings.Contains(string(raw), `"`+kind+`"`)
}

func TestJSONWebTokensAreOfferedOnlyIfConfigured(t *testing.T) {
	s := testserver.New(t, nil)
	if offers(s, "org.matrix.login.jwt") {
		t.Error("tokens are offered without a key")
	}
	s.Anonymous().Refused("POST", "/v3/login", obj{"type": "org.matrix.login.jwt", "token": "x"}, 400, "M_UNKNOWN")
	if s := newJWT(t, gate.Policy{}, nil); !offers(s, "org.matrix.login.jwt") {
		t.Error("tokens are not offered")
	}
	required := gate.Policy{MFA: gate.Required}
	if s := newJWT(t, required, nil); offers(s, "org.matrix.login.jwt") {
		t.Error("tokens are offered although none is enough")
	}
	if s := newJWT(t, required, func(c *config.Config) { c.Auth.JWT.SecondFactor.AMR = []string{"mfa"} }); !offers(s, "org.matrix.login.jwt") {
		t.Error("tokens that may be enough are not offered")
	}
}

func TestAJSONWebTokenSignsInToAnExistingAccount(t *testing.T) {
	s := newJWT(t, gate.Policy{}, nil)
	s.Register("alice")
	in := s.Anonymous().Do("POST", "/v3/login", obj{"type": "org.matrix.login.jwt", "token": signedToken(t, claims(s, "Alice", nil)), "device_id": "JWTDEVICE"})
	if in["user_id"] != "@alice:test" || in["device_id"] != "JWTDEVICE" || in["access_token"] == "" {
		t.Errorf("%v", in)
	}
	s.Anonymous().Refused("POST", "/v3/login", obj{"type": "org.matrix.login.jwt", "token": signedToken(t, claims(s, "bob", nil))}, 403, "M_FORBIDDEN")
	s.Anonymous().Refused("POST", "/v3/login", obj{"type": "org.matrix.login.jwt", "token": signedToken(t, claims(s, "@alice:elsewhere", nil))}, 403, "M_FORBIDDEN")
	s.Anonymous().Refused("POST", "/v3/login", obj{"type": "org.matrix.login.jwt", "token": signedToken(t, claims(s, "alice", jwt.MapClaims{"aud": "mail"}))}, 403, "M_FORBIDDEN")
	s.Anonymous().Refused("POST", "/v3/login", obj{"type": "org.matrix.login.jwt"}, 403, "M_FORBIDDEN")
}

func TestAJSONWebTokenCreatesAccountsIfConfigured(t *testing.T) {
	s := newJWT(t, gate.Policy{}, func(c *config.Config) {
		c.Auth.JWT.CreateAccounts, c.Auth.JWT.DisplayNameClaim, c.Registration.Mode = true, "name", "closed"
	})
	login := func(sub string, change jwt.MapClaims) obj {
		return obj{"type": "org.matrix.login.jwt", "token": signedToken(t, claims(s, sub, change))}
	}
	c := s.Anonymous()
	c.Token = c.Do("POST", "/v3/login", login("carol", jwt.MapClaims{"name": "Carol C."}))["access_token"].(string)
	if p := c.Do("GET", "/v3/profile/@carol:test", nil); p["displayname"] != "Carol C." {
		t.Errorf("%v", p)
	}
	if in := c.Do("POST", "/v3/login", login("carol", nil)); in["user_id"] != "@carol:test" {
		t.Errorf("the second time: %v", in)
	}
	for _, bad := range []string{"carol smith", "ü", "", "@carol:elsewhere", strings.Repeat("x", 300)} {
		s.Anonymous().Refused("POST", "/v3/login", login(bad, nil), 403, "M_FORBIDDEN")
	}
	s.Anonymous().Refused("POST", "/v3/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "carol"}, "password": ""}, 403, "M_FORBIDDEN")
}

func TestAccountsOfJSONWebTokensGetNoPasswordFromTheirUsers(t *testing.T) {
	s := newJWT(t, gate.Policy{}, func(c *config.Config) { c.Auth.JWT.CreateAccounts = true })
	s.Register("alice")
	login := func(name string) *testserver.Client {
		c := s.Anonymous()
		c.Token = c.Do("POST", "/v3/login", obj{"type": "org.matrix.login.jwt", "token": signedToken(t, claims(s, name, nil))})["access_token"].(string)
		return c
	}
	can := func(c *testserver.Client) any {
		return testserver.Get(c.Do("GET", "/v3/capabilities", nil), "capabilities", "m.change_password", "enabled")
	}
	carol := login("carol")
	if can(carol) != false {
		t.Error("a user who signs in with tokens is offered to set a password")
	}
	err := s.Accounts().SetPassword(t.Context(), "@carol:test", "another password 7", accounts.PasswordChange{})
	if mxerr.Code(err) != mxerr.CodeForbidden || !strings.Contains(err.Error(), "sign-in service") {
		t.Errorf("setting a password: %v", err)
	}
	if can(login("alice")) != true {
		t.Error("a user who has a password cannot change it after signing in with a token")
	}
	if err := s.Accounts().OverridePassword(t.Context(), "@carol:test", "another password 7", false); err != nil {
		t.Fatal(err)
	}
	if can(carol) != true {
		t.Error("a user whom an administrator has given a password cannot change it")
	}
}

func TestAJSONWebTokenOpensNoLockedOrClosedAccount(t *testing.T) {
	s := newJWT(t, gate.Policy{}, func(c *config.Config) { c.Registration.Guests, c.Auth.JWT.CreateAccounts = true, true })
	s.Register("alice")
	if err := s.Accounts().SetLocked(t.Context(), ident.Requester{}, "@alice:test", true); err != nil {
		t.Fatal(err)
	}
	try := func(sub string) obj {
		return obj{"type": "org.matrix.login.jwt", "token": signedToken(t, claims(s, sub, nil))}
	}
	s.Anonymous().Refused("POST", "/v3/login", try("alice"), 401, "M_USER_LOCKED")
	s.Register("bob")
	if err := s.Accounts().Deactivate(t.Context(), "@bob:test", accounts.NotErased); err != nil {
		t.Fatal(err)
	}
	s.Anonymous().Refused("POST", "/v3/login", try("bob"), 403, "M_FORBIDDEN")
	s.Anonymous().Refused("POST", "/v3/login", try(strings.TrimSuffix(strings.TrimPrefix(guest(t, s).User, "@"), ":test")), 403, "M_FORBIDDEN")
}

func TestAJSONWebTokenIsEnoughOnlyIfItStatesTwoFactors(t *testing.T) {
	s := newJWT(t, gate.Policy{MFA: gate.Required}, func(c *config.Config) {
		c.Auth.JWT.CreateAccounts, c.Auth.JWT.SecondFactor = true, config.SecondFactor{AMR: []string{"mfa"}, ACR: []string{"gold"}}
	})
	for _, c := range []struct {
		claims jwt.MapClaims
		good   bool
	}{
		{nil, false}, {jwt.MapClaims{"amr": []string{"pwd"}}, false}, {jwt.MapClaims{"amr": "mfa"}, false}, {jwt.MapClaims{"acr": "silver"}, false}, {jwt.MapClaims{"acr": []string{"gold"}}, false},
		{jwt.MapClaims{"amr": []string{"pwd", "mfa"}}, true}, {jwt.MapClaims{"acr": "gold"}, true},
	} {
		status, _, raw := s.Anonymous().Raw("POST", "/v3/login", obj{"type": "org.matrix.login.jwt", "token": signedToken(t, claims(s, "dora", c.claims))})
		if good := status == 200; good != c.good || good != tokenText.Match(raw) {
			t.Errorf("%v: %d %s", c.claims, status, raw)
		}
	}
}

func TestWrongJSONWebTokensAreLimited(t *testing.T) {
	s := newJWT(t, gate.Policy{}, func(c *config.Config) { c.RateLimits.Enabled, c.RateLimits.Logins.Burst = true, 3 })
	s.Register("alice")
	for range 3 {
		s.Anonymous().Refused("POST", "/v3/login", obj{"type": "org.matrix.login.jwt", "token": "x.y.z"}, 403, "M_FORBIDDEN")
	}
	s.Anonymous().Refused("POST", "/v3/login", obj{"type": "org.matrix.login.jwt", "token": "x.y.z"}, 429, "M_LIMIT_EXCEEDED")
}
