package web_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"ebb/accounts/gate"
	"ebb/config"
	"ebb/internal/mailsink"
	"ebb/internal/oidctest"
	"ebb/internal/testserver"
)

const callbackOffice = "http://localhost:8008/oauth2/upstream/office/callback"

// newProviderLab returns a server whose users can sign in by a provider called office.
func newProviderLab(t *testing.T, issuer, clientID string, policy gate.Policy, change func(*config.Config)) *lab {
	t.Helper()
	l := &lab{Server: testserver.NewWithPolicy(t, policy, func(c *config.Config) {
		pages(c)
		c.Auth.Providers = []config.Provider{{ID: "office", Name: "Office", Issuer: issuer, ClientID: clientID, ClientSecret: oidctest.Secret, Localpart: "{{.preferred_username}}", CreateAccounts: true}}
		if change != nil {
			change(c)
		}
	}), t: t}
	l.Advance(time.Since(l.Now())) // providers use the clock of the machine
	return l
}

// control runs a command of the administrator and returns its result as JSON.
func (l *lab) control(name string, args obj) string {
	l.t.Helper()
	raw, err := json.Marshal(args)
	if err != nil {
		l.t.Fatal(err)
	}
	answer, err := l.Control(l.t.Context(), name, raw)
	if err != nil {
		l.t.Fatal(err)
	}
	if raw, err = json.Marshal(answer); err != nil {
		l.t.Fatal(err)
	}
	return string(raw)
}

// provider opens an address of a provider.
func (b *browser) provider(method, address string, f url.Values) (status int, to string) {
	b.l.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, address, strings.NewReader(f.Encode()))
	if err != nil {
		b.l.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := b.http.Do(req)
	if err != nil {
		b.l.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	where, err := resp.Location()
	if err != nil {
		return resp.StatusCode, ""
	}
	return resp.StatusCode, where.String()
}

// begin leads the browser from the page for signing in to a provider, and returns the address there.
func (b *browser) begin(page reply, name string) string {
	b.l.t.Helper()
	for _, part := range strings.Split(page.body, `href="`)[1:] {
		to, rest, _ := strings.Cut(part, `"`)
		if strings.HasPrefix(rest, ">Sign in with "+name+"<") {
			r := b.get(strings.ReplaceAll(to, "&amp;", "&"))
			if r.status != http.StatusSeeOther {
				b.l.t.Fatalf("%s does not lead to a provider: %d %s", to, r.status, r.body)
			}
			return r.header.Get("Location")
		}
	}
	b.l.t.Fatalf("%s is not offered: %s", name, page.body)
	return ""
}

// signInReal signs in at a real provider and returns the address to which it sends the browser.
func (b *browser) signInReal(address string) string {
	b.l.t.Helper()
	_, login := b.provider("GET", address, nil)
	u, err := url.Parse(login)
	if err != nil || u.Path != "/login/username" {
		b.l.t.Fatalf("the provider sends the browser to %s", login)
	}
	id := u.Query().Get("authRequestID")
	u.RawQuery = ""
	_, to := b.provider("POST", u.String(), url.Values{"username": {oidctest.Username}, "password": {oidctest.Password}, "id": {id}})
	_, back := b.provider("GET", to, nil)
	if !strings.HasPrefix(back, callbackOffice+"?") {
		b.l.t.Fatalf("the provider sends the browser to %s", back)
	}
	return back
}

// atFake signs in at a fake provider, and returns the address to which it sends the browser.
func (b *browser) atFake(address string) string {
	b.l.t.Helper()
	_, back := b.provider("GET", address, nil)
	if back == "" {
		b.l.t.Fatalf("the provider does not answer %s", address)
	}
	return back
}

// tokenOf lets a client sign in in a browser whose user is signed in, and returns its access token.
func (l *lab) tokenOf(b *browser) string {
	l.t.Helper()
	c, verifier := l.client(nil), oauth2.GenerateVerifier()
	scopes := strings.ReplaceAll(scope, "BROWSERDEVICE", "D"+strings.ReplaceAll(verifier[:10], "_", "-"))
	page := b.get(c.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("scope", scopes)))
	if !page.consents() {
		l.t.Fatalf("no consent: %d %s", page.status, page.body)
	}
	to, err := url.Parse(b.submit(page, "step", "allow").header.Get("Location"))
	if err != nil {
		l.t.Fatal(err)
	}
	token, err := c.Exchange(l.t.Context(), to.Query().Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		l.t.Fatal(err)
	}
	return token.AccessToken
}

