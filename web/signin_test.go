package web_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"
	"golang.org/x/oauth2"

	"ebb/accounts/gate"
	"ebb/config"
	"ebb/internal/testserver"
)

// newSecondLab is newLab with a policy on second factors.
func newSecondLab(t *testing.T, policy gate.Policy) *lab {
	t.Helper()
	end := policy.Grace == 0 // nobody can register without a factor after the grace period
	if end {
		policy.Grace = time.Minute
	}
	l := &lab{Server: testserver.New(t, func(c *config.Config) {
		pages(c)
		c.Auth.MFA, c.Auth.MFAGrace = string(policy.MFA), config.Duration(policy.Grace)
	}), t: t}
	l.Register("alice")
	if end {
		l.Advance(policy.Grace)
	}
	return l
}

// link returns a new enrolment link for a user.
func (l *lab) link(user string) string {
	l.t.Helper()
	answer, err := l.Control(l.t.Context(), "user enrol-link", json.RawMessage(`{"user":"`+user+`"}`))
	if err != nil {
		l.t.Fatal(err)
	}
	raw, err := json.Marshal(answer)
	if err != nil {
		l.t.Fatal(err)
	}
	var link struct {
		URL string `json:"url"`
	}
	if err := json.Unmarshal(raw, &link); err != nil || link.URL == "" {
		l.t.Fatalf("%s: %v", raw, err)
	}
	return link.URL
}

// authenticator is a user's app for one-time codes.
type authenticator struct {
	l        *lab
	secret   string
	recovery []string
}

var (
	secretText = regexp.MustCompile(`<p class="secret">([A-Z2-7 ]+)</p>`)
	codeText   = regexp.MustCompile(`<li>([0-9a-z]{4}(?:-[0-9a-z]{4}){3})</li>`)
)

// enrol sets up one-time codes with an enrolment link.
func (l *lab) enrol(user string) authenticator {
	l.t.Helper()
	b := l.browser()
	return b.setUp(b.step(b.get(l.link(user)), "totp"))
}

// setUp reads the secret of one-time codes from a page, confirms it and reads the recovery codes.
func (b *browser) setUp(page reply) authenticator {
	b.l.t.Helper()
	found := secretText.FindStringSubmatch(page.body)
	if found == nil {
		b.l.t.Fatalf("no secret: %d %s", page.status, page.body)
	}
	a := authenticator{l: b.l, secret: strings.ReplaceAll(found[1], " ", "")}
	done := b.step(page, "totp-confirm", "code", a.code(0))
	for _, m := range codeText.FindAllStringSubmatch(done.body, -1) {
		a.recovery = append(a.recovery, m[1])
	}
	if len(a.recovery) == 0 {
		b.l.t.Fatalf("no recovery codes: %d %s", done.status, done.body)
	}
	return a
}

// code returns the code that the app shows if its clock is off.
func (a authenticator) code(off time.Duration) string {
	a.l.t.Helper()
	code, err := totp.GenerateCode(a.secret, a.l.Now().Add(off))
	if err != nil {
		a.l.t.Fatal(err)
	}
	return code
}

// next waits until the app shows another code, and returns it.
func (a authenticator) next() string {
	a.l.Advance(30 * time.Second)
	return a.code(0)
}

// authorize returns the address of a page for consent.
func (l *lab) authorize() string {
	l.t.Helper()
	return l.client(nil).AuthCodeURL("s", oauth2.S256ChallengeOption(oauth2.GenerateVerifier()))
}

// step sends the form for a step of signing in, and follows a redirect.
func (b *browser) step(page reply, sign string, fields ...string) reply {
	b.l.t.Helper()
	to, f := page.form(sign)
	for i := 0; i < len(fields); i += 2 {
		f.Set(fields[i], fields[i+1])
	}
	return b.follow(b.post(to, f))
}

func (b *browser) follow(r reply) reply {
	b.l.t.Helper()
	if r.status == http.StatusSeeOther {
		return b.get(r.header.Get("Location"))
	}
	return r
}

// session returns the cookie of a browser's session.
func (b *browser) session() string {
	home, _ := url.Parse(b.l.URL)
	for _, c := range b.http.Jar.Cookies(home) {
		if c.Name == "ebb_session" {
			return c.Value
		}
	}
	return ""
}

