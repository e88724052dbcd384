package server_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ebb/accounts/gate"
	"ebb/config"
	"ebb/httpapi"
	"ebb/internal/testserver"
)

// tokenText matches a token with which somebody can act as a user, anywhere in a response.
var tokenText = regexp.MustCompile(`ebb_[arl]_[A-Za-z0-9_-]{20}`)

// office is a server whose users logged in with only a password while that was possible.
type office struct {
	*testserver.Server
	t        *testing.T
	weak     []*testserver.Client // sessions of alice
	refresh  string               // the refresh token of another session
	login    string               // a login token created in one of these sessions
	guest    string               // the access token of a guest
	guestKey string               // the guest's localpart
}

const officeGrace = time.Minute // shorter than the lifetime of a login token

func newOffice(t *testing.T, policy gate.Policy) *office {
	t.Helper()
	policy.Grace = officeGrace
	o := &office{t: t, Server: testserver.NewWithPolicy(t, policy, func(c *config.Config) {
		c.Registration.Guests, c.Registration.SharedSecret = true, "shared"
		c.Auth.JWT.Algorithms, c.Auth.JWT.Secret = []string{"HS256"}, jwtSecret
	})}
	o.weak = append(o.weak, o.Register("alice"))
	for range 12 { // some routes of the sweep end the session that they use
		o.weak = append(o.weak, o.Login("alice"))
	}
	in := o.Anonymous().Do("POST", "/v3/login", o.password(obj{"type": "m.login.password", "refresh_token": true}))
	o.refresh = in["refresh_token"].(string)
	o.login = o.weak[0].Do("POST", "/v1/login/get_token", obj{"auth": o.password(obj{"type": "m.login.password"})})["login_token"].(string)
	if policy.MFA != gate.Required { // a guest cannot have a second factor
		g := guest(t, o.Server)
		o.guest, o.guestKey = g.Token, strings.TrimSuffix(strings.TrimPrefix(g.User, "@"), ":test")
	}
	o.Advance(officeGrace)
	return o
}

// password adds alice's name and password to a body.
func (o *office) password(body obj) obj {
	body["identifier"], body["password"] = obj{"type": "m.id.user", "user": "alice"}, "correct horse battery"
	return body
}

// withSharedSecret returns a registration with the shared secret.
func (o *office) withSharedSecret(name string) obj {
	o.t.Helper()
	nonce := o.Anonymous().Do("GET", "/_synapse/admin/v1/register", nil)["nonce"].(string)
	mac := hmac.New(sha1.New, []byte("shared"))
	mac.Write([]byte(nonce + "\x00" + name + "\x00correct horse battery\x00notadmin"))
	return obj{"nonce": nonce, "username": name, "password": "correct horse battery", "admin": false, "mac": hex.EncodeToString(mac.Sum(nil))}
}

// way is a request that yields a token if no second factor is needed.
type way struct {
	path      gate.Path
	operation string // ID of the route
	method    string
	url       string
	body      func(o *office) obj
	weak      bool // whether it is sent in a session of alice that was created with only a password
}

var ways = []way{
	{gate.PathPassword, "login", "POST", "/v3/login", func(o *office) obj { return o.password(obj{"type": "m.login.password"}) }, false},
	{gate.PathJWT, "login", "POST", "/v3/login", func(o *office) obj { return obj{"type": "org.matrix.login.jwt", "token": o.jwt()} }, false},
	{gate.PathLoginToken, "login", "POST", "/v3/login", func(o *office) obj { return obj{"type": "m.login.token", "token": o.login} }, false},
	{gate.PathRefresh, "refresh", "POST", "/v3/refresh", func(o *office) obj { return obj{"refresh_token": o.refresh} }, false},
	{gate.PathRegister, "register", "POST", "/v3/register", func(*office) obj {
		return obj{"username": "bob", "password": "correct horse battery", "auth": obj{"type": "m.login.dummy"}}
	}, false},
	{gate.PathRegister, "register", "POST", "/v3/register", func(o *office) obj {
		return obj{"username": o.guestKey, "guest_access_token": o.guest, "password": "correct horse battery", "auth": obj{"type": "m.login.dummy"}}
	}, false},
	{gate.PathGuest, "register", "POST", "/v3/register?kind=guest", func(*office) obj { return obj{} }, false},
	{gate.PathSharedSecret, "registerWithSharedSecret", "POST", "/_synapse/admin/v1/register", func(o *office) obj { return o.withSharedSecret("carol") }, false},
	{gate.PathHandOver, "generateLoginToken", "POST", "/v1/login/get_token", func(o *office) obj { return obj{"auth": o.password(obj{"type": "m.login.password"})} }, true},
}

