package httpapi

import (
	"crypto/rand"
	"html"
	"net/http"
	"strings"

	"ebb/mxerr"
)

// HTML is the content type of a page.
const HTML = "text/html; charset=utf-8"

// newNonce returns a nonce for the style elements of one page. The browser applies no other styles.
func newNonce() string { return rand.Text() }

// pageHeaders sets the headers of a page. Pages have no CORS headers, so scripts on other sites can neither read them
// nor send them requests that need a preflight. The headers also tell the browser to load no other resources, to run no
// scripts, not to show the page in a frame, and to submit forms only to this server.
//
// Referrer-Policy is same-origin, because with no-referrer browsers would send "Origin: null" when they submit a form
// to this server.
func pageHeaders(h http.Header, nonce string) {
	h.Set("Content-Security-Policy", ContentPolicy(nonce))
	h.Set("X-Frame-Options", "DENY") // for browsers that do not know frame-ancestors
	h.Set("Referrer-Policy", "same-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
}

// ContentPolicy returns the content security policy of a page. A page whose form leads to another website adds that to
// form-action, because browsers also apply it to redirects.
func ContentPolicy(nonce string) string {
	return "default-src 'none'; style-src 'nonce-" + nonce + "'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
}

// isPage reports whether a preflight is for a route that serves a page.
func (s *Server) isPage(preflight *http.Request) bool {
	asked := *preflight
	for _, asked.Method = range []string{preflight.Header.Get("Access-Control-Request-Method"), http.MethodGet} {
		if route, _, _ := s.router.find(&asked); route != nil {
			return route.Page
		}
	}
	return false
}

const errorPage = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>TITLE</title>
<style nonce="NONCE">:root{--back:#f4efe6;--text:#22303a;--line:#0b5f73}
@media(prefers-color-scheme:dark){:root{--back:#0d1a21;--text:#e8eef0;--line:#7fd0e0}}
body{font:1em/1.5 system-ui,sans-serif;color:var(--text);background:var(--back);max-width:28rem;margin:3rem auto;padding:0 1.25rem}
h1{font-size:1.6rem;line-height:1.2}
p{padding-left:.75rem;border-left:.3rem solid var(--line)}</style>
</head>
<body>
<h1>TITLE</h1>
<p>MESSAGE</p>
</body>
</html>
`

// errorHTML returns a page that shows the error.
func errorHTML(e *mxerr.Error, nonce string) []byte {
	return []byte(strings.NewReplacer("TITLE", html.EscapeString(http.StatusText(e.Status)), "NONCE", nonce, "MESSAGE", html.EscapeString(e.Msg)).Replace(errorPage))
}
