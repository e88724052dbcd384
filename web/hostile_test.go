package web_test

import (
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"ebb/config"
	"ebb/internal/testserver"
)

// hostile has values that no browser sends.
var hostile = map[string]string{
	"NUL": "a\x00b", "not UTF-8": "a\xff\xfeb", "a surrogate": "a\xed\xa0\x80b", "12 KiB": strings.Repeat("a", 12<<10),
	"newlines": "a\r\nSet-Cookie: x=y", "direction": "a\u202eb", "markup": `"><script>alert(1)</script>`,
}

// eachDatabase runs f on a server of its own for each kind of database: what one of them stores, another may refuse.
func eachDatabase(t *testing.T, f func(t *testing.T, l *lab)) {
	for name, use := range map[string]func(*testing.T, *config.Config){
		"SQLite":     func(*testing.T, *config.Config) {},
		"PostgreSQL": func(t *testing.T, c *config.Config) { testserver.OnPostgres(t, c) },
	} {
		t.Run(name, func(t *testing.T) {
			l := &lab{Server: testserver.New(t, func(c *config.Config) {
				pages(c)
				use(t, c)
				c.Auth.MFA, c.Registration.Mode, c.RateLimits.Enabled = "optional", "open", false
			}), t: t}
			l.Register("alice")
			f(t, l)
		})
	}
}

// unharmed fails the test if a response is the server's fault, or repeats markup.
func (r reply) unharmed(what ...any) {
	r.t.Helper()
	if r.status >= http.StatusInternalServerError || strings.Contains(r.body, "<script>alert") || strings.Contains(strings.Join(r.header["Set-Cookie"], " "), "x=y") {
		r.t.Errorf("%v: %d %.200s", what, r.status, r.body)
	}
}

var (
	inputs  = regexp.MustCompile(`<input[^>]*\bname="([a-z_]+)"`)
	buttons = regexp.MustCompile(`<button[^>]*name="([a-z]+)" value="([a-z-]+)"`)
)

// attack sends each form of a page with a hostile value in each of its fields in turn, and returns how many forms it
// has sent.
func (b *browser) attack(address string) (sent int) {
	b.l.t.Helper()
	for _, form := range forms.FindAllStringSubmatch(b.get(address).body, -1) {
		plain := url.Values{}
		for _, m := range append(hidden.FindAllStringSubmatch(form[2], -1), buttons.FindAllStringSubmatch(form[2], 1)...) {
			plain.Set(m[1], html.UnescapeString(m[2]))
		}
		for _, field := range inputs.FindAllStringSubmatch(form[2], -1) {
			for kind, value := range hostile {
				f := url.Values{field[1]: {value}}
				for name, values := range plain {
					if name != field[1] {
						f[name] = values
					}
				}
				b.post(html.UnescapeString(form[1]), f).unharmed(address, field[1], kind)
				sent++
			}
		}
	}
	return sent
}

func TestHostileFieldsOfFormsAreRefused(t *testing.T) {
	eachDatabase(t, func(t *testing.T, l *lab) {
		for _, address := range []string{l.authorize(), l.authorize() + "&prompt=create", "/oauth2/link", "/oauth2/sso?redirectUrl=https://app.example.com/"} {
			if l.browser().attack(address) == 0 {
				t.Errorf("%s has no fields", address)
			}
		}
		device := l.Login("alice").DeviceID
		for _, path := range []string{"/profile", "/password", "/security/add", "/devices", "/delete", "/device?device_id=" + device} {
			b, _ := l.own(accountPage + "/profile")
			if b.attack(accountPage+path) == 0 {
				t.Errorf("%s has no fields", path)
			}
		}
		b, page := l.own(accountPage + "/profile")
		_, f := page.form()
		for kind, value := range hostile {
			for path, step := range map[string]string{"/approve": "approve", "/identities": "unlink", "/security": "remove-passkey"} {
				b.post(accountPage+path, url.Values{"csrf": f["csrf"], "step": {step}, "session": {value}, "issuer": {value}, "subject": {value}, "id": {value}}).unharmed(path, step, kind)
			}
			b.post("/oauth2/link", url.Values{"csrf": f["csrf"], "step": {"allow"}, "user_code": {value}}).unharmed("user_code", kind)
		}
	})
}