func TestUserOfAProviderGetsAnAccountAndSignsInAgain(t *testing.T) {
	p := oidctest.NewReal(t, "create", callbackOffice)
	l := newProviderLab(t, p.Issuer, p.ClientID, gate.Policy{}, func(c *config.Config) { c.Registration.Mode = "closed" })
	b := l.browser()
	r := b.get(b.signInReal(b.begin(b.get(l.authorize()), "Office")))
	page := b.follow(r)
	if !strings.Contains(page.body, "@test-user2:test") {
		t.Fatalf("no account is proposed: %d %s", page.status, page.body)
	}
	if consent := b.follow(b.submit(page)); !consent.consents() || !strings.Contains(consent.body, "@test-user2:test") {
		t.Fatalf("%d %s", consent.status, consent.body)
	}
	if _, me := l.whoami(l.tokenOf(b)); me["user_id"] != "@test-user2:test" {
		t.Errorf("%v", me)
	}
	if p := l.Anonymous().Do("GET", "/v3/profile/@test-user2:test", nil); p["displayname"] != "Test User2" {
		t.Errorf("%v", p)
	}
	b = l.browser() // another one
	if consent := b.follow(b.get(b.signInReal(b.begin(b.get(l.authorize()), "Office")))); !consent.consents() {
		t.Errorf("the second time: %d %s", consent.status, consent.body)
	}
	if ids := l.control("user identities", obj{"user": "test-user2"}); !strings.Contains(ids, `"issuer":"`+p.Issuer+`","subject":"`+oidctest.Subject+`"`) {
		t.Error(ids)
	}
}

func TestExistingAccountIsLinkedAfterItsPassword(t *testing.T) {
	p := oidctest.NewReal(t, "link", callbackOffice)
	l := newProviderLab(t, p.Issuer, p.ClientID, gate.Policy{}, nil)
	l.Register("alice")
	b := l.browser()
	page := b.follow(b.get(b.signInReal(b.begin(b.get(l.authorize()), "Office"))))
	link := b.get("/oauth2/upstream/new?link=1")
	if link.shows("password") == false || page.status != http.StatusOK {
		t.Fatalf("no password is asked for: %s", link.body)
	}
	if wrong := b.step(link, "password", "user", "alice", "password", "wrong"); wrong.status != http.StatusForbidden {
		t.Errorf("a wrong password: %d", wrong.status)
	}
	ask := b.follow(b.step(link, "password", "user", "alice", "password", testserver.Password()))
	if !strings.Contains(ask.body, "@alice:test") {
		t.Fatalf("%d %s", ask.status, ask.body)
	}
	if ids := l.control("user identities", obj{"user": "alice"}); ids != "[]" {
		t.Errorf("linked before the user has agreed: %s", ids)
	}
	if done := b.follow(b.submit(ask)); !done.consents() {
		t.Errorf("%d %s", done.status, done.body)
	}
	b = l.browser()
	if consent := b.follow(b.get(b.signInReal(b.begin(b.get(l.authorize()), "Office")))); !strings.Contains(consent.body, "@alice:test") {
		t.Errorf("%d %s", consent.status, consent.body)
	}
}

