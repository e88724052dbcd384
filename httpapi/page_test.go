package httpapi

import (
	"log/slog"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"ebb/mxerr"
)

func pageServer() *Server {
	return New(Options{Log: slog.New(slog.DiscardHandler), Routes: []Route{
		{Method: "GET", Path: "/page/{name}", Page: true, Handler: func(r *Request) (any, error) {
			return Raw{ContentType: HTML, Body: []byte("<style nonce=" + r.Nonce + "></style>")}, nil
		}},
		{Method: "POST", Path: "/page/{name}", Page: true, Handler: func(r *Request) (any, error) {
			return nil, mxerr.Forbidden("%s may not do that", r.Var("name"))
		}},
		{Method: "GET", Path: "/broken", Page: true, Handler: func(*Request) (any, error) { panic("secret") }},
		{Method: "GET", Path: "/data", Handler: func(*Request) (any, error) { return struct{}{}, nil }},
	}})
}

var cspNonce = regexp.MustCompile(`style-src 'nonce-([A-Z2-7]{26})'`)

// checkPage fails the test unless a response has the headers of a page, and returns its nonce.
func checkPage(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	h := w.Header()
	for name, want := range map[string]string{"Content-Type": HTML, "Referrer-Policy": "same-origin", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("a page has %s", name)
		}
	}
	csp := h.Get("Content-Security-Policy")
	for _, part := range []string{"default-src 'none'", "form-action 'self'", "frame-ancestors 'none'"} {
		if !strings.Contains(csp, part) {
			t.Errorf("the policy %q lacks %s", csp, part)
		}
	}
	found := cspNonce.FindStringSubmatch(csp)
	if found == nil {
		t.Fatalf("the policy %q has no nonce", csp)
	}
	return found[1]
}

func TestPageIsServedToItsOwnOriginOnly(t *testing.T) {
	s, seen := pageServer(), map[string]bool{}
	for range 2 {
		w := do(s, "GET", "/page/a", "")
		nonce := checkPage(t, w)
		if w.Code != 200 || w.Body.String() != "<style nonce="+nonce+"></style>" || seen[nonce] {
			t.Errorf("%d %s, nonce %s", w.Code, w.Body, nonce)
		}
		seen[nonce] = true
	}
}

func TestErrorOfAPageIsAPage(t *testing.T) {
	s := pageServer()
	w := do(s, "POST", "/page/%3Cscript%3E", "")
	nonce := checkPage(t, w)
	body := w.Body.String()
	if w.Code != 403 || !strings.Contains(body, "&lt;script&gt; may not do that") || strings.Contains(body, "<script") || !strings.Contains(body, nonce) {
		t.Errorf("%d %s", w.Code, body)
	}
	w = do(s, "GET", "/broken", "")
	checkPage(t, w)
	if body = w.Body.String(); w.Code != 500 || !strings.Contains(body, "Internal server error") || strings.Contains(body, "secret") {
		t.Errorf("%d %s", w.Code, body)
	}
}

func TestPreflightAllowsOtherSitesDataButNoPage(t *testing.T) {
	s := pageServer()
	for _, method := range []string{"", "GET", "POST"} {
		w := do(s, "OPTIONS", "/page/a", "", "Access-Control-Request-Method", method)
		checkPage(t, w)
		if w.Code != 405 {
			t.Errorf("%q: %d", method, w.Code)
		}
	}
	for _, target := range []string{"/data", "/unknown"} {
		if w := do(s, "OPTIONS", target, "", "Access-Control-Request-Method", "GET"); w.Code != 204 || w.Header().Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: %d %v", target, w.Code, w.Header())
		}
	}
}