// consents reports whether a page asks for consent.
func (r reply) consents() bool { return strings.Contains(r.body, `value="allow"`) }

func TestSecondFactorIsAskedForAfterThePassword(t *testing.T) {
	l := newSecondLab(t, gate.Policy{MFA: gate.Optional})
	app := l.enrol("alice")
	address, b := l.authorize(), l.browser()
	page := b.step(b.get(address), "password", "user", "alice", "password", testserver.Password())
	if page.status != 200 || page.consents() || !page.shows("code") || !page.shows("recovery") || page.shows("passkey") {
		t.Fatalf("after the password: %d %s", page.status, page.body)
	}
	pending := b.session()
	if again := b.get(address); again.consents() || !again.shows("code") {
		t.Error("another tab does not ask for the code")
	}
	_, f := page.form("code")
	if r := b.post(address, url.Values{"csrf": f["csrf"], "step": {"allow"}}); r.header.Get("Location") != "" || r.consents() {
		t.Error("consent was given without the second factor")
	}
	if wrong := b.step(page, "code", "code", "000000"); wrong.status != 403 || !wrong.shows("code") || !strings.Contains(wrong.body, "code is wrong") {
		t.Errorf("a wrong code: %d %s", wrong.status, wrong.body)
	}
	code := app.next()
	in := b.step(page, "code", "code", code)
	if !in.consents() || b.session() == pending {
		t.Fatalf("after the code: %d %s", in.status, in.body)
	}
	home, _ := url.Parse(l.URL)
	thief := l.browser()
	thief.http.Jar.SetCookies(home, []*http.Cookie{{Name: "ebb_session", Value: pending, Path: "/"}})
	if r := thief.get(address); r.consents() || r.shows("code") {
		t.Error("the cookie from before the code still works")
	}
	other := l.browser()
	page = other.step(other.get(address), "password", "user", "alice", "password", testserver.Password())
	if r := other.step(page, "code", "code", code); r.consents() || !strings.Contains(r.body, "used already") {
		t.Errorf("the same code again: %d", r.status)
	}
	recovered := other.step(page, "recovery", "code", strings.ToUpper(app.recovery[0]))
	if !recovered.consents() {
		t.Errorf("a recovery code: %d %s", recovered.status, recovered.body)
	}
	third := l.browser()
	page = third.step(third.get(address), "password", "user", "alice", "password", testserver.Password())
	if r := third.step(page, "recovery", "code", app.recovery[0]); r.consents() {
		t.Error("a recovery code worked twice")
	}
	if r := third.step(page, "restart"); !r.shows("password") || third.session() != "" {
		t.Error("another user cannot sign in")
	}
}

func TestLinkSetsUpASecondFactorOnce(t *testing.T) {
	l := newSecondLab(t, gate.Policy{MFA: gate.Required})
	address, b := l.authorize(), l.browser()
	locked := b.step(b.get(address), "password", "user", "alice", "password", testserver.Password())
	if locked.consents() || locked.shows("totp") || !strings.Contains(locked.body, "administrator of this server for a link") {
		t.Fatalf("after the grace period: %s", locked.body)
	}
	link := l.link("alice")
	page := b.get(link)
	if page.status != 200 || !strings.Contains(page.body, "@alice:test") || !strings.Contains(page.body, "recovery key") {
		t.Fatalf("the page of the link: %d %s", page.status, page.body)
	}
	to, f := page.form("totp")
	if r := l.browser().post(to, f); r.status != 403 || secretText.MatchString(r.body) {
		t.Errorf("a form of another browser: %d", r.status)
	}
	page = b.step(page, "totp")
	if !strings.Contains(page.body, "<svg") {
		t.Error("there is no picture")
	}
	secret := secretText.FindString(page.body)
	wrong := b.step(page, "totp-confirm", "code", "000000")
	if wrong.status != 403 || secretText.FindString(wrong.body) != secret {
		t.Errorf("after a wrong code: %d %s", wrong.status, wrong.body)
	}
	app := b.setUp(wrong)
	if r := b.get(link); r.status != 403 {
		t.Errorf("the link works twice: %d", r.status)
	}
	in := b.step(b.get(address), "code", "code", app.next())
	if !in.consents() {
		t.Errorf("with the new factor: %d %s", in.status, in.body)
	}
	if r := b.get("/_ebb/account/enrol?token=unknown"); r.status != 403 {
		t.Errorf("an unknown link: %d", r.status)
	}
}

