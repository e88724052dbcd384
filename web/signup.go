package web

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"ebb/accounts"
	"ebb/accounts/gate"
	"ebb/httpapi"
	"ebb/mxerr"
	"ebb/storage"
)

// The views of the page for signing in, as values of signField in its address.
const (
	viewIn    = "in"
	viewUp    = "up"    // a new account
	viewReset = "reset" // a forgotten password
)

// viewOf returns the view to show in a browser in which nobody is signed in.
func (p *Pages) viewOf(r *httpapi.Request, n need) string {
	v := r.Query(signField)
	if v == "" && n.SignUp {
		v = viewUp
	}
	if v == viewUp && p.opts.Accounts.Requirements().Open || v == viewReset && p.opts.Accounts.HasEmail() {
		return v
	}
	return viewIn
}

// to returns the address of the page with another view.
func to(r *httpapi.Request, view string) string {
	q := r.URL.Query()
	q.Set(signField, view)
	return r.URL.Path + "?" + q.Encode()
}

// strangerView holds the data of the page for signing in, creating an account or resetting a password.
type strangerView struct {
	In, Up, Reset string // addresses of the views; "": not offered
	Server        string
	Token         bool            // whether a registration token is needed
	Terms         []accounts.Term // which must be accepted
	Email         string          // the verified address of the new account, or the one of the account whose password is reset
	Optional      bool            // whether the e-mail address may be left out
	Typed         url.Values      // what the user has entered before
}

// stranger returns the data of a page for a browser in which nobody is signed in.
func (p *Pages) stranger(r *httpapi.Request) strangerView {
	needs := p.opts.Accounts.Requirements()
	s := strangerView{In: to(r, viewIn), Server: p.opts.Server, Token: needs.Token, Terms: needs.Terms, Optional: needs.Email == accounts.EmailOptional}
	if needs.Open {
		s.Up = to(r, viewUp)
	}
	if p.opts.Accounts.HasEmail() {
		s.Reset = to(r, viewReset)
	}
	return s
}

// askUser returns the page for signing in, creating an account or resetting a password.
func (p *Pages) askUser(r *httpapi.Request, n need, v view, f url.Values, problem error) (any, error) {
	data, view := p.stranger(r), p.viewOf(r, n)
	data.Optional = data.Optional && view == viewUp
	if data.Typed = f; f == nil {
		data.Typed = url.Values{}
	}
	if view == viewIn {
		v.Title = english["signin.title"]
		if r.Query(signField) == viewUp || r.Query(signField) == "" && n.SignUp {
			v.Lead = english["signup.closed"]
		}
		v.Data, v.Providers = data, p.providerLinks(r, false)
		return p.askStranger(r, "sign-in", v, problem)
	}
	v.Script = false
	page := map[string]string{viewUp: "sign-up", viewReset: "new-password"}[view]
	v.Title = english[view+".title"]
	switch state, address, err := p.emailState(r, view, f); {
	case err != nil:
		return nil, err
	case state == emailUnknown:
		page, v.Lead = "email", english[view+".email"]
	case state == emailSent:
		page, v.Title, v.Lead = "email-sent", english["email.title"], english[view+".sent"]
	default:
		data.Email = address
	}
	v.Data = data
	return p.askStranger(r, page, v, problem)
}

// The states of the verification of an e-mail address.
type emailState int

const (
	emailUnknown  emailState = iota // no address was entered
	emailSent                       // the link has not been followed, or has expired
	emailVerified                   // the link was followed
	emailSkipped                    // the new account has no address
)

// emailCookie has the ID of the verification of an e-mail address that began in this browser.
const emailCookie = "ebb_email"

// emailCookieLifetime is how long a browser remembers that it waits for a link, which works for an hour.
const emailCookieLifetime = time.Hour

// emailState returns the state of the verification of the e-mail address for a view that needs one.
func (p *Pages) emailState(r *httpapi.Request, view string, f url.Values) (emailState, string, error) {
	use := p.opts.Accounts.Requirements().Email
	if view == viewUp && (use == accounts.EmailOff || use == accounts.EmailOptional && f.Get("skip") != "") {
		return emailSkipped, "", nil
	}
	creds := p.emailCredentials(r, view)
	if creds.SID == "" {
		return emailUnknown, "", nil
	}
	address, done, err := p.opts.Accounts.EmailVerified(r.Context(), creds, purposes[view])
	var known *mxerr.Error
	switch {
	case err != nil && !errors.As(err, &known):
		return emailUnknown, "", err
	case done && err == nil:
		return emailVerified, address, nil
	}
	return emailSent, "", nil // the same as for an address that no account has
}

var purposes = map[string]accounts.EmailPurpose{viewUp: accounts.EmailForAccount, viewReset: accounts.EmailForPassword}

// emailCredentials returns the credentials of the verification that began in a browser for a view. They are bound to
// the cookie for forms, so that only this browser can use the verification.
func (p *Pages) emailCredentials(r *httpapi.Request, view string) accounts.EmailCredentials {
	cookie := p.cookieOf(r, formCookie)
	kind, sid, _ := strings.Cut(p.bound(cookie, p.cookieOf(r, emailCookie)), " ")
	if kind != view {
		sid = ""
	}
	return accounts.EmailCredentials{SID: sid, ClientSecret: p.emailSecret(cookie)}
}

