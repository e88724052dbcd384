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
	page, away := s.allow(t, address, user, password)
	if away == "" {
		t.Fatalf("the browser stays on the page %s", page)
	}
	return away
}

// ApproveDevice opens the address that a device shows as a browser does, signs in on the server's pages, and allows the
// device to use the account.
func (s *Server) ApproveDevice(t testing.TB, address, user, password string) {
	t.Helper()
	if page, away := s.allow(t, address, user, password); away != "" || strings.Contains(page, "<form") {
		t.Fatalf("the device is not connected: %s%s", away, page)
	}
}

// allow opens an address, signs in, and allows what the page asks for. It returns the last page, or the address at
// another server to which the browser is sent.
func (s *Server) allow(t testing.TB, address, user, password string) (page, away string) {
	t.Helper()
	b := s.newBrowser(t)
	page, _ = b.open(address)
	page, _ = b.submit(address, page, url.Values{"user": {user}, "password": {password}})
	return b.submit(address, page, url.Values{"step": {"allow"}})
}

// browser keeps cookies, and follows redirects that stay on the server.
type browser struct {
	t    testing.TB
	http *http.Client
}

func (s *Server) newBrowser(t testing.TB) browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return browser{t, &http.Client{Jar: jar, Timeout: requestTimeout, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if !strings.HasPrefix(r.URL.String(), s.URL) {
			return http.ErrUseLastResponse
		}
		return nil
	}}}
}

func (b browser) open(address string) (page, away string) {
	b.t.Helper()
	r, err := b.http.Get(address) //nolint:bodyclose // read closes it
	return b.read(r, err)
}

// submit sends the first form of a page to an address, with its hidden fields.
func (b browser) submit(address, page string, filled url.Values) (next, away string) {
	b.t.Helper()
	for _, field := range hiddenField.FindAllStringSubmatch(pageForm.FindString(page), -1) {
		filled.Set(field[1], html.UnescapeString(field[2]))
	}
	r, err := b.http.PostForm(address, filled) //nolint:bodyclose // read closes it
	return b.read(r, err)
}

// read returns the page of a response, or the address at another server to which it redirects.
func (b browser) read(r *http.Response, err error) (page, away string) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	raw, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK && r.Header.Get("Location") == "" {
		b.t.Fatalf("%s: %d %v %s", r.Request.URL, r.StatusCode, err, raw)
	}
	return string(raw), r.Header.Get("Location")
}