func TestUserMaySetUpASecondFactorLaterWithinTheGracePeriod(t *testing.T) {
	l := newSecondLab(t, gate.Policy{MFA: gate.Required, Grace: 24 * time.Hour})
	address, b := l.authorize(), l.browser()
	page := b.step(b.get(address), "password", "user", "alice", "password", testserver.Password())
	if page.consents() || !page.shows("totp") || !strings.Contains(page.body, "2 January 2030") {
		t.Fatalf("no offer of a second factor: %s", page.body)
	}
	if skipped := b.step(page, "later"); !skipped.consents() {
		t.Errorf("not now: %d %s", skipped.status, skipped.body)
	}
	other := l.browser()
	page = other.step(other.get(address), "password", "user", "alice", "password", testserver.Password())
	app := other.setUp(other.step(page, "totp"))
	if in := other.get(address); !in.consents() {
		t.Errorf("after setting it up: %s", in.body)
	}
	if weak := b.get(address); weak.consents() || !weak.shows("code") {
		t.Error("a session from before the second factor goes on without it")
	}
	third := l.browser()
	page = third.step(third.get(address), "password", "user", "alice", "password", testserver.Password())
	if in := third.step(page, "code", "code", app.next()); !in.consents() {
		t.Errorf("the next sign-in: %s", in.body)
	}
}

func TestGuessesAtCodesAreLimitedAndClocksMayBeOffALittle(t *testing.T) {
	l := newSecondLab(t, gate.Policy{MFA: gate.Optional})
	app := l.enrol("alice")
	l.Advance(time.Hour)
	address := l.authorize()
	page := func() (*browser, reply) {
		b := l.browser()
		return b, b.step(b.get(address), "password", "user", "alice", "password", testserver.Password())
	}
	b, asked := page()
	old := b.step(asked, "code", "code", app.code(-90*time.Second))
	if old.status != 403 || !strings.Contains(old.body, "90 seconds old") {
		t.Errorf("a clock that is 90 s slow: %d %s", old.status, old.body)
	}
	if early := b.step(asked, "code", "code", app.code(90*time.Second)); early.status != 403 || strings.Contains(early.body, "seconds old") {
		t.Errorf("a clock that is 90 s fast: %d %s", early.status, early.body)
	}
	if in := b.step(asked, "code", "code", app.code(-30*time.Second)); !in.consents() {
		t.Errorf("a clock that is 30 s slow: %d %s", in.status, in.body)
	}
	for range 3 {
		b, asked = page()
		if r := b.step(asked, "code", "code", "000000"); r.status != 403 {
			t.Errorf("a wrong code: %d", r.status)
		}
	}
	b, asked = page()
	if r := b.step(asked, "code", "code", app.code(0)); r.status != 429 || r.header.Get("Retry-After") == "" || !r.shows("code") {
		t.Errorf("the sixth try: %d", r.status)
	}
	if !b.step(asked, "recovery", "code", app.recovery[0]).consents() {
		t.Error("whoever tries one-time codes locks out the owner's recovery codes")
	}
	l.Advance(15 * time.Minute)
	if b, asked = page(); !b.step(asked, "code", "code", app.code(0)).consents() {
		t.Error("after a quarter of an hour the right code is refused")
	}
}

func TestPasswordDecidesBeforeTheSecondFactorIsRevealed(t *testing.T) {
	l := newSecondLab(t, gate.Policy{MFA: gate.Optional})
	l.Register("bob")
	l.enrol("bob")
	address, pages := l.authorize(), map[string]bool{}
	for _, user := range []string{"alice", "bob", "nobody", "@bob:elsewhere"} {
		b := l.browser()
		r := b.step(b.get(address), "password", "user", user, "password", "wrong")
		body := regexp.MustCompile(`nonce="[^"]*"|name="csrf" value="[^"]*"`).ReplaceAllString(r.body, "")
		pages[strings.ReplaceAll(body, `value="`+user+`"`, "")] = true
		if r.status != 403 || b.session() != "" {
			t.Errorf("%s: %d", user, r.status)
		}
	}
	if len(pages) != 1 {
		t.Errorf("%d different pages", len(pages))
	}
}

