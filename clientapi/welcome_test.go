package clientapi

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"ebb/config"
)

func TestBrowsersGetAWelcomePage(t *testing.T) {
	for mode, want := range map[string]string{"token": "registration token", "open": "create an account", "closed": "administrator creates"} {
		h := newHome(t, func(c *config.Config) {
			c.PublicURL, c.Registration.Mode, c.WellKnown.SupportPage = "https://matrix.example.org", mode, `https://example.org/help?a=1&b="<script>`
		})
		for _, method := range []string{"GET", "HEAD"} {
			w := httptest.NewRecorder()
			h.door.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "/", http.NoBody))
			if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") || w.Header().Get("Access-Control-Allow-Origin") != "" {
				t.Fatalf("%s: %d %v", method, w.Code, w.Header())
			}
			page := w.Body.String()
			_, nonce, _ := strings.Cut(page, `<style nonce="`)
			if nonce, _, _ = strings.Cut(nonce, `"`); !strings.Contains(w.Header().Get("Content-Security-Policy"), "style-src 'nonce-"+nonce+"'") || nonce == "" {
				t.Errorf("the browser ignores the style of nonce %q: %v", nonce, w.Header())
			}
			for _, text := range []string{"Matrix homeserver", "<code>https://matrix.example.org</code>", "Element Web", want, "Help of this server"} {
				if !strings.Contains(page, text) {
					t.Errorf("mode %s: the page does not say %q:\n%s", mode, text, page)
				}
			}
			if strings.Contains(page, "<script") {
				t.Errorf("the page runs a script:\n%s", page)
			}
		}
	}
}
