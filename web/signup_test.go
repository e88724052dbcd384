package web_test

import (
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"ebb/accounts/gate"
	"ebb/config"
	"ebb/internal/mailsink"
	"ebb/internal/testserver"
)

// newPostalLab is newLab with e-mail.
func newPostalLab(t *testing.T, change func(*config.Config)) (*lab, *mailsink.Sink) {
	t.Helper()
	sink := mailsink.New(t, mailsink.Options{})
	l := &lab{Server: testserver.New(t, func(c *config.Config) {
		pages(c)
		c.Email.SMTP.Host, c.Email.SMTP.Port, c.Email.SMTP.TLS, c.Email.SMTP.From = sink.Host, sink.Port, "none", "Test <ebb@example.org>"
		change(c)
	}), t: t}
	return l, sink
}

// createAddress returns the address of an authorization request that begins with a new account.
func (l *lab) createAddress() string {
	l.t.Helper()
	return l.client(nil).AuthCodeURL("s", oauth2.S256ChallengeOption(oauth2.GenerateVerifier()), oauth2.SetAuthURLParam("prompt", "create"))
}

// create sends the form for a new account.
func (b *browser) create(page reply, user string, fields ...string) reply {
	b.l.t.Helper()
	return b.step(page, "create", append([]string{"user", user, "password", testserver.Password(), "again", testserver.Password()}, fields...)...)
}

// confirm follows the link in an e-mail in another browser.
func (l *lab) confirm(m mailsink.Message) {
	l.t.Helper()
	found := regexp.MustCompile(`http://localhost:8008/_matrix/\S+`).FindString(m.Text)
	if found == "" {
		l.t.Fatalf("no link in %s", m.Text)
	}
	u, _ := url.Parse(found)
	if r := l.browser().post(found, u.Query()); r.status != 200 || !strings.Contains(r.body, "is confirmed") {
		l.t.Fatalf("confirm: %d %s", r.status, r.body)
	}
}

// addEmail gives a user an e-mail address.
func (l *lab) addEmail(sink *mailsink.Sink, user *testserver.Client, address string) {
	l.t.Helper()
	const secret = "a-client-secret"
	sid := l.Anonymous().Do("POST", "/v3/account/3pid/email/requestToken", obj{"client_secret": secret, "email": address, "send_attempt": 1})["sid"]
	l.confirm(sink.Next())
	user.Do("POST", "/v3/account/3pid/add", obj{"sid": sid, "client_secret": secret, "auth": obj{
		"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": user.User}, "password": testserver.Password()}})
}

func TestNewAccountIsCreatedOnThePages(t *testing.T) {
	l := newLab(t)
	b := l.browser()
	page := b.get(l.createAddress())
	if !page.shows("create") {
		t.Fatalf("prompt=create: %d %s", page.status, page.body)
	}
	for problem, fields := range map[string][]string{
		"do not match": {"again", "something else"}, "already in use": {"user", "alice"}, "must consist of": {"user", "no spaces"}, "must not be empty": {"password", "", "again", ""},
	} {
		if r := b.create(page, "bob", fields...); r.consents() || !r.shows("create") || !strings.Contains(r.body, problem) || r.status < 400 || r.status > 499 {
			t.Errorf("%s: %d %s", problem, r.status, r.body)
		}
	}
	in := b.create(page, "Bob")
	if !in.consents() || !strings.Contains(in.body, "@bob:test") {
		t.Fatalf("%d %s %v", in.status, in.body, in.header)
	}
	if r := l.browser().signInAs(l.authorize(), "bob"); !r.consents() {
		t.Errorf("the next sign-in: %d %s", r.status, r.body)
	}
	up := regexp.MustCompile(`href="([^"]*sign=up[^"]*)"`).FindStringSubmatch(l.browser().get(l.authorize()).body)
	if up == nil {
		t.Fatal("the page for signing in does not lead to that for a new account")
	}
	if r := l.browser().get(html.UnescapeString(up[1])); !r.shows("create") {
		t.Errorf("%d %s", r.status, r.body)
	}
}