func (p *Pages) emailSecret(cookie string) string {
	return base64.RawURLEncoding.EncodeToString(p.mac("e-mail\x00" + cookie))
}

// sendLink is the step of the e-mail address. The answer is the same whether or not an account has the address.
func (p *Pages) sendLink(r *httpapi.Request, n need, _ standing, f url.Values) (any, error) {
	view, cookie := p.viewOf(r, n), p.cookieOf(r, formCookie)
	if view == viewIn {
		return nil, mxerr.Forbidden("%s", english["error.state"])
	}
	next := strings.TrimSuffix(p.opts.PublicURL, "/") + to(r, view)
	if len(next) > maxNextLink {
		next = ""
	}
	sid, err := p.opts.Accounts.RequestEmail(r.Context(), accounts.EmailRequest{
		Purpose: purposes[view], Address: f.Get("email"), ClientSecret: p.emailSecret(cookie), SendAttempt: p.opts.Now().UnixMilli(), NextLink: next, Network: r.Network(),
	})
	if mxerr.Code(err) == mxerr.CodeThreepidNotFound {
		sid, err = gate.Secret("", 16), nil
	}
	if err != nil {
		return nil, err
	}
	return redirect(to(r, view), p.cookie(emailCookie, p.bind(cookie, view+" "+sid), emailCookieLifetime))
}

// maxNextLink is the maximum length in bytes of the address at which a user continues after following the link in an
// e-mail. The user can also continue in the window in which the link was requested.
const maxNextLink = 2000

// checkLink is the step of a user who has followed the link.
func (p *Pages) checkLink(r *httpapi.Request, n need, _ standing, f url.Values) (any, error) {
	view := p.viewOf(r, n)
	state, _, err := p.emailState(r, view, f)
	if err != nil {
		return nil, err
	}
	if state == emailSent {
		return nil, mxerr.Forbidden("%s", english["email.not"])
	}
	return redirect(to(r, view))
}

// otherAddress is the step of a user who wants to enter another e-mail address.
func (p *Pages) otherAddress(r *httpapi.Request, n need, _ standing, _ url.Values) (any, error) {
	return redirect(to(r, p.viewOf(r, n)), p.cookie(emailCookie, "", 0))
}

// skipAddress is the step of a user who gives no e-mail address.
func (p *Pages) skipAddress(r *httpapi.Request, n need, _ standing, f url.Values) (any, error) {
	f.Set("skip", "1")
	return p.ask(r, n, standing{}, lacksUser, f, nil)
}

// checkRepeated checks that a form belongs to the given view, and that a new password was entered the same way twice.
//
// Errors: M_FORBIDDEN.
func (p *Pages) checkRepeated(r *httpapi.Request, n need, view string, f url.Values) error {
	switch {
	case p.viewOf(r, n) != view:
		return mxerr.Forbidden("%s", english["error.state"])
	case f.Get("password") != f.Get("again"):
		return mxerr.Forbidden("%s", english["up.differ"])
	}
	return nil
}

// signUp is the step that creates an account and signs it in to the pages. Where a second factor is required, its user
// sets up the first one next, which the same write allows.
func (p *Pages) signUp(r *httpapi.Request, n need, _ standing, f url.Values) (any, error) {
	if err := p.checkRepeated(r, n, viewUp, f); err != nil {
		return nil, err
	}
	a := accounts.Applicant{Username: strings.TrimSpace(f.Get("user")), Password: f.Get("password"), Token: strings.TrimSpace(f.Get("token")), Terms: f.Get("terms") != "", Network: r.Network()}
	state, _, err := p.emailState(r, viewUp, f)
	switch {
	case err != nil:
		return nil, err
	case state == emailVerified:
		a.Email = p.emailCredentials(r, viewUp)
	case state != emailSkipped:
		return nil, mxerr.Forbidden("%s", english["email.not"])
	}
	cookies := []*http.Cookie{p.cookie(formCookie, "", 0), p.cookie(emailCookie, "", 0)}
	a.Also = func(tx *storage.Tx, account storage.AccountRow) error {
		cookie := gate.Secret("", 32)
		if err := p.proveIn(tx, standing{network: r.Network()}, cookie, proof{user: account.NID, shown: gate.Password}); err != nil {
			return err
		}
		cookies = append(cookies, p.cookie(sessionCookie, cookie, sessionLifetime))
		return p.opts.Factors.AllowSignUp(tx, account)
	}
	if _, err := p.opts.Accounts.SignUp(r.Context(), a); err != nil {
		return nil, err
	}
	return redirect(home(r), cookies...)
}

// resetPassword is the step of a new password. It signs nobody in, so that the account's second factor is still needed.
func (p *Pages) resetPassword(r *httpapi.Request, n need, _ standing, f url.Values) (any, error) {
	if err := p.checkRepeated(r, n, viewReset, f); err != nil {
		return nil, err
	}
	if err := p.opts.Accounts.ResetByEmail(r.Context(), p.emailCredentials(r, viewReset), f.Get("password"), f.Get("everywhere") != ""); err != nil {
		return nil, err
	}
	h := http.Header{"Set-Cookie": {p.cookie(emailCookie, "", 0).String()}}
	return p.show(r, http.StatusOK, "reset-done", "", view{Title: english["reset.done"], Action: to(r, viewIn)}, h)
}
