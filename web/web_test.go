package web_test

import (
	"context"
	"encoding/json"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"ebb/accounts/gate"
	"ebb/config"
	"ebb/internal/testserver"
)

type obj = map[string]any

const (
	callback = "https://app.example.com/callback"
	scope    = "urn:matrix:client:api:* urn:matrix:client:device:BROWSERDEVICE"
	grantDev = "urn:ietf:params:oauth:grant-type:device_code"
)

// lab is a server with OAuth 2.0 and one account, alice.
type lab struct {
	*testserver.Server
	t *testing.T
}

// pages is a configuration with OAuth 2.0, and with an address for which browsers make passkeys.
func pages(c *config.Config) { c.OAuth.Enabled, c.PublicURL = true, "http://localhost:8008" }

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{Server: testserver.New(t, pages), t: t}
	l.Register("alice")
	return l
}

// reply is a response.
type reply struct {
	t      *testing.T
	status int
	header http.Header
	body   string
}

// browser keeps cookies and follows no redirects.
type browser struct {
	l    *lab
	http *http.Client
}

func (l *lab) browser() *browser {
	jar, _ := cookiejar.New(nil) // never fails without options
	return &browser{l, &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

func (b *browser) do(req *http.Request) reply {
	b.l.t.Helper()
	resp, err := b.http.Do(req)
	if err != nil {
		b.l.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		b.l.t.Fatal(err)
	}
	r := reply{b.l.t, resp.StatusCode, resp.Header, string(raw)}
	r.checkHeaders()
	return r
}

// checkHeaders fails the test if a page may be framed, read by other websites, stored or changed by scripts.
func (r reply) checkHeaders() {
	r.t.Helper()
	if !strings.HasPrefix(r.header.Get("Content-Type"), "text/html") {
		return
	}
	csp := r.header.Get("Content-Security-Policy")
	if !strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") ||
		r.header.Get("X-Frame-Options") != "DENY" || r.header.Get("Access-Control-Allow-Origin") != "" || r.header.Get("Cache-Control") != "no-store" {
		r.t.Errorf("the headers of a page: %v", r.header)
	}
}

// local returns a URL of the test's listener for an address that the server publishes.
func (l *lab) local(address string) string {
	l.t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.URL + u.RequestURI()
}

func (b *browser) get(address string) reply {
	b.l.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), "GET", b.l.local(address), nil)
	if err != nil {
		b.l.t.Fatal(err)
	}
	return b.do(req)
}

func (b *browser) post(address string, f url.Values, header ...string) reply {
	b.l.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), "POST", b.l.local(address), strings.NewReader(f.Encode()))
	if err != nil {
		b.l.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return b.do(req)
}

var (
	hidden = regexp.MustCompile(`<input type="hidden" name="([a-z_]+)" value="([^"]*)">`)
	forms  = regexp.MustCompile(`(?s)<form method="post" action="([^"]*)"[^>]*>(.*?)</form>`)
)

// form returns the address and the hidden fields of the first form of a page, or of the one for a step of signing in.
func (r reply) form(sign ...string) (to string, f url.Values) {
	r.t.Helper()
	for _, found := range forms.FindAllStringSubmatch(r.body, -1) {
		f = url.Values{}
		for _, m := range hidden.FindAllStringSubmatch(found[2], -1) {
			f.Set(m[1], html.UnescapeString(m[2]))
		}
		if len(sign) == 0 || f.Get("sign") == sign[0] {
			return html.UnescapeString(found[1]), f
		}
	}
	r.t.Fatalf("no form %v: %d %s", sign, r.status, r.body)
	return "", nil
}

// shows reports whether a page has the form for a step of signing in.
func (r reply) shows(sign string) bool {
	return strings.Contains(r.body, `name="sign" value="`+sign+`"`)
}

// submit sends the form of a page.
func (b *browser) submit(page reply, fields ...string) reply {
	b.l.t.Helper()
	to, f := page.form()
	for i := 0; i < len(fields); i += 2 {
		f.Set(fields[i], fields[i+1])
	}
	return b.post(to, f)
}