func TestLogoutAtTheProviderEndsItsSessionsOnly(t *testing.T) {
	p := oidctest.NewReal(t, "logout", callbackOffice)
	l := newProviderLab(t, p.Issuer, p.ClientID, gate.Policy{}, nil)
	b := l.browser()
	b.follow(b.submit(b.follow(b.get(b.signInReal(b.begin(b.get(l.authorize()), "Office"))))))
	token := l.tokenOf(b)
	l.control("user passwd", obj{"user": "test-user2", "password": testserver.Password()})
	other := l.Login("test-user2").Token // by a password
	logout := func(token string) int {
		return l.browser().post("/oauth2/upstream/office/logout", url.Values{"logout_token": {token}}).status
	}
	for name, claims := range map[string]map[string]any{
		"nobody": {}, "an event of another kind": {"sub": oidctest.Subject, "events": map[string]any{"x": 1}}, "a nonce": {"sub": oidctest.Subject, "nonce": "x"},
		"another client": {"sub": oidctest.Subject, "aud": "other"}, "another issuer": {"sub": oidctest.Subject, "iss": "https://other.example"},
		"expired": {"sub": oidctest.Subject, "exp": time.Now().Add(-time.Hour).Unix()}, "old": {"sub": oidctest.Subject, "iat": time.Now().Add(-time.Hour).Unix()},
		"no ID": {"sub": oidctest.Subject, "jti": nil}, "no expiry": {"sub": oidctest.Subject, "exp": nil},
	} {
		if status := logout(p.LogoutToken(t, claims)); status != http.StatusBadRequest {
			t.Errorf("%s: %d", name, status)
		}
	}
	for _, bad := range []string{"", "x.y.z", oidctest.Unsigned(map[string]any{"sub": oidctest.Subject})} {
		if status := logout(bad); status != http.StatusBadRequest {
			t.Errorf("%q: %d", bad, status)
		}
	}
	if status := logout(p.LogoutToken(t, map[string]any{"sub": "somebody else"})); status != http.StatusOK {
		t.Errorf("somebody who was never here: %d", status)
	}
	if status, _ := l.whoami(token); status != http.StatusOK {
		t.Fatalf("the session has ended too early: %d", status)
	}
	good := p.LogoutToken(t, map[string]any{"sub": oidctest.Subject})
	if status := logout(good); status != http.StatusOK {
		t.Fatalf("logout: %d", status)
	}
	if status, _ := l.whoami(token); status != http.StatusUnauthorized {
		t.Errorf("the session goes on: %d", status)
	}
	if status, _ := l.whoami(other); status != http.StatusOK {
		t.Errorf("a session that did not come from the provider: %d", status)
	}
	if page := b.get(l.authorize()); page.consents() {
		t.Error("the browser is still signed in")
	}
	if status := logout(good); status != http.StatusBadRequest {
		t.Errorf("the same token again: %d", status)
	}
}

func TestLogoutOfOneSessionAtTheProviderLeavesTheOthers(t *testing.T) {
	f := oidctest.NewFake(t, "ebb")
	l := newProviderLab(t, f.Issuer, f.ClientID, gate.Policy{}, nil)
	var tokens []string
	for _, sid := range []string{"one", "two"} {
		f.Claims = map[string]any{"sid": sid}
		b := l.browser()
		page := b.follow(b.get(b.atFake(b.begin(b.get(l.authorize()), "Office"))))
		if sid == "one" {
			b.follow(b.submit(page))
		}
		tokens = append(tokens, l.tokenOf(b))
	}
	for _, claims := range []map[string]any{{"sid": "three"}, {"sid": "one", "sub": "somebody else"}, {"sid": "one"}} {
		if r := l.browser().post("/oauth2/upstream/office/logout", url.Values{"logout_token": {f.LogoutToken(claims)}}); r.status != http.StatusOK {
			t.Errorf("%v: %d", claims, r.status)
		}
	}
	for i, want := range []int{http.StatusUnauthorized, http.StatusOK} {
		if status, _ := l.whoami(tokens[i]); status != want {
			t.Errorf("session %d: %d, want %d", i, status, want)
		}
	}
}