func TestHostileParametersAreRefused(t *testing.T) {
	eachDatabase(t, func(t *testing.T, l *lab) {
		b, _ := l.own(accountPage)
		for kind, value := range hostile {
			for _, path := range []string{
				"/oauth2/authorize?client_id=", "/oauth2/link?user_code=", "/oauth2/sso?redirectUrl=", accountPage + "?session=", accountPage + "/approve?session=",
				accountPage + "/device?device_id=", accountPage + "?done=", "/_ebb/account/enrol?token=", "/_ebb/account/notme?token=", "/oauth2/upstream/x/callback?state=",
			} {
				b.get(path+url.QueryEscape(value)).unharmed(path, kind)
				l.browser().get(path+url.QueryEscape(value)).unharmed(path, kind)
			}
			for _, path := range []string{"/oauth2/token", "/oauth2/revoke", "/oauth2/device"} {
				for _, grant := range []string{"authorization_code", "refresh_token", grantDev, value} {
					l.browser().post(path, url.Values{
						"grant_type": {grant}, "client_id": {value}, "code": {value}, "redirect_uri": {value}, "code_verifier": {value}, "refresh_token": {"ebb_r_" + value + ".1.x"},
						"device_code": {value}, "token": {value}, "scope": {value},
					}).unharmed(path, grant, kind)
				}
			}
			status, _, answer := l.json("/oauth2/register", obj{"client_name": value, "client_uri": "https://example.com/" + value, "redirect_uris": []string{callback + value}, "application_type": value})
			if status != http.StatusBadRequest || answer["error"] == nil {
				t.Errorf("register, %s: %d %v", kind, status, answer)
			}
		}
	})
}

func TestTokenEndpointTakesFormsOfClientsWithoutSecretsOnly(t *testing.T) {
	l := newLab(t)
	c, client := l.client(nil), l.browser()
	good := url.Values{"grant_type": {"refresh_token"}, "client_id": {c.ClientID}, "refresh_token": {"ebb_r_x.1.y"}}
	for name, want := range map[string]struct {
		header string
		status int
		code   string
	}{
		"Content-Type=application/x-www-form-urlencoded; charset=UTF-8": {"", 400, "invalid_grant"},
		"Content-Type=application/json":                                 {"", 400, "invalid_request"},
		"Content-Type=text/plain":                                       {"", 400, "invalid_request"},
		"Content-Type=multipart/form-data; boundary=x":                  {"", 400, "invalid_request"},
		"Content-Type=/;;":                                              {"", 400, "invalid_request"},
		"Authorization=Basic b3RoZXI6c2VjcmV0":                          {"Basic", 401, "invalid_client"}, // of another client than the body
		"Authorization=Bearer x":                                        {"", 400, "invalid_grant"},
	} {
		header, value, _ := strings.Cut(name, "=")
		for _, path := range []string{"/oauth2/token", "/oauth2/revoke", "/oauth2/device"} {
			r := client.post(path, good, header, value)
			if r.header.Get("WWW-Authenticate") != want.header || path == "/oauth2/token" && (r.status != want.status || !strings.Contains(r.body, fmt.Sprintf(`"error":%q`, want.code))) {
				t.Errorf("%s, %s: %d %v %s", path, name, r.status, r.header["Www-Authenticate"], r.body)
			}
		}
	}
	query := client.post("/oauth2/token?"+good.Encode(), nil)
	if query.status != 400 || !strings.Contains(query.body, "grant_type is missing") {
		t.Errorf("parameters in the address: %d %s", query.status, query.body)
	}
}