// signIn signs alice in on a page and returns the page that follows.
func (b *browser) signIn(page reply) reply {
	b.l.t.Helper()
	in := b.submit(page, "user", "alice", "password", testserver.Password())
	if in.status != http.StatusSeeOther {
		b.l.t.Fatalf("sign in: %d %s", in.status, in.body)
	}
	return b.get(in.header.Get("Location"))
}

// json sends a form or a JSON object to an endpoint.
func (l *lab) json(address string, body any) (int, http.Header, obj) {
	l.t.Helper()
	var text string
	kind := "application/json"
	if f, ok := body.(url.Values); ok {
		text, kind = f.Encode(), "application/x-www-form-urlencoded"
	} else {
		raw, _ := json.Marshal(body)
		text = string(raw)
	}
	req, err := http.NewRequestWithContext(context.Background(), "POST", l.local(address), strings.NewReader(text))
	if err != nil {
		l.t.Fatal(err)
	}
	req.Header.Set("Content-Type", kind)
	r := l.browser().do(req)
	var answer obj
	if err := json.Unmarshal([]byte(r.body), &answer); err != nil {
		l.t.Fatalf("%s: %d %s", address, r.status, r.body)
	}
	return r.status, r.header, answer
}

// client registers a client and returns its configuration.
func (l *lab) client(change obj) *oauth2.Config {
	l.t.Helper()
	meta := l.Anonymous().Do("GET", "/v1/auth_metadata", nil)
	body := obj{"client_name": "Example <b>App</b>", "client_uri": "https://example.com/", "redirect_uris": []string{callback},
		"grant_types": []string{"authorization_code", "refresh_token", grantDev}, "logo_uri": "https://example.com/logo.png"}
	for k, v := range change {
		body[k] = v
	}
	status, _, in := l.json(meta["registration_endpoint"].(string), body)
	if status != http.StatusCreated {
		l.t.Fatalf("register: %d %v", status, in)
	}
	return &oauth2.Config{ClientID: in["client_id"].(string), RedirectURL: callback, Scopes: strings.Fields(scope), Endpoint: oauth2.Endpoint{
		AuthURL: meta["authorization_endpoint"].(string), TokenURL: l.local(meta["token_endpoint"].(string)),
		DeviceAuthURL: l.local(meta["device_authorization_endpoint"].(string)), AuthStyle: oauth2.AuthStyleInParams,
	}}
}

// code walks through the pages and returns the parameters with which the browser comes back to the client.
func (l *lab) code(c *oauth2.Config, options ...oauth2.AuthCodeOption) url.Values {
	l.t.Helper()
	b := l.browser()
	done := b.submit(b.signIn(b.get(c.AuthCodeURL("the state", options...))), "step", "allow")
	to, err := url.Parse(done.header.Get("Location"))
	if err != nil || done.status != http.StatusSeeOther || !strings.HasPrefix(to.String(), callback) {
		l.t.Fatalf("%d %s %s", done.status, to, done.body)
	}
	if to.Fragment != "" {
		q, _ := url.ParseQuery(to.Fragment)
		return q
	}
	return to.Query()
}

func (l *lab) whoami(token string) (int, obj) {
	l.t.Helper()
	c := l.Anonymous()
	c.Token = token
	status, _, raw := c.Raw("GET", "/v3/account/whoami", nil)
	var answer obj
	_ = json.Unmarshal(raw, &answer)
	return status, answer
}

