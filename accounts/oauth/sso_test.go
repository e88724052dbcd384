package oauth

import (
	"strings"
	"testing"

	"ebb/accounts"
	"ebb/accounts/gate"
	"ebb/mxerr"
	"ebb/storage"
)

func TestRedirectURLsOfSingleSignOn(t *testing.T) {
	open := New(Options{Issuer: "https://here"})
	for text, target := range map[string]string{
		"https://app.element.io/#/home":               "app.element.io",
		"https://app.example.org:8443/a?b=c":          "app.example.org:8443",
		"http://localhost:4711/sso":                   "localhost:4711",
		"http://127.0.0.1:4711/":                      "127.0.0.1:4711",
		"http://[::1]:4711/":                          "[::1]:4711",
		"element://connect?transaction_id=1":          "element:",
		"evil://app.element.io/":                      "evil:",
		"im.fluffychat://login":                       "im.fluffychat:",
		"io.element.desktop:/vector/webapp/":          "io.element.desktop:",
		"https://xn--e1awd7f.example/?x=%3Cscript%3E": "xn--e1awd7f.example",
	} {
		if r, err := open.SSORedirect(text); err != nil || r.Target() != target {
			t.Errorf("%s: %q, %v", text, r.Target(), err)
		}
	}
	for _, text := range []string{
		"", "/", "//evil.example.org", "app.example.org", "https:evil.example.org", "https:///evil.example.org", "http://evil.example.org/", "https://good.example.org@evil.example.org/",
		"https://good.example.org\\@evil.example.org", "javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x", "vbscript:x", "file:///etc/passwd", "blob:https://x/1",
		"intent://x#Intent;scheme=https;end", "https://exämple.org/", "https://example.org/\r\nSet-Cookie: x", " https://example.org", "https://example.org/\"", "java\tscript:x",
		"https://example.org/" + strings.Repeat("x", maxURI), "view-source:https://example.org", "mailto:a@example.org",
		"https://example.org;sandbox/", "https://*/", "https://'self'/", "https://a,b.example.org/",
	} {
		if r, err := open.SSORedirect(text); codeOf(err) != errRequest {
			t.Errorf("%q is accepted, and leads to %q", text, r.Target())
		}
	}
	listed := New(Options{Issuer: "https://here", Clients: []string{"element.io"}})
	for text, want := range map[string]bool{
		"https://app.element.io/": true, "https://element.io/": true, "io.element.app:/x": true, "io.element://x": true,
		"https://element.io.evil.example/": false, "https://evilelement.io/": false, "io.elementary:/x": false, "element://connect": false, "http://localhost/": false,
	} {
		if _, err := listed.SSORedirect(text); (err == nil) != want {
			t.Errorf("with oauth.clients, %s: %v", text, err)
		}
	}
}

func TestLoginTokenReplacesThoseOfTheRedirectURL(t *testing.T) {
	s := New(Options{Issuer: "https://here"})
	for text, want := range map[string]string{
		"https://a.example": "https://a.example?loginToken=T",
		"https://a.example/?x=1&loginToken=old&login%54oken=o&y": "https://a.example/?x=1&y&loginToken=T",
		"https://a.example/#/home":                               "https://a.example/?loginToken=T#/home",
		"https://a.example/?x=%20+#/home?loginToken=kept":        "https://a.example/?x=%20+&loginToken=T#/home?loginToken=kept",
		"com.example:callback":                                   "com.example:callback?loginToken=T",
		"element://connect?id=1":                                 "element://connect?id=1&loginToken=T",
	} {
		r, err := s.SSORedirect(text)
		if err != nil || r.with("T") != want {
			t.Errorf("%s: %s, %v", text, r.with("T"), err)
		}
	}
}

// ssoToken returns the login token that a browser is redirected with.
func (l *lab) ssoToken() (string, error) {
	l.t.Helper()
	r, err := l.SSORedirect("https://app.example.com/")
	if err != nil {
		l.t.Fatal(err)
	}
	to, err := l.ApproveSSO(ctx, r, l.browser, "home")
	if err != nil {
		return "", err
	}
	return parse(l.t, to).Get("loginToken"), nil
}

func TestSingleSignOnGivesAShortLivedLoginTokenForOneUse(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		login := func(token string) error {
			_, err := l.accounts.LoginToken(ctx, token, accounts.NewSession{Network: "home"})
			return err
		}
		token, err := l.ssoToken()
		if err != nil || login(token) != nil {
			t.Fatalf("%q, %v", token, err)
		}
		if err := login(token); mxerr.Code(err) != mxerr.CodeForbidden {
			t.Errorf("the second use: %v", err)
		}
		if token, err = l.ssoToken(); err != nil {
			t.Fatal(err)
		}
		l.advance(ssoTokenLifetime)
		if err := login(token); mxerr.Code(err) != mxerr.CodeForbidden {
			t.Errorf("after its lifetime: %v", err)
		}
		l.browser = "another cookie"
		if _, err := l.ssoToken(); mxerr.Code(err) != mxerr.CodeForbidden {
			t.Errorf("not signed in: %v", err)
		}
	})
}

func TestSingleSignOnNeedsTheSecondFactorOfTheAccount(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		early, err := l.ssoToken()
		if err != nil {
			t.Fatal(err)
		}
		l.write(func(tx *storage.Tx) error { return gate.SetMode(tx, storage.AccountRow{NID: l.user}, gate.Required) })
		if _, err := l.ssoToken(); mxerr.Code(err) != mxerr.CodeForbidden {
			t.Errorf("a token for a password alone: %v", err)
		}
		if _, err := l.accounts.LoginToken(ctx, early, accounts.NewSession{}); mxerr.Code(err) != mxerr.CodeForbidden {
			t.Errorf("a token from before: %v", err)
		}
	})
}