// elsewhere lists the paths that need no password, with the tests that cover them.
var elsewhere = map[gate.Path]string{
	gate.PathReset:      "makes no session: gate.TestNoPathLetsOneFactorThroughWhereTwoAreRequired",
	gate.PathAppService: "needs the token of an application service: the same",
	gate.PathMachine:    "needs an administrator on the host: the same",

	gate.PathCode:         "is no JSON API: accounts/oauth.TestNoCodeGivesTokensForAPasswordAlone",
	gate.PathDevice:       "the same",
	gate.PathOAuthRefresh: "the same",
	gate.PathSSO:          "the same",
}

// try sends the request and reports whether the response contains a token.
func (w way) try(o *office) (status int, answer string, token bool) {
	c := o.Anonymous()
	if w.weak {
		c = o.weak[0]
	}
	status, _, raw := c.Raw(w.method, w.url, w.body(o))
	return status, string(raw), tokenText.Match(raw)
}

func TestEveryPathNeedsASecondFactor(t *testing.T) {
	for _, path := range gate.Paths() {
		if !slices.ContainsFunc(ways, func(w way) bool { return w.path == path }) && elsewhere[path] == "" {
			t.Errorf("no row tries %s", path)
		}
	}
	open, required := newOffice(t, gate.Policy{MFA: gate.Off}), newOffice(t, gate.Policy{MFA: gate.Required})
	for _, w := range ways {
		if status, answer, token := w.try(open); !token {
			t.Errorf("without a policy, %s by %s: %d %s", w.path, w.operation, status, answer)
		}
		if status, answer, token := w.try(required); token || status < 400 || status >= 500 {
			t.Errorf("where a second factor is required, %s by %s: %d %s", w.path, w.operation, status, answer)
		}
	}
	for name, o := range map[string]*office{"open": open, "required": required} {
		for _, operation := range o.sweep() {
			known := slices.ContainsFunc(ways, func(w way) bool { return w.operation == operation })
			if !known || name == "required" {
				t.Errorf("%s: the route of %s gives a token; it must have a row in ways", name, operation)
			}
		}
	}
}

// last lists the operations that end all sessions of the user.
var last = []string{"logout_all", "deactivateAccount"}

// sweep sends every route a body with all kinds of proof, both in a session with only a password and without a session.
// It returns the operations whose responses contain a token.
func (o *office) sweep() (found []string) {
	routes := o.Routes()
	slices.SortStableFunc(routes, func(a, b httpapi.Route) int {
		return slices.Index(last, a.OperationID) - slices.Index(last, b.OperationID)
	})
	vars := regexp.MustCompile(`\{[^}]*\}`)
	session := 1
	for _, r := range routes {
		path := vars.ReplaceAllStringFunc(r.Path, func(name string) string {
			return map[string]string{"{userId}": "@alice:test", "{roomId}": "!x:test"}[name] + map[bool]string{true: "x"}[name != "{userId}" && name != "{roomId}"]
		})
		for _, c := range []*testserver.Client{o.Anonymous(), o.weak[session%len(o.weak)]} {
			_, _, raw := c.Raw(r.Method, path+"?timeout=0", o.everything())
			if answer := strings.NewReplacer(o.login, "", o.refresh, "").Replace(string(raw)); tokenText.MatchString(answer) { // a token that the request contained does not count
				found = append(found, r.OperationID)
			}
			if status, _, _ := c.Raw("GET", "/v3/account/whoami", nil); c.Token != "" && status != 200 {
				session++
			}
		}
	}
	return found
}

// everything returns a body with all members that some operation might accept as a proof.
func (o *office) everything() obj {
	auth := o.password(obj{"type": "m.login.password"})
	return o.password(obj{
		"type": "m.login.password", "user": "alice", "username": "dave", "token": o.login, "refresh_token": o.refresh, "auth": auth,
		"grant_type": "password", "new_password": "correct horse battery", "logout_devices": false, "devices": []string{}, "device_id": "SWEEP",
	})
}

func TestASecondFactorIsNotRevealedByThePassword(t *testing.T) {
	o := newOffice(t, gate.Policy{MFA: gate.Required})
	answers := map[string]bool{}
	for _, body := range []obj{o.password(obj{}), {"user": "alice", "password": "wrong"}, {"user": "nobody", "password": "wrong"}, {}} {
		body["type"] = "m.login.password"
		status, _, raw := o.Anonymous().Raw("POST", "/v3/login", body)
		if status != 403 {
			t.Errorf("%v: %d", body, status)
		}
		answers[string(raw)] = true
	}
	if len(answers) != 1 {
		t.Errorf("different answers: %v", answers)
	}
	_, _, raw := o.Anonymous().Raw("GET", "/v3/login", nil)
	if strings.Contains(string(raw), "m.login.password") {
		t.Errorf("a password is offered: %s", raw)
	}
}
