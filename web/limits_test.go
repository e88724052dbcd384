package web_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"ebb/config"
	"ebb/internal/oidctest"
	"ebb/internal/testserver"
)

// Every path on which a secret is compared counts wrong guesses: after a few from one network it answers 429, and the
// guess is not compared. accounts/gate has the table of what each kind of guess counts for.
func TestEveryPathLimitsGuesses(t *testing.T) {
	p := oidctest.NewFake(t, "limits")
	const secret = "a secret of 32 bytes for HMAC..."
	newLimited := func(burst int) *lab {
		l := &lab{Server: testserver.New(t, func(c *config.Config) {
			pages(c)
			c.Auth.MFA, c.Registration.Mode = "optional", "open"
			c.Auth.JWT.Algorithms, c.Auth.JWT.Secret = []string{"HS256"}, secret
			c.Auth.Providers = []config.Provider{{ID: "office", Name: "Office", Issuer: p.Issuer, ClientID: p.ClientID, ClientSecret: oidctest.Secret, CreateAccounts: true}}
			c.RateLimits.Enabled, c.RateLimits.Logins = true, config.Bucket{PerSecond: 0.001, Burst: burst}
			many := config.Bucket{PerSecond: 1000, Burst: 1000}
			c.RateLimits.Anonymous, c.RateLimits.Registrations = many, many
		}), t: t}
		l.Register("alice")
		return l
	}
	login := func(body obj) func(*lab) func() int {
		return func(l *lab) func() int {
			return func() int { status, _, _ := l.Anonymous().Raw("POST", "/v3/login", body); return status }
		}
	}
	own := func(l *lab) *browser { b, _ := l.own(accountPage); return b }
	for name, prepare := range map[string]func(l *lab) func() int{
		"password": login(obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": "wrong"}),
		"token":    login(obj{"type": "m.login.token", "token": "wrong"}),
		"jwt":      login(obj{"type": "org.matrix.login.jwt", "token": "wrong"}),
		"password on the page": func(l *lab) func() int {
			b := l.browser()
			page := b.get(accountPage)
			return func() int { return b.step(page, "password", "user", "alice", "password", "wrong").status }
		},
		"password again on the page": func(l *lab) func() int {
			b := own(l)
			l.Advance(11 * 60 * 1e9)
			page := b.get(accountPage + "/password")
			return func() int { return b.step(page, "password", "password", "wrong").status }
		},
		"password in a session": func(l *lab) func() int {
			c := l.Login("alice")
			return func() int {
				status, _, _ := c.Raw("POST", "/v3/account/password", obj{"new_password": "another long password", "auth": obj{
					"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": "wrong"}})
				return status
			}
		},
		"one-time code": func(l *lab) func() int {
			l.enrol("alice")
			b := l.browser()
			page := b.signInAs(accountPage, "alice")
			return func() int { return b.step(page, "code", "code", "000000").status }
		},
		"recovery code": func(l *lab) func() int {
			l.enrol("alice")
			b := l.browser()
			page := b.signInAs(accountPage, "alice")
			return func() int { return b.step(page, "recovery", "code", "aaaa-aaaa-aaaa-aaaa").status }
		},
		"code of a device": func(l *lab) func() int {
			b := own(l)
			return func() int { return b.get("/oauth2/link?user_code=BCDF-GHJK").status }
		},
		"code of a device, sent": func(l *lab) func() int {
			b := own(l)
			_, f := b.get(accountPage + "/profile").form()
			return func() int {
				return b.post("/oauth2/link", url.Values{"csrf": {f.Get("csrf")}, "step": {"allow"}, "user_code": {"BCDF-GHJK"}}).status
			}
		},
		"code of a provider": func(l *lab) func() int {
			return func() int {
				b := l.browser()
				at, _ := url.Parse(b.begin(b.get(accountPage), "Office"))
				return b.get(callbackOffice + "?code=wrong&state=" + url.QueryEscape(at.Query().Get("state"))).status
			}
		},
	} {
		l := newLimited(2)
		guess := prepare(l)
		var got []string
		for range 12 {
			got = append(got, fmt.Sprint(guess()))
		}
		all := strings.Join(got, " ")
		if last := got[len(got)-1]; last != fmt.Sprint(http.StatusTooManyRequests) || got[0] == last || strings.Contains(all, "50") {
			t.Errorf("%s: %s", name, all)
		}
	}
}