func TestTwoTabsEndInOneSession(t *testing.T) {
	l := newSecondLab(t, gate.Policy{MFA: gate.Optional})
	l.Register("bob")
	app := l.enrol("alice")
	address, b := l.authorize(), l.browser()
	first, second := b.get(address), b.get(address)
	asked := b.step(first, "password", "user", "alice", "password", testserver.Password())
	stale := b.step(second, "password", "user", "bob", "password", testserver.Password())
	if stale.status != 403 || !stale.shows("code") || !strings.Contains(stale.body, "@alice:test") {
		t.Errorf("a form from before: %d %s", stale.status, stale.body)
	}
	if in := b.step(asked, "code", "code", app.next()); !in.consents() {
		t.Fatalf("%d %s", in.status, in.body)
	}
	session := b.session()
	for name, tab := range map[string]reply{"password": second, "code": asked} {
		if r := b.step(tab, name, "user", "bob", "password", testserver.Password(), "code", app.next()); !r.consents() || b.session() != session {
			t.Errorf("%s in a tab from before: %d", name, r.status)
		}
	}
}

func TestPasskeyIsAskedForByTheFormOfItsBrowserOnly(t *testing.T) {
	l := newSecondLab(t, gate.Policy{MFA: gate.Optional})
	address, b := l.authorize(), l.browser()
	to, f := b.get(address).form("passkey")
	f.Set("sign", "passkey-options")
	begun := b.post(to, f)
	var options struct {
		Ceremony string
		Options  struct {
			PublicKey struct {
				Challenge, RPID, UserVerification string
			}
		}
	}
	if err := json.Unmarshal([]byte(begun.body), &options); err != nil || begun.status != 200 || options.Ceremony == "" {
		t.Fatalf("%d %s", begun.status, begun.body)
	}
	if o := options.Options.PublicKey; o.Challenge == "" || o.RPID != "localhost" || o.UserVerification != "required" {
		t.Errorf("%+v", o)
	}
	thief := l.browser()
	_, theirs := thief.get(address).form("passkey")
	theirs.Set("sign", "passkey-options")
	if r := b.post(to, theirs); r.status != 403 || !strings.Contains(r.body, `"error"`) {
		t.Errorf("without a form of its own: %d %s", r.status, r.body)
	}
	theirs.Set("sign", "passkey")
	theirs.Set("ceremony", options.Ceremony)
	theirs.Set("answer", "{}")
	if r := thief.post(to, theirs); r.status != 403 || r.header.Get("Location") != "" {
		t.Errorf("the ceremony of another browser: %d", r.status)
	}
}

func TestPendingSignInExpires(t *testing.T) {
	l := newSecondLab(t, gate.Policy{MFA: gate.Optional})
	app := l.enrol("alice")
	address, b := l.authorize(), l.browser()
	asked := b.step(b.get(address), "password", "user", "alice", "password", testserver.Password())
	l.Advance(15 * time.Minute)
	if r := b.step(asked, "code", "code", app.code(0)); r.consents() || !r.shows("password") {
		t.Errorf("a code after a quarter of an hour: %d %s", r.status, r.body)
	}
}

func TestWithARequiredSecondFactorOnlyTheFactorGivesTokens(t *testing.T) {
	l := newSecondLab(t, gate.Policy{MFA: gate.Required})
	app, c, verifier := l.enrol("alice"), l.client(nil), oauth2.GenerateVerifier()
	b := l.browser()
	asked := b.step(b.get(c.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier))), "password", "user", "alice", "password", testserver.Password())
	if asked.consents() {
		t.Fatal("the password alone leads to consent")
	}
	done := b.submit(b.step(asked, "code", "code", app.next()), "step", "allow")
	to, err := url.Parse(done.header.Get("Location"))
	if err != nil || to.Query().Get("code") == "" {
		t.Fatalf("%d %s %v", done.status, to, err)
	}
	token, err := c.Exchange(t.Context(), to.Query().Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	if status, me := l.whoami(token.AccessToken); status != 200 || me["user_id"] != "@alice:test" {
		t.Errorf("%d %v", status, me)
	}
}