func TestResponsesOfProvidersAreChecked(t *testing.T) {
	f := oidctest.NewFake(t, "ebb")
	l := newProviderLab(t, f.Issuer, f.ClientID, gate.Policy{}, nil)
	hour := time.Hour
	for name, c := range map[string]struct {
		claims, userinfo map[string]any
		token            func(map[string]any) string
		good             bool
	}{
		"as it should be":            {good: true},
		"a clock 90 s behind":        {claims: map[string]any{"iat": time.Now().Add(90 * time.Second).Unix()}, good: true},
		"expired 90 s ago":           {claims: map[string]any{"exp": time.Now().Add(-90 * time.Second).Unix()}, good: true},
		"expired":                    {claims: map[string]any{"exp": time.Now().Add(-hour).Unix()}},
		"not valid yet":              {claims: map[string]any{"nbf": time.Now().Add(hour).Unix()}},
		"issued in the future":       {claims: map[string]any{"iat": time.Now().Add(hour).Unix()}},
		"another nonce":              {claims: map[string]any{"nonce": "x"}},
		"no nonce":                   {claims: map[string]any{"nonce": nil}},
		"another issuer":             {claims: map[string]any{"iss": "https://other.example"}},
		"another audience":           {claims: map[string]any{"aud": "other"}},
		"two audiences":              {claims: map[string]any{"aud": []string{"ebb", "other"}}},
		"two audiences, ours":        {claims: map[string]any{"aud": []string{"ebb", "other"}, "azp": "ebb"}, good: true},
		"another party":              {claims: map[string]any{"azp": "other"}},
		"no subject":                 {claims: map[string]any{"sub": nil}},
		"userinfo without a subject": {userinfo: map[string]any{"sub": nil}},
		"userinfo about another":     {userinfo: map[string]any{"sub": "other"}},
		"alg none":                   {token: oidctest.Unsigned},
		"HS256 with our secret":      {token: func(c map[string]any) string { return f.SignHS256(oidctest.Secret+strings.Repeat("x", 32), c) }},
		"another key":                {token: f.SignWithAnotherKey},
		"no token":                   {token: func(map[string]any) string { return "" }},
		"megabytes":                  {token: func(map[string]any) string { return strings.Repeat("x", 2<<20) }},
	} {
		f.Claims, f.Userinfo, f.IDToken = c.claims, c.userinfo, c.token
		b := l.browser()
		r := b.get(b.atFake(b.begin(b.get(l.authorize()), "Office")))
		if good := r.status == http.StatusSeeOther; good != c.good || !good && r.status != http.StatusForbidden && r.status != http.StatusBadGateway {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	if n := f.KeyRequests(); n > 5 {
		t.Errorf("the keys were fetched %d times", n)
	}
}

func TestResponsesBelongToOneBrowserOneProviderAndOneUse(t *testing.T) {
	f, g := oidctest.NewFake(t, "ebb"), oidctest.NewFake(t, "ebb")
	l := newProviderLab(t, f.Issuer, f.ClientID, gate.Policy{}, func(c *config.Config) {
		other := c.Auth.Providers[0]
		other.ID, other.Name, other.Issuer = "branch", "Branch", g.Issuer
		c.Auth.Providers = append(c.Auth.Providers, other)
	})
	refused := func(name string, r reply) {
		t.Helper()
		if r.status != http.StatusForbidden || strings.Contains(r.header.Get("Set-Cookie"), "ebb_session") {
			t.Errorf("%s: %d %v %s", name, r.status, r.header, r.body)
		}
	}
	b := l.browser()
	back := b.atFake(b.begin(b.get(l.authorize()), "Office"))
	refused("another browser", l.browser().get(back))
	refused("another provider", b.get(strings.Replace(back, "/office/", "/branch/", 1)))
	refused("an issuer that is another", b.get(back+"&iss="+url.QueryEscape(g.Issuer)))
	changed, _ := url.Parse(back)
	q := changed.Query()
	for name, change := range map[string]func(){"no state": func() { q.Del("state") }, "another state": func() { q.Set("state", "x") }} {
		change()
		changed.RawQuery = q.Encode()
		refused(name, b.get(changed.String()))
	}
	// A code of the one provider at the other: the browser was sent to the one, and comes back from the other.
	theirs, _ := url.Parse(b.atFake(b.begin(b.get(l.authorize()), "Branch")))
	q, _ = url.ParseQuery(changed.RawQuery)
	ours, _ := url.Parse(back)
	mixed := ours.Query()
	mixed.Set("code", theirs.Query().Get("code"))
	ours.RawQuery = mixed.Encode()
	refused("a code of another provider", b.get(ours.String()))
	refused("an error", b.get(strings.Replace(back, "code=", "error=access_denied&x=", 1)))

	jar := b.http.Jar
	kept := jar.Cookies(mustParse(t, l.URL))
	if r := b.get(back); r.status != http.StatusSeeOther {
		t.Fatalf("the response itself: %d %s", r.status, r.body)
	}
	for _, c := range kept {
		c.Path = "/"
	}
	again := l.browser()
	again.http.Jar.SetCookies(mustParse(t, l.URL), kept)
	refused("the same response again, with the cookies of before", again.get(back))
}

func mustParse(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestTwoTabsSignInByProvidersAtOnce(t *testing.T) {
	f := oidctest.NewFake(t, "ebb")
	l := newProviderLab(t, f.Issuer, f.ClientID, gate.Policy{}, nil)
	b := l.browser()
	one, two := b.atFake(b.begin(b.get(l.authorize()), "Office")), b.atFake(b.begin(b.get(l.authorize()), "Office"))
	for _, back := range []string{one, two} {
		if r := b.get(back); r.status != http.StatusSeeOther {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
}

func TestTwoBrowsersLinkOneIdentityOnce(t *testing.T) {
	f := oidctest.NewFake(t, "ebb")
	l := newProviderLab(t, f.Issuer, f.ClientID, gate.Policy{}, nil)
	var wg sync.WaitGroup
	results, ready := make([]reply, 2), make(chan struct{})
	for i, name := range []string{"alice", "bob"} {
		l.Register(name)
		b := l.browser()
		b.follow(b.get(b.atFake(b.begin(b.get(l.authorize()), "Office"))))
		page := b.follow(b.step(b.get("/oauth2/upstream/new?link=1"), "password", "user", name, "password", testserver.Password()))
		wg.Go(func() {
			<-ready
			results[i] = b.submit(page)
		})
	}
	close(ready)
	wg.Wait()
	if (results[0].status == http.StatusSeeOther) == (results[1].status == http.StatusSeeOther) {
		t.Errorf("%d and %d", results[0].status, results[1].status)
	}
}

func TestProviderThatIsDownLeavesOtherWaysToSignIn(t *testing.T) {
	for name, serve := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"broken":    func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(500); return true },
		"garbage":   func(w http.ResponseWriter, _ *http.Request) bool { _, _ = w.Write([]byte("<html>")); return true },
		"megabytes": func(w http.ResponseWriter, _ *http.Request) bool { _, _ = w.Write(make([]byte, 8<<20)); return true },
		"elsewhere": func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
			return true
		},
		"imposter": func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = w.Write([]byte(`{"issuer":"https://other.example","authorization_endpoint":"https://other.example/a","token_endpoint":"https://other.example/t","jwks_uri":"https://other.example/k"}`))
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := oidctest.NewFake(t, "ebb")
			f.Serve = serve
			l := newProviderLab(t, f.Issuer, f.ClientID, gate.Policy{}, nil)
			l.Register("alice")
			b := l.browser()
			r := b.get("/oauth2/upstream/office/start?to=" + url.QueryEscape("/oauth2/link"))
			if r.status != http.StatusBadGateway || !strings.Contains(r.body, "Office cannot be used at the moment") {
				t.Errorf("%d %s", r.status, r.body)
			}
			if page := b.follow(b.signIn(b.get(l.authorize()))); !page.consents() {
				t.Errorf("by the password: %d %s", page.status, page.body)
			}
			f.Serve = nil
			if address := b.begin(l.browser().get(l.authorize()), "Office"); address == "" {
				t.Error("the provider works again, but is not used")
			}
		})
	}
}

