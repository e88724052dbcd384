// Package web serves the pages on which users sign in with a browser and allow clients to use their accounts. They work
// without JavaScript, except for passkeys, load nothing from elsewhere and cannot be framed.
//
// A page keeps no state on the server except the session of the browser: the parameters of an authorization request
// stay in the address of the page and are checked again with every step.
//
// A page that needs to know its user calls signedIn first, in the handlers of both GET and POST of its address:
//
//	s, answer, err := p.signedIn(r, need{Lead: "…", Recent: 10 * time.Minute})
//	if err != nil || answer != nil {
//		return answer, err
//	}
//
// If nobody is signed in, if the account needs a second factor that was not shown, or if it was shown too long ago,
// answer is the page that asks for it. The forms of these pages lead to the same address, and signedIn handles them:
// they have the field "sign", which forms of other pages must not have. After signing in, the browser gets the same
// address again by GET. A handler of POST then reads its own form with form(r, s.cookie), which checks that the form
// comes from a page that was shown to this session. s.User and s.UserID are the user, s.Shown() what they have shown in
// this session (for factors.Grant), and s.Factors the second factors that the account needs. A handler that checks
// further evidence records it with prove and sets the cookies that prove returns. Pages are shown by show, with a
// template of pages/ and a view, whose Data may be anything.
package web

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"ebb/accounts"
	"ebb/accounts/factors"
	"ebb/accounts/gate"
	"ebb/accounts/oauth"
	"ebb/accounts/upstream"
	"ebb/export"
	"ebb/holds"
	"ebb/httpapi"
	"ebb/identity"
	"ebb/media"
	"ebb/mxerr"
	"ebb/notices"
	"ebb/redactions"
	"ebb/storage"
)

//go:embed pages style.css page.js
var files embed.FS

// Options are the dependencies and settings of Pages.
type Options struct {
	Server    string // name of the server
	PublicURL string
	DB        *storage.DB
	Accounts  *accounts.Service
	Gate      *gate.Gate
	Notices   *notices.Service // nil to alert nobody
	Factors   *factors.Service
	Identity  *identity.Client
	OAuth     *oauth.Service // nil if OAuth 2.0 is off; then there are only the pages that need no session
	HelpPage  string         // address of a page of the administrator's, to which the welcome page links; "" if there is none
	Upstream  *upstream.Service
	Media     *media.Service
	Export    *export.Service
	Holds     *holds.Service
	// Redactions deletes old messages of users who want that.
	Redactions *redactions.Service
	Now        func() time.Time
	Log        *slog.Logger
}

// Pages serves the pages. It is safe for concurrent use.
type Pages struct {
	opts  Options
	pages *template.Template
	css   template.CSS
	js    template.JS
	host  string // of the public URL
	tls   bool   // whether browsers reach the server by https
	key   []byte // of the tokens in forms
}

// New returns Pages.
func New(o Options) *Pages {
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Pages{opts: o, key: o.DB.Secret("web forms")}
	p.pages = template.Must(template.New("").Funcs(template.FuncMap{"t": text}).ParseFS(files, "pages/*.html"))
	css, _ := files.ReadFile("style.css") // embedded
	p.css = template.CSS(css)             //nolint:gosec // the file is part of the program
	js, _ := files.ReadFile("page.js")    // embedded
	p.js = template.JS(js)                //nolint:gosec // the same
	if u, err := url.Parse(o.PublicURL); err == nil {
		p.host, p.tls = u.Host, u.Scheme == "https"
	}
	return p
}

// maxForm is the maximum size in bytes of a form.
const maxForm = 16 << 10

