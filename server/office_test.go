package server_test

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
)

// element simulates a user of Element Web: it sends the requests of that client in its order.
type element struct {
	*testserver.Client
	t       *testing.T
	name    string
	params  obj // of the registration, sent with every request to register
	session any
}

// try sends a request whose response must have the given status.
func (e *element) try(method, path string, body any, want int) obj {
	e.t.Helper()
	status, _, raw := e.Raw(method, path, body)
	if status != want {
		e.t.Fatalf("%s: %s %s: %d %s, want %d", e.name, method, path, status, raw, want)
	}
	return decode(e.t, raw)
}

// open loads the registration page: it asks for the flows and whether guests are allowed.
func (e *element) open() {
	e.t.Helper()
	e.try("GET", "/versions", nil, 200)
	e.try("GET", "/v3/login", nil, 200)
	e.try("POST", "/v3/register?kind=guest", obj{}, 403)
	for range 2 { // choosing the server loads the page again
		e.session = e.try("POST", "/v3/register", obj{"auth": obj{}}, 401)["session"]
	}
}

// fillIn enters a password and a user name, whose availability is checked after each character.
func (e *element) fillIn() {
	e.t.Helper()
	for i := range e.name {
		e.try("GET", "/v3/register/available?username="+url.QueryEscape(e.name[:i+1]), nil, 200)
	}
	e.params = obj{"username": e.name, "password": "correct horse " + e.name, "initial_device_display_name": "Element", "inhibit_login": true}
	e.step(obj{}, 401)
}

// step sends the registration request with one authentication stage.
func (e *element) step(auth obj, want int) obj {
	e.t.Helper()
	auth["session"] = e.session
	body := obj{"auth": auth}
	for name, v := range e.params {
		body[name] = v
	}
	return e.try("POST", "/v3/register", body, want)
}

// finish completes the stages of the token and, if asked to, of the terms, then logs in and syncs.
func (e *element) finish(token string, terms bool) {
	e.t.Helper()
	e.step(obj{"type": "m.login.registration_token", "token": "mistyped"}, 401)
	if valid := e.try("GET", "/v1/register/m.login.registration_token/validity?token="+token, nil, 200)["valid"]; valid != true {
		e.t.Fatalf("%s: the token is %v", e.name, valid)
	}
	last := obj{"type": "m.login.registration_token", "token": token}
	if terms {
		e.step(last, 401)
		last = obj{"type": "m.login.terms"}
	}
	e.step(last, 200)
	in := e.try("POST", "/v3/login", obj{
		"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": e.name}, "password": e.params["password"], "initial_device_display_name": "Element",
	}, 200)
	e.Token = in["access_token"].(string)
	e.try("GET", "/v3/sync?timeout=0", nil, 200)
}

func TestThreeUsersRegisterWithElementBehindOneAddress(t *testing.T) {
	for _, terms := range []bool{false, true} {
		t.Run(fmt.Sprintf("terms %v", terms), func(t *testing.T) {
			s := testserver.New(t, func(c *config.Config) {
				byDefault := config.Default()
				c.Registration.Mode, c.RateLimits = byDefault.Registration.Mode, byDefault.RateLimits
				if terms {
					c.Registration.Terms = []config.Term{{ID: "privacy", Version: "1", Name: "Privacy", URL: "https://test/privacy"}}
				}
			})
			for command, args := range map[string]string{"token create": `{"token":"welcome"}`, "user add": `{"user":"old","password":"correct horse old"}`} {
				if _, err := s.Control(t.Context(), command, []byte(args)); err != nil {
					t.Fatal(err)
				}
			}
			var people []*element
			for _, name := range []string{"alice", "benjamin", "carol"} {
				e := &element{Client: s.Anonymous(), t: t, name: name}
				e.open()
				e.fillIn()
				people = append(people, e)
			}
			for range 150 { // five minutes, in which every user looks up the token
				s.Advance(2 * time.Second)
				for _, e := range people {
					e.step(obj{}, 401)
					e.step(obj{"type": "m.login.registration_token"}, 401)
				}
			}
			old := &element{Client: s.Anonymous(), t: t, name: "old"}
			old.try("POST", "/v3/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "old"}, "password": "correct horse old"}, 200)
			for _, e := range people {
				e.finish("welcome", terms)
			}
		})
	}
}

func TestAnOfficeSignsInBehindOneAddress(t *testing.T) {
	s := testserver.New(t, func(c *config.Config) { c.RateLimits = config.Default().RateLimits })
	const people = 25
	for i := range people {
		if _, err := s.Control(t.Context(), "user add", fmt.Appendf(nil, `{"user":"user%d","password":"correct horse"}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range people { // all at the same time: the clock stands still
		e := &element{Client: s.Anonymous(), t: t, name: fmt.Sprint("user", i)}
		login := func(password string, want int) obj {
			return e.try("POST", "/v3/login", obj{
				"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": e.name}, "password": password, "refresh_token": true,
			}, want)
		}
		e.try("GET", "/v3/login", nil, 200)
		login("mistyped", 403)
		in := login("correct horse", 200)
		e.try("POST", "/v3/refresh", obj{"refresh_token": in["refresh_token"]}, 200)
		e.Token = e.try("POST", "/v3/refresh", obj{"refresh_token": in["refresh_token"]}, 200)["access_token"].(string)
		e.try("GET", "/v3/pushrules/", nil, 200)
		e.try("GET", "/v3/sync?timeout=0", nil, 200)
		e.try("POST", "/v3/account/password", obj{}, 401)
		auth := obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": e.name}, "password": "correct horse"}
		e.try("POST", "/v3/account/password", obj{"new_password": "another horse", "auth": auth}, 200)
	}
}
