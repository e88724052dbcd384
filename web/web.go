// Package web serves the pages on which users sign in with a browser and allow clients to use their accounts. They work
// without JavaScript, load nothing from elsewhere and cannot be framed.
//
// A page keeps no state on the server except the session of the browser: the parameters of an authorization request
// stay in the address of the page and are checked again with every step.
package web

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts"
	"ebb/accounts/gate"
	"ebb/accounts/oauth"
	"ebb/httpapi"
	"ebb/mxerr"
	"ebb/storage"
)

//go:embed pages style.css
var files embed.FS

// Options are the dependencies and settings of Pages.
type Options struct {
	Server    string // name of the server
	PublicURL string
	DB        *storage.DB
	Accounts  *accounts.Service
	Gate      *gate.Gate
	OAuth     *oauth.Service // nil if OAuth 2.0 is off; then there are no pages
	Now       func() time.Time
	Log       *slog.Logger
}

// Pages serves the pages. It is safe for concurrent use.
type Pages struct {
	opts  Options
	pages *template.Template
	css   template.CSS
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
	if u, err := url.Parse(o.PublicURL); err == nil {
		p.host, p.tls = u.Host, u.Scheme == "https"
	}
	return p
}

// maxForm is the maximum size in bytes of a form.
const maxForm = 16 << 10

// Routes returns the routes of the pages.
func (p *Pages) Routes() []httpapi.Route {
	page := func(method, path, operation string, handler func(*httpapi.Request) (any, error)) httpapi.Route {
		return httpapi.Route{Method: method, Path: path, OperationID: operation, Page: true, Rate: httpapi.Anonymous, MaxBody: maxForm, Handler: p.handler(handler)}
	}
	return []httpapi.Route{
		page("GET", oauth.PathAuthorize, "getAuthorizePage", p.getAuthorize),
		page("POST", oauth.PathAuthorize, "postAuthorizePage", p.postAuthorize),
		page("GET", oauth.PathLink, "getLinkPage", p.getLink),
		page("POST", oauth.PathLink, "postLinkPage", p.postLink),
	}
}

// view is what a page shows.
type view struct {
	Title, Lead, Problem string
	User                 string // user name in a form, or the user who is signed in
	Client               oauth.Metadata
	Redirect             string // where the browser continues
	Device               string // device ID
	Addr, UserCode       string // of a device without a browser
	Action               string // address of the form

	// The fields below are set by show.
	Server, Nonce, CSRF string
	CSS                 template.CSS
}

// show returns a page. cookie is the value to which the token in its form is bound.
func (p *Pages) show(r *httpapi.Request, status int, name, cookie string, v view, h http.Header) (any, error) {
	v.Server, v.Nonce, v.CSS = p.opts.Server, r.Nonce, p.css
	if cookie != "" {
		v.CSRF = p.formToken(cookie)
	}
	var out bytes.Buffer
	if err := p.pages.ExecuteTemplate(&out, name, v); err != nil {
		return nil, err
	}
	return httpapi.Raw{Status: status, ContentType: httpapi.HTML, Header: h, Body: out.Bytes()}, nil
}

// handler shows errors on a page of the same look. It refuses forms of other websites.
func (p *Pages) handler(f func(*httpapi.Request) (any, error)) func(*httpapi.Request) (any, error) {
	return func(r *httpapi.Request) (any, error) {
		if p.opts.OAuth == nil {
			return p.failed(r, mxerr.NotFound("%s", english["error.off"]))
		}
		v, err := f(r)
		if err != nil {
			return p.failed(r, err)
		}
		return v, nil
	}
}

// failed returns the page for an error. Errors that are not for users are left to httpapi, which logs them.
func (p *Pages) failed(r *httpapi.Request, err error) (any, error) {
	var status int
	var message string
	var known *mxerr.Error
	var e *oauth.Error
	switch {
	case errors.As(err, &e):
		status, message = e.Status, e.Description
	case errors.As(err, &known):
		status, message = known.Status, known.Msg
	default:
		return nil, err
	}
	return p.show(r, status, "message", "", view{Title: english["error.title"], Problem: message}, nil)
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

// sessionLifetime is how long a user stays signed in to the pages.
const sessionLifetime = 30 * time.Minute

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
	mac := hmac.New(sha256.New, p.key)
	mac.Write([]byte(cookie))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// form reads a form and checks that it comes from a page of this server that was shown to the holder of a cookie.
//
// Errors: M_FORBIDDEN, M_INVALID_PARAM.
func (p *Pages) form(r *httpapi.Request, cookie string) (url.Values, error) {
	body, err := r.Body()
	if err != nil {
		return nil, err
	}
	f, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, mxerr.InvalidParam("The form is not valid").Because(err)
	}
	bad := mxerr.Forbidden("%s", english["error.csrf"])
	if origin := r.Header.Get("Origin"); origin != "" {
		u, err := url.Parse(origin)
		if err != nil || u.Host != p.host && u.Host != r.Host || u.Host == "" {
			return nil, bad
		}
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		return nil, bad
	}
	if cookie == "" || !hmac.Equal([]byte(f.Get("csrf")), []byte(p.formToken(cookie))) {
		return nil, bad
	}
	return f, nil
}

