package server_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"ebb/accounts"
	"ebb/accounts/gate"
	"ebb/config"
	"ebb/ident"
	"ebb/internal/ldaptest"
	"ebb/internal/testserver"
	"ebb/storage"
)

// newLDAP starts an LDAP server, and a server that uses it.
func newLDAP(t *testing.T, policy gate.Policy, change func(*config.Config)) (*testserver.Server, *ldaptest.Server) {
	t.Helper()
	d := ldaptest.Kinds["gldap"](t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, d.CA, 0o600); err != nil {
		t.Fatal(err)
	}
	return testserver.NewWithPolicy(t, policy, func(c *config.Config) {
		l := &c.Auth.LDAP
		l.URL, l.CAFile, l.Base, l.SearchDN, l.SearchPassword, l.CreateAccounts = d.Secure, file, ldaptest.Base, ldaptest.SearchDN, ldaptest.SearchPassword, true
		l.Timeout = config.Duration(30e9)
		if change != nil {
			change(c)
		}
	}), d
}

func byPassword(user, password string) obj {
	return obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": user}, "password": password}
}

func TestTheFirstSignInWithLDAPCreatesTheAccount(t *testing.T) {
	s, _ := newLDAP(t, gate.Policy{}, func(c *config.Config) { c.Registration.Mode = "closed" })
	c := s.Anonymous()
	in := c.Do("POST", "/v3/login", byPassword("Alice", "alice secret"))
	c.Token = in["access_token"].(string)
	if in["user_id"] != "@alice:test" {
		t.Errorf("%v", in)
	}
	if p := c.Do("GET", "/v3/profile/@alice:test", nil); p["displayname"] != "Alice Example" {
		t.Errorf("%v", p)
	}
	for name, password := range map[string]string{"@alice:test": "alice secret", "BOB": "bob secret", "bob": "bob secret"} {
		s.Anonymous().Do("POST", "/v3/login", byPassword(name, password))
	}
	for name, password := range map[string]string{"alice": "wrong", "": "x", "bob": "", "nobody": "x", "@alice:elsewhere": "alice secret", "s*r(x),y": "star secret"} {
		status, _, raw := s.Anonymous().Raw("POST", "/v3/login", byPassword(name, password))
		if status == 200 || status >= 500 {
			t.Errorf("%q with %q: %d %s", name, password, status, raw)
		}
	}
	ids, err := s.Accounts().Identities(t.Context(), "@alice:test")
	if err != nil || len(ids) != 1 || ids[0].Issuer != storage.DirectoryIssuer || ids[0].Subject != "alice" {
		t.Errorf("%v %v", ids, err)
	}
}

func TestLDAPCreatesNoAccountUnlessConfigured(t *testing.T) {
	s, _ := newLDAP(t, gate.Policy{}, func(c *config.Config) { c.Auth.LDAP.CreateAccounts = false })
	s.Anonymous().Refused("POST", "/v3/login", byPassword("alice", "alice secret"), 403, "M_FORBIDDEN")
	s.Register("alice")
	s.Anonymous().Refused("POST", "/v3/login", byPassword("alice", "alice secret"), 403, "M_FORBIDDEN")
	s.Anonymous().Do("POST", "/v3/login", byPassword("alice", testserver.Password()))
	if err := s.Accounts().Link(t.Context(), "@alice:test", accounts.Identity{Issuer: storage.DirectoryIssuer, Subject: "Alice"}); err != nil {
		t.Fatal(err)
	}
	s.Anonymous().Do("POST", "/v3/login", byPassword("alice", "alice secret"))
	s.Anonymous().Refused("POST", "/v3/login", byPassword("alice", testserver.Password()), 403, "M_FORBIDDEN")
}

func TestLDAPDoesNotOpenAccountsThatWereHereBefore(t *testing.T) {
	s, _ := newLDAP(t, gate.Policy{}, func(c *config.Config) { c.Registration.Guests = true })
	s.Register("alice") // with a password of her own
	if _, err := s.Accounts().Create(t.Context(), accounts.NewAccount{Username: "bob", NoPassword: true}); err != nil {
		t.Fatal(err)
	}
	for name, password := range map[string]string{"alice": "alice secret", "bob": "bob secret"} {
		s.Anonymous().Refused("POST", "/v3/login", byPassword(name, password), 403, "M_FORBIDDEN")
	}
	s.Anonymous().Do("POST", "/v3/login", byPassword("alice", testserver.Password()))
}