// Routes returns the routes of the pages.
func (p *Pages) Routes() []httpapi.Route {
	always := func(method, path, operation string, handler func(*httpapi.Request) (any, error)) httpapi.Route {
		return httpapi.Route{Method: method, Path: path, OperationID: operation, Page: true, Rate: httpapi.Anonymous, MaxBody: maxForm, Handler: p.handler(handler)}
	}
	page := func(method, path, operation string, handler func(*httpapi.Request) (any, error)) httpapi.Route {
		return always(method, path, operation, p.ifOn(handler))
	}
	return slices.Concat(p.ssoRoutes(), p.upstreamRoutes(), p.accountRoutes(page), []httpapi.Route{
		always("GET", "/", "getWelcomePage", p.getWelcome),
		always("GET", accounts.EmailLinkPath, "getEmailPage", p.getEmail),
		always("POST", accounts.EmailLinkPath, "postEmailPage", p.postEmail),
		always("GET", notices.LinkPath, "getNotMePage", p.getNotMe),
		always("POST", notices.LinkPath, "postNotMePage", p.postNotMe),
		page("GET", oauth.PathAuthorize, "getAuthorizePage", p.getAuthorize),
		page("POST", oauth.PathAuthorize, "postAuthorizePage", p.postAuthorize),
		page("GET", oauth.PathLink, "getLinkPage", p.getLink),
		page("POST", oauth.PathLink, "postLinkPage", p.postLink),
		page("GET", factors.LinkPath, "getEnrolPage", p.getEnrol),
		page("POST", factors.LinkPath, "postEnrolPage", p.postEnrol),
	})
}

// view holds the values that the template of a page inserts.
type view struct {
	Title, Lead, Problem string
	User                 string // user name in a form, or the user who is signed in
	Client               oauth.Metadata
	Redirect             string // where the browser continues
	Device               string // device ID
	Addr, UserCode       string // of a device without a browser
	Action               string // address of the form
	Script               bool   // whether the page has the script for passkeys
	Target               string // where the form leads besides this server, as a source of a content security policy
	Data                 any    // what only this page shows
	Providers            []providerLink
	Images               bool // whether the page contains images as data URLs

	// The fields below are set by show.
	Server, Nonce, CSRF string
	CSS                 template.CSS
	JS                  template.JS
}

// show returns the page made from the named template. cookie is the value to which the token in its form is bound, or
// "" if it has no form.
func (p *Pages) show(r *httpapi.Request, status int, name, cookie string, v view, h http.Header) (any, error) {
	v.Server, v.Nonce, v.CSS, v.Problem = p.opts.Server, r.Nonce, p.css, sentence(v.Problem)
	if cookie != "" {
		v.CSRF = p.formToken(cookie)
	}
	if v.Script {
		v.JS = p.js
	}
	if v.Script || v.Images || v.Target != "" {
		if h == nil {
			h = http.Header{}
		}
		h.Set("Content-Security-Policy", contentPolicy(r.Nonce, v))
	}
	var out bytes.Buffer
	if err := p.pages.ExecuteTemplate(&out, name, v); err != nil {
		return nil, err
	}
	return httpapi.Raw{Status: status, ContentType: httpapi.HTML, Header: h, Body: out.Bytes()}, nil
}

// sentence returns a message as the pages show it: those of the API have no period at the end.
func sentence(text string) string {
	if text == "" || strings.ContainsAny(text[len(text)-1:], ".!?") {
		return text
	}
	return text + "."
}

// contentPolicy returns the content security policy of a page that runs a script, contains images or has a form that
// leads elsewhere.
func contentPolicy(nonce string, v view) string {
	policy := httpapi.ContentPolicy(nonce)
	if v.Target != "" { // after the form is sent, the browser is redirected there
		policy = strings.Replace(policy, "form-action 'self'", "form-action 'self' "+v.Target, 1)
	}
	if v.Images {
		policy += "; img-src data:"
	}
	if v.Script {
		policy += "; script-src 'nonce-" + nonce + "'; connect-src 'self'"
	}
	return policy
}

// ifOn returns the handler of a page that exists only if OAuth 2.0 is on.
func (p *Pages) ifOn(f func(*httpapi.Request) (any, error)) func(*httpapi.Request) (any, error) {
	if p.opts.OAuth != nil {
		return f
	}
	return func(*httpapi.Request) (any, error) { return nil, mxerr.NotFound("%s", english["error.off"]) }
}

// handler returns a handler that calls f and shows its error on a page of the same look.
func (p *Pages) handler(f func(*httpapi.Request) (any, error)) func(*httpapi.Request) (any, error) {
	return func(r *httpapi.Request) (any, error) {
		v, err := f(r)
		if err != nil {
			return p.failed(r, err)
		}
		return v, nil
	}
}