func TestClientSignsInThroughThePages(t *testing.T) {
	l := newLab(t)
	ctx, c, verifier := context.Background(), l.client(nil), oauth2.GenerateVerifier()
	back := l.code(c, oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("response_mode", "fragment"))
	if back.Get("state") != "the state" || back.Get("iss") == "" || back.Has("error") {
		t.Fatalf("%v", back)
	}
	first, err := c.Exchange(ctx, back.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil || first.TokenType != "Bearer" || first.Extra("scope") != scope {
		t.Fatalf("%+v, %v", first, err)
	}
	if status, me := l.whoami(first.AccessToken); status != 200 || me["user_id"] != "@alice:test" || me["device_id"] != "BROWSERDEVICE" {
		t.Errorf("%d %v", status, me)
	}
	refresh := func(token string) (*oauth2.Token, error) {
		return c.TokenSource(ctx, &oauth2.Token{RefreshToken: token, Expiry: time.Unix(1, 0)}).Token()
	}
	if _, err := refresh(first.RefreshToken); err != nil { // whose answer is lost
		t.Fatal(err)
	}
	second, err := refresh(first.RefreshToken)
	if err != nil {
		t.Fatalf("a refresh after a lost answer: %v", err)
	}
	if status, _ := l.whoami(second.AccessToken); status != 200 {
		t.Errorf("the new token: %d", status)
	}
	if _, err := refresh(first.RefreshToken); err == nil || !strings.Contains(err.Error(), "invalid_grant") {
		t.Errorf("reuse: %v", err)
	}
	if status, _ := l.whoami(second.AccessToken); status != 401 {
		t.Errorf("after reuse: %d", status)
	}
	if _, err := c.Exchange(ctx, back.Get("code"), oauth2.VerifierOption(verifier)); err == nil {
		t.Error("the code works twice")
	}
}

func TestRevocationSignsOut(t *testing.T) {
	l := newLab(t)
	c, verifier := l.client(nil), oauth2.GenerateVerifier()
	token, err := c.Exchange(context.Background(), l.code(c, oauth2.S256ChallengeOption(verifier)).Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	status, header, answer := l.json("/oauth2/revoke", url.Values{"token": {token.RefreshToken}})
	if status != 200 || header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("%d %v %v", status, answer, header)
	}
	if status, _ := l.whoami(token.AccessToken); status != 401 {
		t.Errorf("after revocation: %d", status)
	}
	if status, _, answer := l.json("/oauth2/revoke", url.Values{}); status != 400 || answer["error"] != "invalid_request" {
		t.Errorf("without a token: %d %v", status, answer)
	}
}

func TestDeviceIsConnectedByItsCode(t *testing.T) {
	l := newLab(t)
	c := l.client(nil)
	d, err := c.DeviceAuth(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	poll := url.Values{"grant_type": {grantDev}, "client_id": {c.ClientID}, "device_code": {d.DeviceCode}}
	if status, _, answer := l.json("/oauth2/token", poll); status != 400 || answer["error"] != "authorization_pending" {
		t.Errorf("%d %v", status, answer)
	}
	b := l.browser()
	page := b.signIn(b.get(d.VerificationURIComplete))
	for _, shown := range []string{d.UserCode, "127.0.0.1", "example.com", "@alice:test", "&lt;b&gt;"} {
		if !strings.Contains(page.body, shown) {
			t.Errorf("the page for consent lacks %s", shown)
		}
	}
	l.Advance(time.Minute)
	if status, _, answer := l.json("/oauth2/token", poll); status != 400 || answer["error"] != "authorization_pending" {
		t.Errorf("opening the page approves: %d %v", status, answer)
	}
	if done := b.submit(page, "step", "allow"); done.status != 200 || !strings.Contains(done.body, "is connected") {
		t.Fatalf("%d %s", done.status, done.body)
	}
	l.Advance(time.Minute)
	status, _, answer := l.json("/oauth2/token", poll)
	token, _ := answer["access_token"].(string)
	if who, _ := l.whoami(token); status != 200 || who != 200 {
		t.Errorf("%d %v, whoami %d", status, answer, who)
	}
	if typed := b.get("/oauth2/link"); !strings.Contains(typed.body, `name="user_code"`) {
		t.Errorf("the page for a code: %s", typed.body)
	}
	if wrong := b.get("/oauth2/link?user_code=BCDF-GHJK"); wrong.status != 404 || !strings.Contains(wrong.body, "no such code") {
		t.Errorf("a wrong code: %d %s", wrong.status, wrong.body)
	}
}

func TestConsentSaysWhoseDeviceIsTakenOver(t *testing.T) {
	l := newLab(t)
	const taken, again = "You have a device with this ID already", "with this client before"
	victim := l.signedInClient()
	victim.Do("PUT", "/v3/devices/BROWSERDEVICE", obj{"display_name": "Kitchen"})
	other := l.client(obj{"client_name": "Other App", "client_uri": "https://other.example.net/", "logo_uri": "https://other.example.net/logo.png", "redirect_uris": []string{"https://other.example.net/back"}})
	other.RedirectURL = "https://other.example.net/back"
	verifier := oauth2.GenerateVerifier()
	code, b := other.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier)), l.browser()
	page := b.signIn(b.get(code))
	page.has(taken, "Kitchen, Example &lt;b&gt;App&lt;/b&gt; (example.com)", "Last seen")
	d, err := other.DeviceAuth(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	linked := b.get(d.VerificationURIComplete)
	linked.has(taken, "Kitchen, Example &lt;b&gt;App&lt;/b&gt; (example.com)")
	if r := b.get(l.client(nil).AuthCodeURL("s", oauth2.S256ChallengeOption(verifier))); !strings.Contains(r.body, again) || strings.Contains(r.body, taken) {
		t.Errorf("the same client signs in again: %s", r.body)
	}
	fresh := *other
	fresh.Scopes = []string{"urn:matrix:client:api:*", "urn:matrix:client:device:ANOTHER"}
	if r := b.get(fresh.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier))); strings.Contains(r.body, taken) || strings.Contains(r.body, again) {
		t.Errorf("a new device: %s", r.body)
	}
	if status, _ := l.whoami(victim.Token); status != 200 {
		t.Errorf("opening the pages signs the device out: %d", status)
	}

	to, err := url.Parse(b.submit(page, "step", "allow").header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	first, err := other.Exchange(context.Background(), to.Query().Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	if status, _ := l.whoami(victim.Token); status != 401 {
		t.Errorf("the former session: %d", status)
	}
	b.submit(linked, "step", "allow")
	_, _, answer := l.json("/oauth2/token", url.Values{"grant_type": {grantDev}, "client_id": {other.ClientID}, "device_code": {d.DeviceCode}})
	second, _ := answer["access_token"].(string)
	if status, me := l.whoami(second); status != 200 || me["device_id"] != "BROWSERDEVICE" {
		t.Errorf("by device code: %d %v", status, me)
	}
	if status, _ := l.whoami(first.AccessToken); status != 401 {
		t.Errorf("the session before that: %d", status)
	}
}

func TestAuthorizationErrorsGoToTheClientOnlyIfItIsKnown(t *testing.T) {
	l := newLab(t)
	c, verifier, b := l.client(nil), oauth2.GenerateVerifier(), l.browser()
	pkce := oauth2.S256ChallengeOption(verifier)
	elsewhere := *c
	elsewhere.RedirectURL = "https://evil.example.org/"
	nobody := *c
	nobody.ClientID = "nobody"
	for name, address := range map[string]string{"open redirect": elsewhere.AuthCodeURL("s", pkce), "unknown client": nobody.AuthCodeURL("s", pkce)} {
		if r := b.get(address); r.status < 400 || r.status >= 500 || r.header.Get("Location") != "" || !strings.Contains(r.body, `role="alert"`) {
			t.Errorf("%s: %d %s", name, r.status, r.header.Get("Location"))
		}
	}
	for name, address := range map[string]string{
		"no PKCE":        c.AuthCodeURL("s"),
		"PKCE downgrade": c.AuthCodeURL("s", oauth2.SetAuthURLParam("code_challenge", verifier), oauth2.SetAuthURLParam("code_challenge_method", "plain")),
		"missing state":  c.AuthCodeURL("", pkce),
	} {
		r := b.get(address)
		if to := r.header.Get("Location"); r.status != 303 || !strings.HasPrefix(to, callback+"?") || !strings.Contains(to, "error=invalid_request") {
			t.Errorf("%s: %d %s", name, r.status, to)
		}
	}
	denied := b.submit(b.signIn(b.get(c.AuthCodeURL("s", pkce))), "step", "deny")
	if to := denied.header.Get("Location"); !strings.Contains(to, "error=access_denied") || !strings.Contains(to, "state=s") {
		t.Errorf("denied: %s", to)
	}
}

func TestCodeOfOneClientIsWorthlessToAnother(t *testing.T) {
	l := newLab(t)
	c, other, verifier := l.client(nil), l.client(obj{"client_name": "Other"}), oauth2.GenerateVerifier()
	code := l.code(c, oauth2.S256ChallengeOption(verifier)).Get("code")
	if _, err := other.Exchange(context.Background(), code, oauth2.VerifierOption(verifier)); err == nil {
		t.Error("another client got tokens")
	}
	if _, err := c.Exchange(context.Background(), code, oauth2.VerifierOption(oauth2.GenerateVerifier())); err == nil {
		t.Error("another verifier got tokens")
	}
}

func TestFormsOfOtherWebsitesAreRefused(t *testing.T) {
	l := newLab(t)
	c := l.client(nil)
	address := c.AuthCodeURL("s", oauth2.S256ChallengeOption(oauth2.GenerateVerifier()))
	victim, attacker := l.browser(), l.browser()
	page := victim.signIn(victim.get(address))
	to, f := page.form()
	foreign := attacker.signIn(attacker.get(address))
	_, theirs := foreign.form()
	refused := func(name string, r reply) {
		t.Helper()
		if r.status != 403 || r.header.Get("Location") != "" {
			t.Errorf("%s: %d %s", name, r.status, r.header.Get("Location"))
		}
	}
	refused("no token", victim.post(to, url.Values{"step": {"allow"}}))
	refused("the token of another browser", victim.post(to, url.Values{"step": {"allow"}, "csrf": {theirs.Get("csrf")}}))
	f.Set("step", "allow")
	refused("another origin", victim.post(to, f, "Origin", "https://evil.example.org"))
	refused("an opaque origin", victim.post(to, f, "Origin", "null"))
	refused("another site", victim.post(to, f, "Sec-Fetch-Site", "cross-site"))
	login := url.Values{"user": {"alice"}, "password": {testserver.Password()}, "sign": {"password"}}
	refused("signing in without a form", l.browser().post(address, login))
	if r := victim.post(to, f, "Origin", l.URL, "Sec-Fetch-Site", "same-origin"); r.status != 303 {
		t.Errorf("the page's own form: %d", r.status)
	}
}

func TestSigningInChangesTheCookie(t *testing.T) {
	l := newLab(t)
	address := l.client(nil).AuthCodeURL("s", oauth2.S256ChallengeOption(oauth2.GenerateVerifier()))
	b := l.browser()
	home, _ := url.Parse(l.URL)
	b.http.Jar.SetCookies(home, []*http.Cookie{{Name: "ebb_session", Value: "fixed", Path: "/"}})
	page := b.get(address)
	in := b.submit(page, "user", "alice", "password", testserver.Password())
	session := ""
	for _, text := range in.header.Values("Set-Cookie") {
		if value, found := strings.CutPrefix(text, "ebb_session="); found {
			session = value
		}
	}
	if session == "" || strings.HasPrefix(session, "fixed") || !strings.Contains(session, "HttpOnly") || !strings.Contains(session, "SameSite=Lax") {
		t.Errorf("the cookie is %q", session)
	}
	thief := l.browser()
	thief.http.Jar.SetCookies(home, []*http.Cookie{{Name: "ebb_session", Value: "fixed", Path: "/"}})
	if r := thief.get(address); !strings.Contains(r.body, `name="password"`) {
		t.Error("a cookie that was set before is signed in")
	}
	if out := b.submit(b.get(address), "step", "other"); out.status != 303 || !strings.Contains(b.get(address).body, `name="password"`) {
		t.Error("another account cannot be used")
	}
}

func TestPagesCannotBeFramedAndLoadNothing(t *testing.T) {
	l := newSecondLab(t, gate.Policy{MFA: gate.Optional})
	address := l.client(nil).AuthCodeURL("s", oauth2.S256ChallengeOption(oauth2.GenerateVerifier()))
	b := l.browser()
	in := b.get(address)
	for name, r := range map[string]reply{"sign in": in, "consent": b.signIn(in), "link": b.get("/oauth2/link"), "error": b.get("/oauth2/authorize")} {
		csp := r.header.Get("Content-Security-Policy")
		if !strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, "default-src 'none'") || r.header.Get("X-Frame-Options") != "DENY" {
			t.Errorf("%s: %q", name, csp)
		}
		if scripts := strings.Contains(r.body, "<script"); scripts != (name == "sign in") || scripts != strings.Contains(csp, "script-src 'nonce-") {
			t.Errorf("%s: scripts: %v, %q", name, scripts, csp)
		}
		if strings.Contains(r.body, "src=") || strings.Contains(r.body, "logo.png") || r.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s loads something or may be read by other websites", name)
		}
		if want := " https://app.example.com"; strings.Contains(csp, want) != (name == "consent") {
			t.Errorf("%s: targets of forms: %q", name, csp)
		}
	}
}

