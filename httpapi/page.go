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

// newNonce returns a nonce for the style elements of one page, so that the browser applies no other styles.
func newNonce() string { return rand.Text() }

// pageHeaders sets the headers that every page has. A page has no CORS headers: scripts of other sites can neither read
// it nor send it requests that need a preflight. The browser loads no other resources for it, runs no script, shows it
// in no frame and submits its forms only to this server.
//
// Referrer-Policy is same-origin, because under no-referrer browsers send "Origin: null" with this server's own forms.
func pageHeaders(h http.Header, nonce string) {
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'nonce-"+nonce+"'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
}

// isPage reports whether a preflight asks for a page.
func (s *Server) isPage(preflight *http.Request) bool {
	asked := *preflight
	if asked.Method = preflight.Header.Get("Access-Control-Request-Method"); asked.Method == "" {
		asked.Method = http.MethodGet
	}
	route, _, _ := s.router.find(&asked)
	return route != nil && route.Page
}

const errorPage = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>TITLE</title>
<style nonce="NONCE">body{font:1em/1.5 sans-serif;max-width:40em;margin:3em auto;padding:0 1em}</style>
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
