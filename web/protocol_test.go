package web_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"ebb/config"
	"ebb/internal/testserver"
)

// signInClient signs alice in by a client and returns the tokens.
func (l *lab) signInClient(c *oauth2.Config, options ...oauth2.AuthCodeOption) *oauth2.Token {
	l.t.Helper()
	verifier := oauth2.GenerateVerifier()
	back := l.code(c, append(options, oauth2.S256ChallengeOption(verifier))...)
	token, err := c.Exchange(context.Background(), back.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		l.t.Fatal(err)
	}
	return token
}

func TestIDTokenIsSignedByAPublishedKey(t *testing.T) {
	l := newLab(t)
	c := l.client(nil)
	c.Scopes = append(c.Scopes, "openid")
	token := l.signInClient(c, oauth2.SetAuthURLParam("nonce", "n"))
	id, _ := token.Extra("id_token").(string)
	if strings.Count(id, ".") != 2 {
		t.Fatalf("id_token is %q", id)
	}
	published := func() []any {
		var set struct{ Keys []any }
		r := l.browser().get(l.Anonymous().Do("GET", "/v1/auth_metadata", nil)["jwks_uri"].(string))
		if err := json.Unmarshal([]byte(r.body), &set); err != nil || !strings.HasPrefix(r.header.Get("Content-Type"), "application/json") {
			t.Fatalf("%d %s", r.status, r.body)
		}
		return set.Keys
	}
	before := published()
	if _, err := l.Control(t.Context(), "keys rotate", nil); err != nil {
		t.Fatal(err)
	}
	if after := published(); len(before) != 1 || len(after) != 2 || after[1].(obj)["kid"] != before[0].(obj)["kid"] {
		t.Errorf("keys before and after a rotation: %v, %v", before, after)
	}
}

// TestLockedSessionSurvivesARefresh is about clients that refresh while the account is locked. matrix-js-sdk up to
// version 41 ends the session if the answer has a member "error", later versions if it also has errcode.
func TestLockedSessionSurvivesARefresh(t *testing.T) {
	l := newLab(t)
	c := l.client(nil)
	token := l.signInClient(c)
	lock := func(command string) {
		t.Helper()
		if _, err := l.Control(t.Context(), command, json.RawMessage(`{"user":"alice"}`)); err != nil {
			t.Fatal(err)
		}
	}
	refresh := url.Values{"grant_type": {"refresh_token"}, "client_id": {c.ClientID}, "refresh_token": {token.RefreshToken}}
	lock("user lock")
	l.Advance(10 * time.Minute)
	status, header, answer := l.json("/oauth2/token", refresh)
	if status != 503 || header.Get("Retry-After") == "" || answer["errcode"] != "M_USER_LOCKED" || answer["soft_logout"] != true || answer["error"] != nil {
		t.Errorf("%d %v %v", status, header, answer)
	}
	if status, me := l.whoami(token.AccessToken); status != 401 || me["errcode"] != "M_USER_LOCKED" || me["soft_logout"] != true {
		t.Errorf("the expired token: %d %v", status, me)
	}
	lock("user unlock")
	if status, _, answer := l.json("/oauth2/token", refresh); status != 200 {
		t.Errorf("after unlocking: %d %v", status, answer)
	}
}

func TestOAuthErrorsThatPassDoNotEndSessions(t *testing.T) {
	l := newLab(t)
	big := url.Values{"grant_type": {strings.Repeat("x", 20<<10)}}
	if status, _, answer := l.json("/oauth2/token", big); status != 413 || answer["error"] != "invalid_request" || answer["errcode"] != nil {
		t.Errorf("a body that is too large: %d %v", status, answer)
	}
	limited := testserver.New(t, func(c *config.Config) {
		c.OAuth.Enabled, c.RateLimits.Enabled, c.RateLimits.Anonymous = true, true, config.Bucket{PerSecond: 0.1, Burst: 1}
	})
	l = &lab{Server: limited, t: t}
	for range 2 {
		if status, header, answer := l.json("/oauth2/token", url.Values{}); status == 429 {
			if answer["error"] != nil || answer["errcode"] != "M_LIMIT_EXCEEDED" || header.Get("Retry-After") == "" {
				t.Errorf("%v", answer)
			}
			return
		}
	}
	t.Error("requests were never limited")
}