func TestWrongPasswordsAndUnknownNamesLookAlike(t *testing.T) {
	l := newLab(t)
	address := l.client(nil).AuthCodeURL("s", oauth2.S256ChallengeOption(oauth2.GenerateVerifier()))
	var pages []string
	for _, user := range []string{"alice", "nobody"} {
		b := l.browser()
		r := b.submit(b.get(address), "user", user, "password", "wrong")
		if r.status != 403 {
			t.Errorf("%s: %d", user, r.status)
		}
		body := regexp.MustCompile(`nonce="[^"]*"|name="csrf" value="[^"]*"`).ReplaceAllString(r.body, "")
		pages = append(pages, strings.ReplaceAll(body, `value="`+user+`"`, ""))
	}
	if pages[0] != pages[1] {
		t.Error("the pages differ")
	}
}

func TestMetadataIsTheSameEverywhere(t *testing.T) {
	l := newLab(t)
	want := l.Anonymous().Do("GET", "/v1/auth_metadata", nil)
	for _, path := range []string{"/unstable/org.matrix.msc2965/auth_metadata", "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"} {
		if got := l.Anonymous().Do("GET", path, nil); len(got) != len(want) || got["issuer"] != want["issuer"] {
			t.Errorf("%s: %v", path, got)
		}
	}
	if got := l.Anonymous().Do("GET", "/unstable/org.matrix.msc2965/auth_issuer", nil); got["issuer"] == nil || got["issuer"] != want["issuer"] {
		t.Errorf("auth_issuer: %v", got)
	}
	if want["code_challenge_methods_supported"].([]any)[0] != "S256" || want["device_authorization_endpoint"] == nil {
		t.Errorf("%v", want)
	}
	for _, body := range []url.Values{{"grant_type": {"password"}}, {"grant_type": {"authorization_code", "refresh_token"}}, {}} {
		if status, header, answer := l.json("/oauth2/token", body); status != 400 || answer["error"] == nil || header.Get("Cache-Control") != "no-store" {
			t.Errorf("%v: %d %v", body, status, answer)
		}
	}
}

func TestThereAreNoPagesUnlessOAuthIsOn(t *testing.T) {
	s := testserver.New(t, func(c *config.Config) { c.OAuth.Enabled = false })
	for _, path := range []string{"/v1/auth_metadata", "/.well-known/openid-configuration"} {
		s.Anonymous().Refused("GET", path, nil, 404, "M_UNRECOGNIZED")
	}
	l := &lab{Server: s, t: t}
	for _, path := range []string{"/oauth2/authorize", "/oauth2/link"} {
		if r := l.browser().get(path); r.status != 404 {
			t.Errorf("%s: %d", path, r.status)
		}
	}
}

func TestErrorPagesSayHowToContinue(t *testing.T) {
	b := newLab(t).browser()
	const toAccount = `href="/_ebb/account"`
	if r := b.get("/_ebb/account/notme?token=old"); r.status != 404 || !strings.Contains(r.body, toAccount) {
		t.Errorf("an old link: %d %s", r.status, r.body)
	}
	if r := b.get("/oauth2/authorize?client_id=nobody"); r.status != 401 || strings.Contains(r.body, toAccount) || !strings.Contains(r.body, "Go back to it") {
		t.Errorf("an unknown client: %d %s", r.status, r.body)
	}
}