// signInAs opens a page and signs a user in.
func (b *browser) signInAs(address, user string) reply {
	b.l.t.Helper()
	return b.step(b.get(address), "password", "user", user, "password", testserver.Password())
}

func TestPagesFollowTheRulesOfRegistration(t *testing.T) {
	closed := &lab{Server: testserver.New(t, func(c *config.Config) { pages(c); c.Registration.Mode = "closed" }), t: t}
	b := closed.browser()
	page := b.get(closed.createAddress())
	if page.shows("create") || !strings.Contains(page.body, "cannot be created") || strings.Contains(page.body, "sign=up") {
		t.Errorf("closed: %d %s", page.status, page.body)
	}
	to, f := page.form("password")
	f.Set("sign", "create")
	f.Set("user", "eve")
	f.Set("password", testserver.Password())
	f.Set("again", testserver.Password())
	if r := b.follow(b.post(to, f)); r.consents() {
		t.Error("an account was created although registration is closed")
	}

	l := &lab{Server: testserver.New(t, func(c *config.Config) {
		pages(c)
		c.Registration.Mode, c.Registration.Terms = "token", []config.Term{{ID: "terms", Name: "Our terms", URL: "https://example.org/terms"}}
	}), t: t}
	if _, err := l.Control(t.Context(), "token create", json.RawMessage(`{"token":"letmein","uses":1}`)); err != nil {
		t.Fatal(err)
	}
	b = l.browser()
	page = b.get(l.createAddress())
	if !strings.Contains(page.body, `href="https://example.org/terms"`) {
		t.Errorf("the terms are missing: %s", page.body)
	}
	for problem, fields := range map[string][]string{"registration token is unknown": {"token", "wrong", "terms", "1"}, "Accept the terms": {"token", "letmein"}} {
		if r := b.create(page, "bob", fields...); r.consents() || !strings.Contains(r.body, problem) || r.status != 403 {
			t.Errorf("%s: %d %s", problem, r.status, r.body)
		}
	}
	if r := b.create(page, "bob", "token", "letmein", "terms", "1"); !r.consents() {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if r := l.browser(); r.create(r.get(l.createAddress()), "carol", "token", "letmein", "terms", "1").consents() {
		t.Error("a token for one account created two")
	}
}

func TestNewAccountsOfOneNetworkAreLimited(t *testing.T) {
	l := &lab{Server: testserver.New(t, func(c *config.Config) {
		pages(c)
		c.RateLimits.Enabled, c.RateLimits.Registrations = true, config.Bucket{PerSecond: 0.001, Burst: 1}
	}), t: t}
	b := l.browser()
	address := l.createAddress()
	if r := b.create(b.get(address), "bob"); !r.consents() {
		t.Fatalf("%d %s", r.status, r.body)
	}
	b = l.browser()
	if r := b.create(b.get(address), "carol"); r.status != 429 || r.header.Get("Retry-After") == "" {
		t.Errorf("the second account: %d %s", r.status, r.body)
	}
}

func TestNewAccountSetsUpItsFactorAtOnceWhereOneIsRequired(t *testing.T) {
	l := newSecondLab(t, gate.Policy{MFA: gate.Required})
	b := l.browser()
	page := b.create(b.get(l.createAddress()), "bob")
	if page.consents() || !page.shows("totp") || page.shows("later") {
		t.Fatalf("%d %s", page.status, page.body)
	}
	app := b.setUp(b.step(page, "totp"))
	if in := b.get(l.authorize()); !in.consents() {
		t.Errorf("after setting it up: %d %s", in.status, in.body)
	}
	other := l.browser()
	if in := other.step(other.signInAs(l.authorize(), "bob"), "code", "code", app.next()); !in.consents() {
		t.Errorf("the next sign-in: %d %s", in.status, in.body)
	}
}

func TestSignUpIsCompletedInAnotherBrowserWithinADay(t *testing.T) {
	l := newSecondLab(t, gate.Policy{MFA: gate.Required})
	for _, user := range []string{"bob", "carol", "dave", "erin"} {
		b := l.browser() // which is closed before the second factor
		if page := b.create(b.get(l.createAddress()), user); !page.shows("totp") {
			t.Fatalf("%d %s", page.status, page.body)
		}
	}
	offered := func(user string) bool {
		t.Helper()
		r := l.browser().signInAs(l.authorize(), user)
		if r.consents() {
			t.Errorf("%s needs no second factor", user)
		}
		return r.shows("totp")
	}
	b := l.browser()
	app := b.setUp(b.step(b.signInAs(l.authorize(), "bob"), "totp"))
	if in := b.get(l.authorize()); !in.consents() || len(app.recovery) == 0 {
		t.Errorf("after setting it up: %d %s", in.status, in.body)
	}
	if offered("bob") {
		t.Error("the second factor can be replaced with the password")
	}
	// An account that has had a token has something to protect, even if the policy allowed it meanwhile.
	l.control("user mfa", obj{"user": "carol", "mode": "off"})
	carol := l.browser()
	carol.signInAs(l.authorize(), "carol")
	c := l.Anonymous()
	c.Token = l.tokenOf(carol)
	c.Do("POST", "/v3/logout", nil)
	l.control("user mfa", obj{"user": "carol", "mode": "required"})
	l.Advance(time.Minute)
	if offered("carol") {
		t.Error("an account that has had a token sets up its first factor with the password")
	}
	l.control("user enrol-revoke", obj{"user": "dave"})
	if offered("dave") {
		t.Error("the administrator has revoked it")
	}
	if !offered("erin") {
		t.Error("erin cannot set up the first factor")
	}
	l.Advance(24 * time.Hour)
	if offered("erin") {
		t.Error("the first factor can be set up after a day")
	}
}

func TestNewAccountConfirmsItsAddress(t *testing.T) {
	l, sink := newPostalLab(t, func(c *config.Config) { c.Registration.Email = "required" })
	b := l.browser()
	address := l.createAddress()
	page := b.get(address)
	if !page.shows("email") || page.shows("create") || page.shows("email-skip") {
		t.Fatalf("%d %s", page.status, page.body)
	}
	waiting := b.step(page, "email", "email", "Bob@example.org")
	if !waiting.shows("email-check") {
		t.Fatalf("%d %s", waiting.status, waiting.body)
	}
	if r := b.step(waiting, "email-check"); r.status != 403 || !strings.Contains(r.body, "not been opened yet") {
		t.Errorf("before the link was opened: %d %s", r.status, r.body)
	}
	m := sink.Next()
	l.confirm(m)
	form := b.step(waiting, "email-check")
	if !form.shows("create") || !strings.Contains(form.body, "bob@example.org") {
		t.Fatalf("%d %s", form.status, form.body)
	}
	if in := b.create(form, "bob"); !in.consents() {
		t.Fatalf("%d %s", in.status, in.body)
	}
	if in := l.browser(); !in.step(in.get(l.authorize()), "password", "user", "bob@example.org", "password", testserver.Password()).consents() {
		t.Error("the address does not sign in")
	}
	thief := l.browser() // which has seen the address of the page only
	if r := thief.get(address); r.shows("create") {
		t.Error("another browser uses the confirmed address")
	}
}

func TestForgottenPasswordIsReplacedByALinkButNotTheFactor(t *testing.T) {
	l, sink := newPostalLab(t, func(c *config.Config) { c.Auth.MFA = "optional" })
	alice := l.Register("alice")
	l.addEmail(sink, alice, "alice@example.org")
	app := l.enrol("alice")
	address := l.authorize() + "&sign=reset"
	b := l.browser()
	waiting := b.step(b.get(address), "email", "email", "alice@example.org")
	if !waiting.shows("email-check") {
		t.Fatalf("%d %s", waiting.status, waiting.body)
	}
	l.confirm(sink.Next())
	form := b.step(waiting, "email-check")
	if !form.shows("reset") {
		t.Fatalf("%d %s", form.status, form.body)
	}
	const fresh = "a new and longer password"
	if done := b.step(form, "reset", "password", fresh, "again", fresh, "everywhere", "1"); done.status != 200 || b.session() != "" || !strings.Contains(done.body, "still need") {
		t.Fatalf("%d %s", done.status, done.body)
	}
	if status, _ := l.whoami(alice.Token); status != 401 {
		t.Errorf("a device from before: %d", status)
	}
	in := b.step(b.get(l.authorize()), "password", "user", "alice", "password", fresh)
	if in.consents() || !in.shows("code") {
		t.Fatalf("with the new password: %d %s", in.status, in.body)
	}
	if in = b.step(in, "code", "code", app.next()); !in.consents() {
		t.Errorf("with both: %d %s", in.status, in.body)
	}
	if again := b.step(form, "reset", "password", "another one", "again", "another one"); again.status == 200 && strings.Contains(again.body, "still need") {
		t.Error("one link resets the password twice")
	}
}

func TestResetPageDoesNotRevealAddresses(t *testing.T) {
	for _, reveal := range []bool{false, true} {
		l, sink := newPostalLab(t, func(c *config.Config) { c.Email.RevealAddresses = reveal })
		l.addEmail(sink, l.Register("alice"), "alice@example.org")
		answers := map[string]bool{}
		for _, user := range []string{"alice", "nobody"} {
			b := l.browser()
			r := b.step(b.get(l.authorize()+"&sign=reset"), "email", "email", user+"@example.org")
			again := b.step(r, "email-check")
			for _, page := range []reply{r, again} {
				body := regexp.MustCompile(`nonce="[^"]*"|name="csrf" value="[^"]*"|action="[^"]*"|href="[^"]*"`).ReplaceAllString(page.body, "")
				answers[body] = true
			}
			if r.status != 200 || again.status != 403 {
				t.Errorf("%s: %d, %d", user, r.status, again.status)
			}
		}
		if len(answers) != 2 { // with and without the problem
			t.Errorf("reveal %v: %d different pages", reveal, len(answers))
		}
	}
}

func TestGuessesAtAPasswordFromManyNetworksAreLimited(t *testing.T) {
	l := &lab{Server: testserver.New(t, func(c *config.Config) {
		pages(c)
		c.TrustedProxies = []string{"127.0.0.1"}
		c.RateLimits.Enabled, c.RateLimits.Logins, c.RateLimits.Anonymous = true, config.Bucket{PerSecond: 0.001, Burst: 1}, config.Bucket{PerSecond: 1000, Burst: 1000}
	}), t: t}
	l.Register("alice")
	b := l.browser()
	to, f := b.get(l.authorize()).form("password")
	f.Set("user", "alice")
	guess := func(network int, password string) reply {
		f.Set("password", password)
		return b.post(to, f, "X-Forwarded-For", fmt.Sprintf("203.0.%d.1", network))
	}
	for network := range 10 {
		if r := guess(network, "wrong"); r.status != 403 {
			t.Errorf("guess %d: %d", network, r.status)
		}
	}
	for password, network := range map[string]int{"wrong": 11, testserver.Password(): 12} {
		if r := guess(network, password); r.status != 429 || r.header.Get("Retry-After") == "" {
			t.Errorf("a guess from yet another network: %d", r.status)
		}
	}
	l.Advance(time.Hour)
	if r := guess(13, testserver.Password()); r.status != 303 {
		t.Errorf("an hour later: %d", r.status)
	}
}