func TestScriptsOfOtherSitesReachTheEndpointsButNotThePages(t *testing.T) {
	l := newLab(t)
	meta := l.Anonymous().Do("GET", "/v1/auth_metadata", nil)
	send := func(method, address string) reply {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, l.local(address), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Origin", "https://app.example.com")
		if method == "OPTIONS" {
			req.Header.Set("Access-Control-Request-Method", "POST")
		}
		return l.browser().do(req)
	}
	for name, method := range map[string]string{
		"jwks_uri": "GET", "registration_endpoint": "POST", "token_endpoint": "POST", "revocation_endpoint": "POST", "device_authorization_endpoint": "POST",
	} {
		address, _ := meta[name].(string)
		for _, method := range []string{method, "OPTIONS"} {
			if r := send(method, address); r.header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("%s %s (%s) has no CORS headers: %d", method, name, address, r.status)
			}
		}
	}
	for _, path := range []string{"/_matrix/client/v1/auth_metadata", "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata", "/.well-known/openid-configuration"} {
		if r := send("GET", path); r.status != 200 || r.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: %d %v", path, r.status, r.header)
		}
	}
	for _, route := range l.Routes() {
		if !strings.HasPrefix(route.Path, "/oauth2/") || !route.Page {
			continue
		}
		for _, method := range []string{route.Method, "OPTIONS"} {
			if r := send(method, route.Path); r.header.Get("Access-Control-Allow-Origin") != "" || r.header.Get("Access-Control-Allow-Headers") != "" {
				t.Errorf("%s %s has CORS headers: %v", method, route.Path, r.header)
			}
		}
	}
}

func TestMetadataHasWhatClientsValidate(t *testing.T) {
	l := newLab(t)
	_, _, raw := l.Anonymous().Raw("GET", "/v1/auth_metadata", nil)
	var meta struct {
		Issuer         string   `json:"issuer"`
		Authorization  string   `json:"authorization_endpoint"`
		Token          string   `json:"token_endpoint"`
		Registration   string   `json:"registration_endpoint"`
		Revocation     string   `json:"revocation_endpoint"`
		Keys           string   `json:"jwks_uri"`
		Device         string   `json:"device_authorization_endpoint"`
		ResponseTypes  []string `json:"response_types_supported"`
		ResponseModes  []string `json:"response_modes_supported"`
		Grants         []string `json:"grant_types_supported"`
		Challenges     []string `json:"code_challenge_methods_supported"`
		Subjects       []string `json:"subject_types_supported"`
		SigningMethods []string `json:"id_token_signing_alg_values_supported"`
	}
	if err := json.Unmarshal(raw, &meta); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{meta.Authorization, meta.Token, meta.Registration, meta.Revocation, meta.Keys, meta.Device} {
		if !strings.HasPrefix(address, strings.TrimSuffix(meta.Issuer, "/")+"/oauth2/") {
			t.Errorf("%q is not below the issuer %q", address, meta.Issuer)
		}
	}
	for name, list := range map[string][2][]string{
		"response_types": {meta.ResponseTypes, {"code"}}, "response_modes": {meta.ResponseModes, {"query", "fragment"}}, "challenges": {meta.Challenges, {"S256"}},
		"grants": {meta.Grants, {"authorization_code", "refresh_token", grantDev}}, "subjects": {meta.Subjects, {"public"}}, "signing": {meta.SigningMethods, {"RS256"}},
	} {
		if got, want := strings.Join(list[0], " "), strings.Join(list[1], " "); got != want {
			t.Errorf("%s: %s, not %s", name, got, want)
		}
	}
}

const ssoRedirect = "/_matrix/client/v3/login/sso/redirect"

// ssoPage follows the redirect of single sign-on to the page, where nobody is signed in.
func (b *browser) ssoPage(redirectURL string) reply {
	b.l.t.Helper()
	r := b.get(ssoRedirect + "?action=login&redirectUrl=" + url.QueryEscape(redirectURL))
	if r.status != http.StatusFound {
		b.l.t.Fatalf("%d %s", r.status, r.body)
	}
	return b.get(r.header.Get("Location"))
}

