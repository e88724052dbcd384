package process

import (
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

var (
	pageForm    = regexp.MustCompile(`(?s)<form method="post".*?</form>`)
	hiddenField = regexp.MustCompile(`<input type="hidden" name="([a-z_]+)" value="([^"]*)">`)
)

// Approve opens an authorization URL as a browser does, signs in on the server's pages, and allows the client to use
// the account. It returns the address at the client to which the browser is sent.
func (s *Server) Approve(t testing.TB, address, user, password string) string {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, Timeout: requestTimeout, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if !strings.HasPrefix(r.URL.String(), s.URL) {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	// load sends a request, and returns the page or the address at another server to which it redirects.
	load := func(request func() (*http.Response, error)) (page, away string) {
		t.Helper()
		r, err := request()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		raw, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != http.StatusOK && r.Header.Get("Location") == "" {
			t.Fatalf("%s: %d %v %s", address, r.StatusCode, err, raw)
		}
		return string(raw), r.Header.Get("Location")
	}
	submit := func(page string, filled url.Values) (string, string) {
		t.Helper()
		for _, field := range hiddenField.FindAllStringSubmatch(pageForm.FindString(page), -1) {
			filled.Set(field[1], html.UnescapeString(field[2]))
		}
		return load(func() (*http.Response, error) { return browser.PostForm(address, filled) })
	}
	page, _ := load(func() (*http.Response, error) { return browser.Get(address) })
	page, _ = submit(page, url.Values{"user": {user}, "password": {password}})
	page, away := submit(page, url.Values{"step": {"allow"}})
	if away == "" {
		t.Fatalf("the browser stays on the page %s", page)
	}
	return away
}