// session is the session of a browser.
type session struct {
	storage.WebSession
	cookie string
	UserID id.UserID
}

// session returns the session of the browser, if its user is signed in.
func (p *Pages) session(r *httpapi.Request) (s session, found bool, err error) {
	if s.cookie = p.cookieOf(r, sessionCookie); s.cookie == "" {
		return s, false, nil
	}
	err = p.opts.DB.Read(r.Context(), func(tx *storage.Tx) (err error) {
		s.WebSession, found, err = tx.WebSession(gate.KeyOf(s.cookie).String())
		return err
	})
	s.UserID = p.opts.Accounts.UserID(s.Localpart)
	return s, found, err
}

// showSignIn returns the page for signing in.
func (p *Pages) showSignIn(r *httpapi.Request, lead, user, action string, problem error) (any, error) {
	cookie := p.cookieOf(r, formCookie)
	h := http.Header{}
	if cookie == "" {
		cookie = gate.Secret("", 32)
		h.Add("Set-Cookie", p.cookie(formCookie, cookie, 24*time.Hour).String())
	}
	status, v := http.StatusOK, view{Title: english["signin.title"], Lead: lead, User: user, Action: action}
	if problem != nil {
		var known *mxerr.Error
		if !errors.As(problem, &known) {
			return nil, problem
		}
		status, v.Problem = known.Status, known.Msg
		if known.Code == mxerr.CodeLimitExceeded {
			h.Set("Retry-After", "60")
		}
	}
	return p.show(r, status, "sign-in", cookie, v, h)
}

// signIn handles the form for signing in. On success it shows the page at the same address again.
func (p *Pages) signIn(r *httpapi.Request, lead string) (any, error) {
	f, err := p.form(r, p.cookieOf(r, formCookie))
	if err != nil {
		return nil, err
	}
	action := here(r)
	a, err := p.opts.Accounts.VerifyPassword(r.Context(), f.Get("user"), f.Get("password"), r.Network())
	if err != nil {
		return p.showSignIn(r, lead, f.Get("user"), action, err)
	}
	cookie, err := p.begin(r.Context(), a, gate.Password)
	if err != nil {
		return p.showSignIn(r, lead, f.Get("user"), action, err)
	}
	return redirect(action, p.cookie(sessionCookie, cookie, sessionLifetime), p.cookie(formCookie, "", 0))
}

// begin creates a session for a user who has shown enough, and returns its cookie. It is the only place where sessions
// of browsers begin: pages that ask for a second factor call it with more evidence.
//
// Errors: M_FORBIDDEN, M_USER_LOCKED.
func (p *Pages) begin(ctx context.Context, checked storage.AccountRow, shown gate.Evidence) (string, error) {
	cookie := gate.Secret("", 32)
	err := p.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		a, found, err := tx.Account(checked.NID)
		switch {
		case err != nil:
			return err
		case !found || a.DeactivatedTS != 0 || a.Password != checked.Password: // changed in the meantime
			return p.opts.Gate.ErrWrongPassword()
		case a.Locked:
			return mxerr.UserLocked()
		}
		if needed, err := p.opts.Gate.NeedsSecond(tx, a); err != nil {
			return err
		} else if needed && !shown.TwoFactors() {
			return mxerr.Forbidden("%s", english["error.second"])
		}
		return tx.AddWebSession(gate.KeyOf(cookie).String(), storage.WebSession{User: a.NID, Evidence: int64(shown), ExpiresTS: tx.Now().Add(sessionLifetime).UnixMilli()})
	})
	return cookie, err
}

// signOut ends the session of the browser and shows the page at the same address again.
func (p *Pages) signOut(r *httpapi.Request, s session) (any, error) {
	err := p.opts.DB.Write(r.Context(), func(tx *storage.Tx) error { return tx.DropWebSession(gate.KeyOf(s.cookie).String()) })
	if err != nil {
		return nil, err
	}
	return redirect(here(r), p.cookie(sessionCookie, "", 0))
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
