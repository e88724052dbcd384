package main

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
)

func TestSecurityEventsAreLoggedWithTheAddress(t *testing.T) {
	s := newSite(t, 0)
	cfg := "--config=" + s.config
	must(t, "correct horse\n", "user", "add", "--password-stdin", "gone", cfg)
	must(t, "", "user", "deactivate", "gone", cfg)
	_, log := s.serveAndLog(t)
	must(t, "correct horse\n", "user", "add", "--password-stdin", "alice", cfg)
	token := strings.TrimSpace(must(t, "", "token", "create", cfg))
	for user, password := range map[string]string{"alice": "hunter2xyz", "nobody": "hunter2xyz", "gone": "correct horse"} {
		if _, status := s.login(t, user, password); status != http.StatusForbidden {
			t.Errorf("%s: %d", user, status)
		}
	}
	alice, _ := s.login(t, "alice", "correct horse")
	alice.do("POST", "/refresh", map[string]string{"refresh_token": "ebb_r_hunter2xyz"})
	alice.do("POST", "/register", map[string]any{"username": "eve", "password": "hunter2xyz", "auth": map[string]string{"type": "m.login.registration_token", "token": "hunter2xyz"}})
	alice.do("POST", "/register", map[string]any{"username": "bob", "password": "hunter2xyz", "auth": map[string]string{"type": "m.login.registration_token", "token": token}})
	alice.do("POST", "/logout", map[string]string{})
	must(t, "", "keys", "rotate", cfg)
	must(t, "", "user", "admin", "alice", cfg)
	must(t, "hunter2xyz\n", "user", "passwd", "--password-stdin", "alice", cfg)
	must(t, "", "user", "deactivate", "alice", cfg)
	const client, local = ` peer=127\.0\.0\.1`, ` peer=local`
	for _, want := range []string{
		`msg="account made" user=@alice:test admin=false .*` + local,
		`msg="registration token made" .*` + local,
		`msg="sign-in failed" user=alice reason="wrong password" .*` + client,
		`msg="sign-in failed" user="" reason="no such user" .*` + client,
		`msg="sign-in failed" user=gone reason="deactivated account" .*` + client,
		`msg="signed in" user=@alice:test device=[A-Z0-9]+ .*` + client,
		`msg="sign-in failed" user="" reason="unknown refresh token" .*` + client,
		`msg="unknown registration token" .*` + client,
		`msg="account made" user=@bob:test admin=false .*` + client,
		`msg="devices signed out" user=@alice:test .*` + client,
		`msg="signing key changed" key_id=ed25519:.*` + local,
		`msg="administrator's rights changed" user=@alice:test admin=true .*` + local,
		`msg="password changed" user=@alice:test .*` + local,
		`msg="account deactivated" user=@alice:test erased=false .*` + local,
	} {
		if !regexp.MustCompile(`level=INFO ` + want).MatchString(log.String()) {
			t.Errorf("%s is not logged", want)
		}
	}
	for _, secret := range []string{"hunter2xyz", "correct horse", token} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%q is logged", secret)
		}
	}
	if t.Failed() {
		t.Log(log.String())
	}
}

func TestResponsesHaveTheRequestIDOfTheLog(t *testing.T) {
	s := newSite(t, 0)
	edit(t, s.config, "level: info", "level: debug")
	_, log := s.serveAndLog(t)
	resp, err := http.Get("http://" + s.address + "/_matrix/client/versions")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	name := resp.Header.Get("X-Request-Id")
	if name == "" || !strings.Contains(resp.Header.Get("Access-Control-Expose-Headers"), "X-Request-Id") {
		t.Fatalf("the headers are %v", resp.Header)
	}
	log.await(t, "request="+name+" peer=127.0.0.1", 1)
}

// scrape returns the metrics of a server that has received no other requests.
func scrape(t *testing.T, address string) string {
	t.Helper()
	c := &client{t: t, base: "http://" + address}
	return string(c.bytes("GET", "/metrics", "", http.NoBody))
}

func TestMetricsContainBuildAndSizesButNoEmptySeries(t *testing.T) {
	s := newSite(t, 0)
	edit(t, s.config, "serve: [client, admin]", "serve: [client, admin, metrics]")
	must(t, "correct horse\n", "user", "add", "--password-stdin", "alice", "--config", s.config)
	s.serve(t)
	late := 0
	text := scrape(t, s.address)
	// The users are counted in the background.
	for ; !regexp.MustCompile(`(?m)^ebb_users 1$`).MatchString(text) && late < 1000; late++ {
		text = scrape(t, s.address)
	}
	for _, want := range []string{`ebb_build_info\{go="go[^"]+",version="[^"]+"\} 1`, `ebb_users 1`, `ebb_rooms \d+`, `ebb_database_bytes [1-9]\S+`, `ebb_media_bytes 0`, `ebb_remote_media_bytes 0`} {
		if !regexp.MustCompile(`(?m)^` + want + `$`).MatchString(text) {
			t.Errorf("%s is not among the metrics", want)
		}
	}
	// Other tests in this process have sent requests to some routes, but none to this one.
	if strings.Contains(text, "thirdparty") {
		t.Errorf("a route that nobody has asked for has metrics:\n%.2000s", text)
	}
}
