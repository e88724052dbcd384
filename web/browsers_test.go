package web_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"ebb/accounts/gate"
	"ebb/config"
	"ebb/internal/mailsink"
	"ebb/internal/testserver"
)

// signedIn reports whether a browser is signed in to the pages.
func (b *browser) signedIn() bool {
	b.l.t.Helper()
	return strings.Contains(b.get(accountPage).body, "Sign out of this page")
}

// resetLink has alice's address confirmed for a new password, by a client, and returns the evidence.
func (l *lab) resetLink(sink *mailsink.Sink) obj {
	l.t.Helper()
	const secret = "another-secret"
	sid := l.Anonymous().Do("POST", "/v3/account/password/email/requestToken", obj{"client_secret": secret, "email": "alice@example.org", "send_attempt": 1})["sid"]
	l.confirm(linkIn(sink))
	return obj{"type": "m.login.email.identity", "threepid_creds": obj{"sid": sid, "client_secret": secret}}
}

// linkIn returns the next e-mail that has a link to confirm an address.
func linkIn(sink *mailsink.Sink) mailsink.Message {
	for {
		if m := sink.Next(); strings.Contains(m.Text, "/email/verify?") {
			return m
		}
	}
}

// What happens to browsers and devices when an account changes hands, or when somebody fears that it has: own is the
// browser in which the page is used, other another one, pending one that has shown the password only, code an
// authorization code that has not been used yet, and device a device that was signed in before.
func TestWhatStaysSignedInWhenAnAccountChanges(t *testing.T) {
	const fresh = "another long password"
	type left struct{ own, other, code, device bool }
	byPage := func(all string) func(*lab, *mailsink.Sink, *browser, *testserver.Client) {
		return func(l *lab, _ *mailsink.Sink, own *browser, _ *testserver.Client) {
			own.submit(own.get(accountPage+"/password"), "step", "password", "password", fresh, "again", fresh, "all", all)
		}
	}
	byClient := func(signOut bool) func(*lab, *mailsink.Sink, *browser, *testserver.Client) {
		return func(l *lab, _ *mailsink.Sink, _ *browser, _ *testserver.Client) {
			l.Login("alice").Do("POST", "/v3/account/password", obj{"new_password": fresh, "logout_devices": signOut, "auth": obj{
				"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": testserver.Password()}})
		}
	}
	byEmail := func(signOut bool) func(*lab, *mailsink.Sink, *browser, *testserver.Client) {
		return func(l *lab, sink *mailsink.Sink, _ *browser, _ *testserver.Client) {
			l.Anonymous().Do("POST", "/v3/account/password", obj{"new_password": fresh, "logout_devices": signOut, "auth": l.resetLink(sink)})
		}
	}
	byResetPage := func(everywhere string) func(*lab, *mailsink.Sink, *browser, *testserver.Client) {
		return func(l *lab, sink *mailsink.Sink, _ *browser, _ *testserver.Client) {
			b := l.browser()
			waiting := b.step(b.get(l.authorize()+"&sign=reset"), "email", "email", "alice@example.org")
			l.confirm(linkIn(sink))
			b.step(b.step(waiting, "email-check"), "reset", "password", fresh, "again", fresh, "everywhere", everywhere)
		}
	}
	command := func(all ...any) func(*lab, *mailsink.Sink, *browser, *testserver.Client) {
		return func(l *lab, _ *mailsink.Sink, _ *browser, _ *testserver.Client) {
			for i := 0; i < len(all); i += 2 {
				l.control(all[i].(string), all[i+1].(obj))
			}
		}
	}
	disavow := func(l *lab, _ *mailsink.Sink, _ *browser, device *testserver.Client) {
		l.Advance(time.Minute)
		thief := l.Login("alice")
		b := l.browser()
		if r := b.submit(b.get(l.disavowalOf(device, thief.DeviceID))); r.status != 200 || !strings.Contains(r.body, "has ended") {
			l.t.Fatalf("%d %s", r.status, r.body)
		}
	}
	nothing := left{}
	for name, c := range map[string]struct {
		do   func(*lab, *mailsink.Sink, *browser, *testserver.Client)
		want left
	}{
		"nothing":                                {func(*lab, *mailsink.Sink, *browser, *testserver.Client) {}, left{true, true, true, true}},
		"password on the page":                   {byPage(""), left{own: true, device: true}},
		"password on the page, everywhere":       {byPage("yes"), nothing},
		"password by a client":                   {byClient(false), left{device: true}},
		"password by a client, everywhere":       {byClient(true), nothing},
		"password by e-mail":                     {byEmail(false), left{device: true}},
		"password by e-mail, everywhere":         {byEmail(true), nothing},
		"password by e-mail on the page":         {byResetPage(""), left{device: true}},
		"password by e-mail on page, everywhere": {byResetPage("1"), nothing},
		"password by an administrator":           {command("user passwd", obj{"user": "alice", "password": fresh}), left{device: true}},
		"password by administrator, everywhere":  {command("user passwd", obj{"user": "alice", "password": fresh, "sign_out": true}), nothing},
		"hash by an administrator":               {command("user passwd", obj{"user": "alice", "hash": "$2b$10$abcdefghijklmnopqrstuuN3vG7P5sV3O5W4b7hE5r9pB2v3e4f5g"}), left{device: true}},
		"this was not me":                        {disavow, left{device: true}},
		"locked and unlocked":                    {command("user lock", obj{"user": "alice"}, "user unlock", obj{"user": "alice"}), left{device: true}},
		"suspended":                              {command("user suspend", obj{"user": "alice"}), left{true, true, true, true}},
		"deactivated":                            {command("user deactivate", obj{"user": "alice"}), nothing},
	} {
		t.Run(name, func(t *testing.T) {
			l, sink := newPostalLab(t, func(c *config.Config) { c.Auth.MFA = "optional" })
			device := l.Register("alice")
			l.addEmail(sink, device, "alice@example.org")
			own, _ := l.own(accountPage)
			other, _ := l.own(accountPage)
			client, verifier := l.client(nil), oauth2.GenerateVerifier()
			code := l.code(client, oauth2.S256ChallengeOption(verifier)).Get("code")
			c.do(l, sink, own, device)
			got := left{own: own.signedIn(), other: other.signedIn()}
			if _, err := client.Exchange(t.Context(), code, oauth2.VerifierOption(verifier)); err == nil {
				got.code = true
			}
			status, _ := l.whoami(device.Token)
			if got.device = status == 200; got != c.want {
				t.Errorf("what is left: %+v, want %+v", got, c.want)
			}
		})
	}
}