func TestClosedAndLockedAccountsStayClosedForLDAP(t *testing.T) {
	s, _ := newLDAP(t, gate.Policy{}, nil)
	for name, password := range map[string]string{"alice": "alice secret", "bob": "bob secret"} {
		s.Anonymous().Do("POST", "/v3/login", byPassword(name, password))
	}
	if err := s.Accounts().SetLocked(t.Context(), ident.Requester{}, "@alice:test", true); err != nil {
		t.Fatal(err)
	}
	s.Anonymous().Refused("POST", "/v3/login", byPassword("alice", "alice secret"), 401, "M_USER_LOCKED")
	if err := s.Accounts().Deactivate(t.Context(), "@bob:test", accounts.NotErased); err != nil {
		t.Fatal(err)
	}
	s.Anonymous().Refused("POST", "/v3/login", byPassword("bob", "bob secret"), 403, "M_FORBIDDEN")
	s.Anonymous().Refused("POST", "/v3/login", byPassword("Bob", "bob secret"), 403, "M_FORBIDDEN")
}

func TestAPasswordOfLDAPConfirmsRequestsAndIsNotChangedHere(t *testing.T) {
	s, _ := newLDAP(t, gate.Policy{}, nil)
	c := s.Anonymous()
	in := c.Do("POST", "/v3/login", byPassword("alice", "alice secret"))
	c.Token = in["access_token"].(string)
	confirm := func(password string) obj {
		auth := byPassword("alice", password)
		return obj{"auth": auth, "new_password": "another password 7"}
	}
	c.Refused("POST", "/v3/account/password", confirm("alice secret"), 403, "M_FORBIDDEN")
	c.Refused("POST", "/v3/account/password", confirm("wrong"), 401, "M_FORBIDDEN")
	if can := testserver.Get(c.Do("GET", "/v3/capabilities", nil), "capabilities", "m.change_password", "enabled"); can != false {
		t.Errorf("m.change_password is %v", can)
	}
	other := s.Anonymous()
	device := other.Do("POST", "/v3/login", byPassword("alice", "alice secret"))["device_id"].(string)
	c.Refused("DELETE", "/v3/devices/"+device, obj{"auth": byPassword("alice", "wrong")}, 401, "M_FORBIDDEN")
	c.Do("DELETE", "/v3/devices/"+device, obj{"auth": byPassword("alice", "alice secret")})

	if err := s.Accounts().OverridePassword(t.Context(), "@alice:test", "another password 7", false); err != nil {
		t.Fatal(err)
	}
	s.Anonymous().Do("POST", "/v3/login", byPassword("alice", "another password 7"))
	s.Anonymous().Refused("POST", "/v3/login", byPassword("alice", "alice secret"), 403, "M_FORBIDDEN")
	if can := testserver.Get(c.Do("GET", "/v3/capabilities", nil), "capabilities", "m.change_password", "enabled"); can != true {
		t.Errorf("m.change_password is %v", can)
	}
}

func TestLDAPThatIsDownLeavesLocalPasswords(t *testing.T) {
	s, d := newLDAP(t, gate.Policy{}, func(c *config.Config) { c.RateLimits.Enabled, c.RateLimits.Logins.Burst = true, 3 })
	s.Register("local")
	s.Anonymous().Do("POST", "/v3/login", byPassword("alice", "alice secret"))
	d.Stop()
	for range 8 { // counts as no guess
		s.Anonymous().Refused("POST", "/v3/login", byPassword("alice", "alice secret"), 502, "M_CONNECTION_FAILED")
	}
	s.Anonymous().Do("POST", "/v3/login", byPassword("local", testserver.Password()))
}

func TestGuessesAtLDAPAreLimited(t *testing.T) {
	s, _ := newLDAP(t, gate.Policy{}, func(c *config.Config) { c.RateLimits.Enabled, c.RateLimits.Logins.Burst = true, 3 })
	for range 3 {
		s.Anonymous().Refused("POST", "/v3/login", byPassword("alice", "wrong"), 403, "M_FORBIDDEN")
	}
	s.Anonymous().Refused("POST", "/v3/login", byPassword("alice", "alice secret"), 429, "M_LIMIT_EXCEEDED")
}

func TestAPasswordOfLDAPIsOneFactor(t *testing.T) {
	s, _ := newLDAP(t, gate.Policy{MFA: gate.Required}, nil)
	status, _, raw := s.Anonymous().Raw("POST", "/v3/login", byPassword("alice", "alice secret"))
	if status != 403 || tokenText.Match(raw) {
		t.Errorf("%d %s", status, raw)
	}
	if s.Accounts().Exists(t.Context(), "@alice:test") == nil {
		t.Error("an account was created although the password was not to be compared")
	}
}

func TestTwoFirstSignInsAtOnceCreateOneAccount(t *testing.T) {
	s, _ := newLDAP(t, gate.Policy{}, nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if status, _, raw := s.Anonymous().Raw("POST", "/v3/login", byPassword("alice", "alice secret")); status != 200 || !strings.Contains(string(raw), "@alice:test") {
				t.Errorf("%d %s", status, raw)
			}
		})
	}
	wg.Wait()
}
