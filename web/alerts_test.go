package web_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"ebb/config"
	"ebb/internal/testserver"
)

var disavowalLink = regexp.MustCompile(`/_ebb/account/notme\?token=[\w-]+`)

// alerts delivers the alerts, and returns those of a user, the last one first.
func (l *lab) alerts(user *testserver.Client) (bodies []string) {
	l.t.Helper()
	if err := l.DeliverNotices(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	_, _, raw := user.Raw("GET", "/v3/sync", nil)
	room := regexp.MustCompile(`"(?:invite|join)":\{"(![^"]+)"`).FindSubmatch(raw)
	if room == nil {
		return nil
	}
	path := "/v3/rooms/" + url.PathEscape(string(room[1]))
	user.Do("POST", path+"/join", nil)
	_, _, raw = user.Raw("GET", path+"/messages?dir=b&limit=99", nil)
	var page struct {
		Chunk []struct {
			Content struct{ Body string }
		}
	}
	if err := json.Unmarshal(raw, &page); err != nil {
		l.t.Fatal(err)
	}
	for _, e := range page.Chunk {
		if disavowalLink.MatchString(e.Content.Body) {
			bodies = append(bodies, e.Content.Body)
		}
	}
	return bodies
}

// disavowalOf returns the address of the link in the alert about a sign-in on a device.
func (l *lab) disavowalOf(user *testserver.Client, device string) string {
	l.t.Helper()
	for _, body := range l.alerts(user) {
		if strings.Contains(body, "The device "+device) {
			return disavowalLink.FindString(body)
		}
	}
	l.t.Fatalf("no alert about %s", device)
	return ""
}

func TestSignInInABrowserOfANewNetworkAlertsTheUser(t *testing.T) {
	l := &lab{Server: testserver.New(t, func(c *config.Config) { pages(c); c.TrustedProxies = []string{"127.0.0.1"} }), t: t}
	alice := l.Register("alice")
	signIn := func(address string) *browser {
		b := l.browser()
		to, f := b.get(accountPage).form("password")
		f.Set("user", "alice")
		f.Set("password", testserver.Password())
		if r := b.post(to, f, "X-Forwarded-For", address); r.status != http.StatusSeeOther {
			t.Fatalf("%d %s", r.status, r.body)
		}
		return b
	}
	signIn("192.0.2.1")
	l.Advance(2 * time.Hour) // alerts of one kind are sent at most once an hour
	before := l.alerts(alice)
	signIn("192.0.2.77")
	if now := l.alerts(alice); len(now) != len(before) {
		t.Errorf("a known network: %q", now[0])
	}
	l.Advance(2 * time.Hour)
	thief := signIn("203.0.113.5")
	now := l.alerts(alice)
	if len(now) != len(before)+1 || !strings.Contains(now[0], "signed in to the web pages of this server from a network") {
		t.Fatalf("another network: %q", now)
	}
	b := l.browser()
	page := b.get(disavowalLink.FindString(now[0]))
	page.has("203.0.113.0/24")
	if !thief.signedIn() {
		t.Error("opening the link signs the browser out")
	}
	b.submit(page).has("The session has ended")
	if thief.signedIn() {
		t.Error("the browser is still signed in")
	}
}

func TestReusedRefreshTokenAlertsTheUser(t *testing.T) {
	l := newLab(t)
	alice := l.Login("alice")
	c, verifier := l.client(nil), oauth2.GenerateVerifier()
	first, err := c.Exchange(t.Context(), l.code(c, oauth2.S256ChallengeOption(verifier)).Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	refresh := func() (*oauth2.Token, error) {
		return c.TokenSource(context.Background(), &oauth2.Token{RefreshToken: first.RefreshToken, Expiry: time.Unix(1, 0)}).Token()
	}
	second, err := refresh()
	if err != nil {
		t.Fatal(err)
	}
	copied := func() (found int) {
		for _, body := range l.alerts(alice) {
			if strings.Contains(body, "may have been copied") && strings.Contains(body, "BROWSERDEVICE") {
				found++
			}
		}
		return found
	}
	if status, _ := l.whoami(second.AccessToken); status != 200 || copied() != 0 {
		t.Fatalf("a refresh: %d, %d alerts", status, copied())
	}
	if _, err := refresh(); err == nil {
		t.Error("the refresh token works after its successor was used")
	}
	if n := copied(); n != 1 {
		t.Errorf("%d alerts", n)
	}
	if status, _ := l.whoami(second.AccessToken); status != 401 {
		t.Errorf("the session goes on: %d", status)
	}
}
