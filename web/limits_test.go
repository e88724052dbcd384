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
			c.Auth.MFA, c.Registration.Mode = "optional", "token"
			c.Auth.JWT.Algorithms, c.Auth.JWT.Secret = []string{"HS256"}, secret
			c.Auth.Providers = []config.Provider{{ID: "office", Name: "Office", Issuer: p.Issuer, ClientID: p.ClientID, ClientSecret: oidctest.Secret, CreateAccounts: true}}
			c.RateLimits.Enabled, c.RateLimits.Logins = true, config.Bucket{PerSecond: 0.001, Burst: burst}
			many := config.Bucket{PerSecond: 1000, Burst: 1000}
			c.RateLimits.Anonymous, c.RateLimits.Registrations = many, many
		}), t: t}
		l.control("user add", obj{"user": "alice", "password": testserver.Password()})
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
		"registration token": func(l *lab) func() int {
			return func() int {
				status, _, _ := l.Anonymous().Raw("GET", "/v1/register/m.login.registration_token/validity?token=wrong", nil)
				return status
			}
		},
		"jwt": login(obj{"type": "org.matrix.login.jwt", "token": "wrong"}),
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

// Guesses count for their target, for their network and for the whole server, as seen by a client. Tokens belong to no
// account, so they have no target.
func TestGuessesAreLimitedForEachTargetEachNetworkAndTheServer(t *testing.T) {
	const attempts = 120
	for name, c := range map[string]struct {
		prepare func(l *lab) func(target int, network string) int
		// How many guesses are compared: at one target from one network, at others from one network, at one from other
		// networks, and at others from other networks.
		one, network, target, server int
	}{
		"password": {func(l *lab) func(int, string) int {
			return func(target int, network string) int {
				body := fmt.Sprintf(`{"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "user%d"}, "password": "wrong"}`, target)
				return l.from(l.browser(), network, "POST", "/_matrix/client/v3/login", body)
			}
		}, 1, 10, 10, 100},
		"registration token": {func(l *lab) func(int, string) int {
			return func(target int, network string) int {
				return l.from(l.browser(), network, "GET", fmt.Sprintf("/_matrix/client/v1/register/m.login.registration_token/validity?token=wrong%d", target), "")
			}
		}, 1, 1, 100, 100},
		"code of a device": {func(l *lab) func(int, string) int {
			b, _ := l.own(accountPage)
			return func(_ int, network string) int {
				return l.from(b, network, "GET", "/oauth2/link?user_code=BCDF-GHJK", "")
			}
		}, 1, 1, 100, 100},
		"QR code": {func(l *lab) func(int, string) int {
			return func(_ int, network string) int {
				return l.from(l.browser(), network, "POST", "/_matrix/client/unstable/io.element.msc4388/rendezvous", `{"data": "x"}`)
			}
		}, 30, 30, attempts, attempts},
	} {
		for kind, want := range map[string]int{"one": c.one, "network": c.network, "target": c.target, "server": c.server} {
			l := &lab{Server: testserver.New(t, func(c *config.Config) {
				pages(c)
				c.Registration.Mode, c.TrustedProxies = "token", []string{"127.0.0.1"}
				many := config.Bucket{PerSecond: 1000, Burst: 1000}
				c.RateLimits.Enabled, c.RateLimits.Logins, c.RateLimits.Anonymous = true, config.Bucket{PerSecond: 1e-6, Burst: 1}, many
			}), t: t}
			l.control("user add", obj{"user": "alice", "password": testserver.Password()})
			guess, compared := c.prepare(l), 0
			for i := range attempts {
				target, network := 0, "198.51.100.1"
				if kind == "network" || kind == "server" {
					target = i
				}
				if kind == "target" || kind == "server" {
					network = fmt.Sprintf("203.0.%d.1", i)
				}
				if guess(target, network) != http.StatusTooManyRequests {
					compared++
				}
			}
			if compared != want {
				t.Errorf("%s, %s: %d are compared, want %d", name, kind, compared, want)
			}
		}
	}
}

// from sends a request from a network, and returns the status of the response.
func (l *lab) from(b *browser, network, method, path, body string) int {
	l.t.Helper()
	req, err := http.NewRequestWithContext(l.t.Context(), method, l.URL+path, strings.NewReader(body))
	if err != nil {
		l.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Forwarded-For", network)
	return b.do(req).status
}