// failed returns the page that shows an error. It returns errors that are not for users unchanged, because httpapi logs
// them.
func (p *Pages) failed(r *httpapi.Request, err error) (any, error) {
	var status int
	v := view{Title: english["error.title"]}
	var known *mxerr.Error
	var e *oauth.Error
	switch {
	case errors.As(err, &e):
		status, v.Problem, v.Lead = e.Status, e.Description, english["error.client"]
	case errors.As(err, &known):
		status, v.Problem = known.Status, known.Msg
	default:
		return nil, err
	}
	if p.opts.OAuth != nil && strings.HasPrefix(r.URL.Path, pathAccount) {
		v.Data = pathAccount
	}
	return p.show(r, status, "message", "", v, nil)
}

// redirect sends the browser to another address, by GET.
func redirect(to string, cookies ...*http.Cookie) (any, error) {
	h := http.Header{"Location": {to}}
	for _, c := range cookies {
		h.Add("Set-Cookie", c.String())
	}
	return httpapi.Raw{Status: http.StatusSeeOther, ContentType: httpapi.HTML, Header: h}, nil
}

// The cookies: one of a browser in which nobody is signed in, to which the form for signing in is bound, and one of a
// session, which is never the same.
const (
	formCookie    = "ebb_form"
	sessionCookie = "ebb_session"
)

func (p *Pages) cookieName(name string) string {
	if p.tls {
		return "__Host-" + name // which another host of the domain cannot set
	}
	return name
}

// cookie returns a cookie that scripts cannot read and that is not sent with forms of other websites. An empty value
// deletes it.
func (p *Pages) cookie(name, value string, lifetime time.Duration) *http.Cookie {
	//nolint:gosec // Secure is set wherever the pages are served over https; plain http is for tests on this machine
	c := &http.Cookie{Name: p.cookieName(name), Value: value, Path: "/", MaxAge: int(lifetime.Seconds()), Secure: p.tls, HttpOnly: true, SameSite: http.SameSiteLaxMode}
	if value == "" {
		c.MaxAge = -1
	}
	return c
}

func (p *Pages) cookieOf(r *httpapi.Request, name string) string {
	c, err := r.Cookie(p.cookieName(name))
	if err != nil {
		return ""
	}
	return c.Value
}

// formToken returns the token of forms that are shown to the holder of a cookie.
func (p *Pages) formToken(cookie string) string {
	return base64.RawURLEncoding.EncodeToString(p.mac(cookie))
}

func (p *Pages) mac(text string) []byte {
	mac := hmac.New(sha256.New, p.key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// form reads a form and checks that it comes from a page of this server that was shown to the holder of a cookie.
//
// Errors: M_FORBIDDEN, M_INVALID_PARAM.
func (p *Pages) form(r *httpapi.Request, cookie string) (url.Values, error) {
	f, err := r.Form()
	if err != nil {
		return nil, err
	}
	return f, p.checkForm(r, cookie, f)
}

// checkForm checks that a form comes from a page of this server that was shown to the holder of a cookie.
//
// Errors: M_FORBIDDEN.
func (p *Pages) checkForm(r *httpapi.Request, cookie string, f url.Values) error {
	bad := mxerr.Forbidden("%s", english["error.csrf"])
	if origin := r.Header.Get("Origin"); origin != "" {
		u, err := url.Parse(origin)
		if err != nil || u.Host != p.host && u.Host != r.Host || u.Host == "" {
			return bad
		}
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		return bad
	}
	if cookie == "" || !hmac.Equal([]byte(f.Get("csrf")), []byte(p.formToken(cookie))) {
		return bad
	}
	return nil
}

// here returns the address of the page, without the host.
func here(r *httpapi.Request) string {
	if r.URL.RawQuery == "" {
		return r.URL.Path
	}
	return r.URL.Path + "?" + r.URL.RawQuery
}

// hintedUser returns the user name in a login_hint (MSC4198), or "".
func hintedUser(hint string) string {
	user, found := strings.CutPrefix(hint, "mxid:")
	if !found || len(user) > 255 {
		return ""
	}
	return user
}
