package server_test

import (
	"encoding/json"
	"strings"
	"testing"

	"ebb/config"
	"ebb/internal/testserver"
)

func TestWeakPasswordsAreRefusedEverywhere(t *testing.T) {
	p := newPostal(t, func(c *config.Config) { c.Auth.Password = config.Default().Auth.Password })
	alice := p.Register("alice")
	p.add(alice, "alice@example.org")
	sid := p.link("account/password", "alice@example.org", 1)
	p.follow(p.sink.Next())
	for password, why := range map[string]string{"kx7!Qm2": "at least 8", "Summer2024!": "easy to guess", "": "empty", "alice1234": "user name"} {
		dummy := obj{"type": "m.login.dummy"}
		requests := map[string]obj{
			"/v3/register":         {"username": "alice1", "password": password, "auth": dummy},
			"/v3/account/password": {"new_password": password, "auth": passwordOf(alice)},
		}
		if why != "user name" { // nobody knows whose password it is before the link was checked
			requests["reset"] = obj{"new_password": password, "auth": byEmail(sid)}
		}
		for path, body := range requests {
			as, to := alice, path
			if path == "reset" {
				as, to = p.Anonymous(), "/v3/account/password"
			}
			status, _, raw := as.Raw("POST", to, body)
			if status != 400 || !strings.Contains(string(raw), "M_WEAK_PASSWORD") || !strings.Contains(string(raw), why) && path != "/v3/register" {
				t.Errorf("%s with %q: %d %s", path, password, status, raw)
			}
		}
		for _, command := range []string{"user add", "user passwd"} {
			user := map[string]string{"user add": "alice1", "user passwd": "alice"}[command]
			args, _ := json.Marshal(obj{"user": user, "password": password})
			if _, err := p.Control(t.Context(), command, args); err == nil || password != "alice1234" && !strings.Contains(err.Error(), why) {
				t.Errorf("%s with %q: %v", command, password, err)
			}
		}
	}
	alice.Do("POST", "/v3/account/password", obj{"new_password": "kx7!Qm2z", "auth": passwordOf(alice)})
	for _, path := range []string{"/v3/password_policy", "/r0/password_policy", "/unstable/password_policy", "/unstable/org.matrix.msc2000/password_policy"} {
		rules := p.Anonymous().Do("GET", path, nil)
		if rules["m.minimum_length"] != 8.0 || get(rules, "policy", "m.minimum_length") != 8.0 {
			t.Errorf("%s: %v", path, rules)
		}
	}
}

func TestOldPasswordsStillWorkUnderNewRules(t *testing.T) {
	var settings *config.Config
	s := testserver.New(t, func(c *config.Config) { settings = c })
	s.Anonymous().Do("POST", "/v3/register", obj{"username": "bob", "password": "x", "auth": obj{"type": "m.login.dummy"}})
	settings.Auth.Password = config.Default().Auth.Password
	s.Reopen()
	s.Anonymous().Do("POST", "/v3/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "bob"}, "password": "x"})
}