func TestProvidersOpenNoLockedOrClosedAccount(t *testing.T) {
	f := oidctest.NewFake(t, "ebb")
	l := newProviderLab(t, f.Issuer, f.ClientID, gate.Policy{}, nil)
	b := l.browser()
	b.follow(b.submit(b.follow(b.get(b.atFake(b.begin(b.get(l.authorize()), "Office"))))))
	l.control("user lock", obj{"user": "dora"})
	b = l.browser()
	if r := b.get(b.atFake(b.begin(b.get(l.authorize()), "Office"))); r.status != http.StatusForbidden || !strings.Contains(r.body, "locked") {
		t.Errorf("locked: %d %s", r.status, r.body)
	}
	l.control("user deactivate", obj{"user": "dora"})
	page := b.follow(b.get(b.atFake(b.begin(b.get(l.authorize()), "Office"))))
	if r := b.submit(page); r.status != http.StatusBadRequest { // the name is never given again
		t.Errorf("closed: %d %s", r.status, r.body)
	}
}

func TestNamesOfNewAccountsAreStrict(t *testing.T) {
	f := oidctest.NewFake(t, "ebb")
	l := newProviderLab(t, f.Issuer, f.ClientID, gate.Policy{}, nil)
	l.Register("alice")
	for name, status := range map[string]int{"alice": 400, "Dora": 400, "d ora": 400, "döra": 400, "@dora:test": 400, "dora<script>": 400} {
		f.Claims, f.Userinfo = map[string]any{"preferred_username": name, "sub": name}, map[string]any{"sub": name}
		b := l.browser()
		page := b.follow(b.get(b.atFake(b.begin(b.get(l.authorize()), "Office"))))
		if strings.Contains(page.body, "<script>") {
			t.Error("a claim is not escaped")
		}
		if r := b.submit(page); r.status != status {
			t.Errorf("%q: %d %s", name, r.status, r.body)
		}
	}
	f.Claims, f.Userinfo = map[string]any{"preferred_username": nil, "sub": "who chooses"}, map[string]any{"sub": "who chooses"} // the template gives nothing
	b := l.browser()
	page := b.follow(b.get(b.atFake(b.begin(b.get(l.authorize()), "Office"))))
	if r := b.follow(b.submit(page, "user", "emil")); !r.consents() || !strings.Contains(r.body, "@emil:test") {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestAccountsAreCreatedOnlyIfConfigured(t *testing.T) {
	f := oidctest.NewFake(t, "ebb")
	l := newProviderLab(t, f.Issuer, f.ClientID, gate.Policy{}, func(c *config.Config) { c.Auth.Providers[0].CreateAccounts = false })
	b := l.browser()
	page := b.follow(b.get(b.atFake(b.begin(b.get(l.authorize()), "Office"))))
	if strings.Contains(page.body, "Create an account") {
		t.Error("an account can be created")
	}
	// With a form of another page of the same browser.
	_, form := b.get(l.authorize()).form("password")
	if r := b.post("/oauth2/upstream/new", url.Values{"csrf": form["csrf"]}); r.status != http.StatusForbidden {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := b.post("/oauth2/upstream/new", url.Values{"csrf": {"x"}}); r.status != http.StatusForbidden {
		t.Errorf("a form of another website: %d", r.status)
	}
}

func TestSecondFactorIsThatOfTheProviderOnlyIfItStatesOne(t *testing.T) {
	f := oidctest.NewFake(t, "ebb")
	l := newProviderLab(t, f.Issuer, f.ClientID, gate.Policy{MFA: gate.Required}, func(c *config.Config) { c.Auth.Providers[0].SecondFactor.AMR = []string{"mfa"} })
	try := func(claims map[string]any) reply {
		f.Claims = claims
		b := l.browser()
		page := b.follow(b.get(b.atFake(b.begin(b.get(l.authorize()), "Office"))))
		if strings.Contains(page.body, "Create an account") {
			page = b.follow(b.submit(page))
		}
		return page
	}
	if page := try(map[string]any{"amr": []string{"pwd"}}); page.consents() {
		t.Error("one factor is enough")
	}
	if page := try(map[string]any{"amr": []string{"pwd", "mfa"}}); !page.consents() {
		t.Errorf("two factors: %d %s", page.status, page.body)
	}
	f.Userinfo = map[string]any{"amr": []string{"mfa"}} // which is not signed
	if page := try(map[string]any{"amr": []string{"pwd"}}); page.consents() {
		t.Error("userinfo states a second factor")
	}
}

func TestProvidersLeadNowhereElse(t *testing.T) {
	f := oidctest.NewFake(t, "ebb")
	l := newProviderLab(t, f.Issuer, f.ClientID, gate.Policy{}, nil)
	b := l.browser()
	b.follow(b.submit(b.follow(b.get(b.atFake(b.begin(b.get(l.authorize()), "Office"))))))
	for _, to := range []string{"https://evil.example/", "//evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)", "", "/a\nb", "http:evil.example"} {
		b := l.browser()
		r := b.get(b.atFake(b.get("/oauth2/upstream/office/start?to=" + url.QueryEscape(to)).header.Get("Location")))
		if where := r.header.Get("Location"); where != "/oauth2/link" {
			t.Errorf("%q leads to %q", to, where)
		}
	}
	if r := b.get("/oauth2/upstream/nobody/start"); r.status != http.StatusNotFound {
		t.Errorf("an unknown provider: %d", r.status)
	}
}

func TestClientsOfSingleSignOnChooseAProvider(t *testing.T) {
	f := oidctest.NewFake(t, "ebb")
	l := newProviderLab(t, f.Issuer, f.ClientID, gate.Policy{}, func(c *config.Config) { c.Auth.Providers[0].Brand = "keycloak" })
	flows := l.Anonymous().Do("GET", "/v3/login", nil)
	if got := testserver.Get(flows, "flows", 0, "identity_providers", 0); testserver.Get(got, "id") != "office" || testserver.Get(got, "name") != "Office" || testserver.Get(got, "brand") != "keycloak" {
		t.Errorf("%v", flows)
	}
	b := l.browser()
	redirect := "/_matrix/client/v3/login/sso/redirect/"
	r := b.get(redirect + "office?redirectUrl=" + url.QueryEscape("https://app.example.com/"))
	start := b.get(r.header.Get("Location"))
	page := b.follow(b.get(b.atFake(start.header.Get("Location"))))
	if consent := b.follow(b.submit(page)); !strings.Contains(consent.body, "app.example.com") || !consent.consents() {
		t.Errorf("%d %s", consent.status, consent.body)
	}
	if r := b.get(redirect + "nobody?redirectUrl=https://app.example.com/"); r.status != http.StatusNotFound {
		t.Errorf("an unknown provider: %d", r.status)
	}
}

func TestStepUpByAProviderNeedsAFreshSignInThere(t *testing.T) {
	f := oidctest.NewFake(t, "ebb")
	l := newProviderLab(t, f.Issuer, f.ClientID, gate.Policy{}, nil)
	try := func(authTime any) int {
		f.Claims = map[string]any{"auth_time": authTime}
		b := l.browser()
		return b.get(b.atFake(b.get("/oauth2/upstream/office/start?again=1&to=/oauth2/link").header.Get("Location"))).status
	}
	for name, c := range map[string]struct {
		authTime any
		status   int
	}{"now": {l.Now().Unix(), 303}, "an hour ago": {l.Now().Add(-time.Hour).Unix(), 403}, "unknown": {nil, 403}} {
		if status := try(c.authTime); status != c.status {
			t.Errorf("%s: %d", name, status)
		}
	}
}

func TestAccountsOfAProviderGetNoPasswordHere(t *testing.T) {
	p := oidctest.NewFake(t, "elsewhere")
	sink := mailsink.New(t, mailsink.Options{})
	l := newProviderLab(t, p.Issuer, p.ClientID, gate.Policy{}, func(c *config.Config) {
		c.Email.SMTP.Host, c.Email.SMTP.Port, c.Email.SMTP.TLS, c.Email.SMTP.From = sink.Host, sink.Port, "none", "Test <ebb@example.org>"
		c.Email.RevealAddresses = true
	})
	b := l.browser()
	b.follow(b.submit(b.follow(b.get(b.atFake(b.begin(b.get(l.authorize()), "Office"))))))
	again := b.get(accountPage + "/password")
	p.Claims = map[string]any{"auth_time": time.Now().Unix()}
	if again.shows("password") {
		t.Error("a password is asked for, which the account does not have")
	}
	page := b.follow(b.get(b.atFake(b.begin(again, "Office"))))
	page.has("you sign in with Office")
	if strings.Contains(page.body, `name="again"`) {
		t.Error("the page has a form for a password")
	}
	_, f := b.get(accountPage + "/profile").form()
	f.Set("step", "password")
	f.Set("password", "another long password")
	f.Set("again", "another long password")
	if r := b.post(accountPage+"/password", f); r.status != http.StatusForbidden {
		t.Errorf("a form sent nevertheless: %d", r.status)
	}
	c := l.Anonymous()
	c.Token = l.tokenOf(b)
	if can := testserver.Get(c.Do("GET", "/v3/capabilities", nil), "capabilities", "m.change_password", "enabled"); can != false {
		t.Errorf("m.change_password is %v", can)
	}
	// The account has the address that the provider has verified.
	other := l.browser()
	other.step(other.get(l.authorize()+"&sign=reset"), "email", "email", "user@example.org")
	if m := sink.Next(); strings.Contains(m.Text, "/email/verify") || !strings.Contains(m.Text, "you sign in with Office") {
		t.Errorf("the e-mail: %s", m.Text)
	}
	l.control("user passwd", obj{"user": "dora", "password": "another long password"}) // an administrator can
	if r := l.browser(); !r.step(r.get(l.authorize()), "password", "user", "dora", "password", "another long password").consents() {
		t.Error("the password of an administrator does not sign in")
	}
}

func TestDisavowingEndsIdentitiesLinkedSince(t *testing.T) {
	p := oidctest.NewFake(t, "disavow")
	l := newProviderLab(t, p.Issuer, p.ClientID, gate.Policy{}, nil)
	alice := l.Register("alice")
	l.control("user link", obj{"user": "alice", "issuer": p.Issuer, "subject": "alice's own"})
	l.control("user link", obj{"user": "alice", "issuer": "https://gone.example.org", "subject": "former"})
	l.Advance(time.Minute)
	thief := l.Login("alice")
	l.Advance(time.Minute)
	l.control("user link", obj{"user": "alice", "issuer": p.Issuer, "subject": "the thief's"})
	b := l.browser()
	page := b.get(l.disavowalOf(alice, thief.DeviceID))
	page.has("accounts at other services that were added since then")
	done := b.submit(page)
	done.has("Office (alice&#39;s own)", "no longer uses (former)", "old password can no longer be used")
	if strings.Contains(done.body, "thief") {
		t.Error("the identity of the thief is still listed")
	}
	if ids := l.control("user identities", obj{"user": "alice"}); strings.Contains(ids, "thief") || !strings.Contains(ids, "own") {
		t.Errorf("the identities are %s", ids)
	}
}

func TestNewUserOfAProviderSetsUpARequiredFactor(t *testing.T) {
	p := oidctest.NewFake(t, "required")
	l := newProviderLab(t, p.Issuer, p.ClientID, gate.Policy{MFA: gate.Required}, nil)
	b := l.browser()
	page := b.follow(b.submit(b.follow(b.get(b.atFake(b.begin(b.get(l.authorize()), "Office"))))))
	if !page.shows("totp") || page.consents() {
		t.Fatalf("%d %s", page.status, page.body)
	}
	b.setUp(b.step(page, "totp"))
	if in := b.get(l.authorize()); !in.consents() {
		t.Errorf("%d %s", in.status, in.body)
	}
}