func TestClientWithoutOAuthSignsInThroughThePages(t *testing.T) {
	l := newLab(t)
	b := l.browser()
	consent := b.signIn(b.ssoPage(callback + "?a=b#/home"))
	if !strings.Contains(consent.body, "<dd>app.example.com</dd>") || !strings.Contains(consent.body, "@alice:test") || consent.header.Get("Location") != "" {
		t.Fatalf("the page for consent: %d %s", consent.status, consent.body)
	}
	if csp := consent.header.Get("Content-Security-Policy"); !strings.Contains(csp, "form-action 'self' https://app.example.com;") {
		t.Errorf("the browser may not continue: %s", csp)
	}
	done := b.submit(consent, "step", "allow")
	to, err := url.Parse(done.header.Get("Location"))
	if err != nil || done.status != http.StatusSeeOther || to.Host != "app.example.com" || to.Query().Get("a") != "b" || to.Fragment != "/home" {
		t.Fatalf("%d %s", done.status, done.header.Get("Location"))
	}
	login := obj{"type": "m.login.token", "token": to.Query().Get("loginToken")}
	if in := l.Anonymous().Do("POST", "/v3/login", login); in["user_id"] != "@alice:test" || in["access_token"] == nil {
		t.Errorf("%v", in)
	}
	l.Anonymous().Refused("POST", "/v3/login", login, 403, "M_FORBIDDEN")
	denied := b.submit(b.ssoPage(callback), "step", "deny")
	if denied.status != 200 || denied.header.Get("Location") != "" || !strings.Contains(denied.body, "Access was denied") {
		t.Errorf("denied: %d %s", denied.status, denied.header.Get("Location"))
	}
}

func TestSingleSignOnIsNoOpenRedirect(t *testing.T) {
	l := newLab(t)
	b := l.browser()
	for _, path := range []string{ssoRedirect, "/oauth2/sso"} {
		for _, bad := range []string{"", "javascript:alert(1)", "//evil.example.org", "http://evil.example.org/", "https://good.example.org@evil.example.org/"} {
			r := b.get(path + "?redirectUrl=" + url.QueryEscape(bad))
			if r.status != 400 || r.header.Get("Location") != "" || !strings.Contains(r.body, `role="alert"`) {
				t.Errorf("%s to %q: %d %s", path, bad, r.status, r.header.Get("Location"))
			}
		}
	}
	page := b.signIn(b.ssoPage("evil://app.element.io/"))
	if !strings.Contains(page.body, "<dd>evil:</dd>") || strings.Contains(page.body, ">app.element.io<") {
		t.Errorf("an application poses as a website: %s", page.body)
	}
	if r := b.post("/oauth2/sso?redirectUrl="+url.QueryEscape("https://evil.example.org/"), url.Values{"step": {"allow"}}); r.status != 403 || r.header.Get("Location") != "" {
		t.Errorf("a form of another website: %d %s", r.status, r.header.Get("Location"))
	}
}

