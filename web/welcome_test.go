package web_test

import (
	"strings"
	"testing"

	"ebb/config"
	"ebb/internal/testserver"
)

func TestBrowsersGetAWelcomePage(t *testing.T) {
	for mode, want := range map[string]string{"token": "registration token", "open": "create an account", "closed": "ask the administrator"} {
		for _, oauth := range []bool{false, true} {
			s := testserver.New(t, func(c *config.Config) {
				pages(c)
				c.OAuth.Enabled, c.Registration.Mode, c.WellKnown.SupportPage = oauth, mode, `https://example.org/help?a=1&b="<script>`
			})
			page := (&lab{Server: s, t: t}).browser().get("/")
			for _, text := range []string{"Matrix homeserver", "<code>http://localhost:8008</code>", "Element Web", want, "Help of this server"} {
				if page.status != 200 || !strings.Contains(page.body, text) {
					t.Errorf("mode %s: %d, and the page does not say %q:\n%s", mode, page.status, text, page.body)
				}
			}
			if strings.Contains(page.body, "<script") || strings.Contains(page.body, "Your account") != oauth {
				t.Errorf("mode %s, oauth.enabled %t:\n%s", mode, oauth, page.body)
			}
		}
	}
}