// A link replaces factors that are lost. Whoever has found them and knows the password must not keep a browser signed
// in, in which they could add a factor of their own or let a client in.
func TestLinkThatReplacesFactorsSignsOutBrowsers(t *testing.T) {
	for name, enrolled := range map[string]bool{"the first factor": false, "a lost factor": true} {
		t.Run(name, func(t *testing.T) {
			l, _ := newPostalLab(t, func(c *config.Config) { c.Auth.MFA = "optional" })
			device := l.Register("alice")
			address, b := l.authorize(), l.browser()
			client, verifier := l.client(nil), oauth2.GenerateVerifier()
			if enrolled {
				app := l.enrol("alice")
				b.step(b.signInAs(address, "alice"), "code", "code", app.next())
			} else {
				b.signInAs(address, "alice")
			}
			in := b.get(address)
			if !in.consents() {
				t.Fatalf("%d %s", in.status, in.body)
			}
			allowed := b.submit(b.get(client.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier))), "step", "allow")
			l.enrol("alice")
			if r := b.get(address); r.consents() || r.shows("code") == enrolled {
				t.Errorf("the browser: %d %s", r.status, r.body)
			}
			to, err := url.Parse(allowed.header.Get("Location"))
			if err != nil || to.Query().Get("code") == "" {
				t.Fatalf("%d %s", allowed.status, to)
			}
			if _, err := client.Exchange(t.Context(), to.Query().Get("code"), oauth2.VerifierOption(verifier)); err == nil {
				t.Error("the code is still good")
			}
			if status, _ := l.whoami(device.Token); status != 200 {
				t.Errorf("the device: %d", status)
			}
		})
	}
}

// The owner of an account removes or replaces a factor that somebody else may have: of the browsers that have shown it,
// only the owner's stays signed in.
func TestBrowsersAreSignedOutWhenAFactorIsRemovedOrReplaced(t *testing.T) {
	for name, change := range map[string]func(own *browser) reply{
		"removed": func(own *browser) reply {
			return own.follow(own.submit(own.get(accountPage+"/security"), "step", "remove-codes"))
		},
		"replaced": func(own *browser) reply {
			page := own.step(own.get(accountPage+"/security/add"), "totp")
			found := secretText.FindStringSubmatch(page.body)
			if found == nil {
				return page
			}
			app := authenticator{l: own.l, secret: strings.ReplaceAll(found[1], " ", "")}
			return own.step(page, "totp-confirm", "code", app.code(0))
		},
		"recovery codes": func(own *browser) reply {
			return own.submit(own.get(accountPage+"/security"), "step", "recovery")
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newSecondLab(t, gate.Policy{MFA: gate.Optional})
			app := l.enrol("alice")
			own, thief := l.browser(), l.browser()
			for _, b := range []*browser{own, thief} {
				if b.step(b.signInAs(accountPage, "alice"), "code", "code", app.next()); !b.signedIn() {
					t.Fatal("not signed in")
				}
			}
			if r := change(own); r.status != 200 || !own.signedIn() {
				t.Errorf("the owner's browser: %d %s", r.status, r.body)
			}
			if thief.signedIn() {
				t.Error("the other browser is still signed in")
			}
		})
	}
}

func TestBrowserThatHasShownTheOldPasswordOnlyIsNotLetIn(t *testing.T) {
	l, _ := newPostalLab(t, func(c *config.Config) { c.Auth.MFA = "optional" })
	l.Register("alice")
	app := l.enrol("alice")
	b := l.browser()
	pending := b.signInAs(l.authorize(), "alice")
	if !pending.shows("code") {
		t.Fatalf("%d %s", pending.status, pending.body)
	}
	l.control("user passwd", obj{"user": "alice", "password": "another long password"})
	if r := b.step(pending, "code", "code", app.next()); r.consents() {
		t.Error("the old password and a code let a browser in")
	}
}