func TestUnknownIdentityProviderIsExplainedOnAPage(t *testing.T) {
	l := newLab(t)
	r := l.browser().get(ssoRedirect + "/com.example.nobody?redirectUrl=" + url.QueryEscape(callback))
	if r.status != 404 || r.header.Get("Location") != "" || !strings.Contains(r.body, "no such identity provider") {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestLoginTypesDependOnOAuth(t *testing.T) {
	flows := func(s *testserver.Server) string {
		_, _, raw := s.Anonymous().Raw("GET", "/v3/login", nil)
		return string(raw)
	}
	with, without := flows(newLab(t).Server), testserver.New(t, func(c *config.Config) { c.OAuth.Enabled = false })
	if !strings.Contains(with, `{"oauth_aware_preferred":true,"type":"m.login.sso"}`) || !strings.Contains(with, "m.login.password") {
		t.Errorf("with OAuth 2.0: %s", with)
	}
	if off := flows(without); strings.Contains(off, "m.login.sso") || !strings.Contains(off, "m.login.password") {
		t.Errorf("without: %s", off)
	}
	if r := (&lab{Server: without, t: t}).browser().get(ssoRedirect + "?redirectUrl=" + url.QueryEscape(callback)); r.status != 404 {
		t.Errorf("single sign-on without OAuth 2.0: %d", r.status)
	}
}

// TestAnswersNameTheirIssuer is about clients that use several servers: one of them, which an attacker runs, could lead
// the user to this server and have the client send the code to the attacker's (mix-up attack).
func TestAnswersNameTheirIssuer(t *testing.T) {
	l := newLab(t)
	issuer := l.Anonymous().Do("GET", "/v1/auth_metadata", nil)["issuer"]
	c, pkce := l.client(nil), oauth2.S256ChallengeOption(oauth2.GenerateVerifier())
	if back := l.code(c, pkce); back.Get("iss") != issuer || back.Get("code") == "" {
		t.Errorf("a code: %v, issuer %v", back, issuer)
	}
	b := l.browser()
	for name, r := range map[string]reply{
		"an error": b.get(c.AuthCodeURL("s")), "a refusal": b.submit(b.signIn(b.get(c.AuthCodeURL("s", pkce))), "step", "deny"),
	} {
		to, err := url.Parse(r.header.Get("Location"))
		if err != nil || to.Query().Get("iss") != issuer || to.Query().Get("error") == "" {
			t.Errorf("%s: %s", name, to)
		}
	}
}

func TestRepeatedParametersAreNoWayAroundTheChecks(t *testing.T) {
	l := newLab(t)
	c, b := l.client(nil), l.browser()
	good := c.AuthCodeURL("s", oauth2.S256ChallengeOption(oauth2.GenerateVerifier()))
	for name, more := range map[string]string{"redirect_uri": "https://evil.example.org/", "client_id": "x"} {
		if r := b.get(good + "&" + name + "=" + url.QueryEscape(more)); r.status < 400 || r.header.Get("Location") != "" {
			t.Errorf("%s: %d %s", name, r.status, r.header.Get("Location"))
		}
	}
	for name, more := range map[string]string{"code_challenge_method": "plain", "scope": "openid", "state": "t"} {
		r := b.get(good + "&" + name + "=" + more)
		if to := r.header.Get("Location"); r.status != 303 || !strings.HasPrefix(to, callback) || !strings.Contains(to, "error=invalid_request") {
			t.Errorf("%s: %d %s", name, r.status, to)
		}
	}
}

func TestTokensOfOneKindAreNotTakenForAnother(t *testing.T) {
	l := newLab(t)
	c := l.client(nil)
	c.Scopes = append(c.Scopes, "openid")
	token := l.signInClient(c)
	for name, other := range map[string]string{"id_token": token.Extra("id_token").(string), "refresh token": token.RefreshToken} {
		if status, _ := l.whoami(other); status != 401 {
			t.Errorf("%s as an access token: %d", name, status)
		}
		l.Anonymous().Refused("POST", "/v3/login", obj{"type": "m.login.token", "token": other}, 403, "M_FORBIDDEN")
	}
	for _, grant := range []url.Values{
		{"grant_type": {"refresh_token"}, "refresh_token": {token.AccessToken}}, {"grant_type": {"authorization_code"}, "code": {token.RefreshToken}}, {"grant_type": {grantDev}, "device_code": {token.RefreshToken}},
	} {
		grant.Set("client_id", c.ClientID)
		if status, _, answer := l.json("/oauth2/token", grant); status != 400 || answer["error"] != "invalid_grant" {
			t.Errorf("%v: %d %v", grant, status, answer)
		}
	}
	l.Anonymous().Refused("POST", "/v3/refresh", obj{"refresh_token": token.RefreshToken}, 401, "M_UNKNOWN_TOKEN")
	if status, _ := l.whoami(token.AccessToken); status != 200 {
		t.Errorf("the session has suffered: %d", status)
	}
}

func TestSignUpIsAnnouncedWhereRegistrationIsOpen(t *testing.T) {
	for mode, want := range map[string]bool{"open": true, "token": true, "closed": false} {
		s := testserver.New(t, func(c *config.Config) { c.OAuth.Enabled, c.Registration.Mode = true, mode })
		values, _ := s.Anonymous().Do("GET", "/v1/auth_metadata", nil)["prompt_values_supported"].([]any)
		if (len(values) == 1 && values[0] == "create") != want {
			t.Errorf("%s: %v", mode, values)
		}
	}
}
