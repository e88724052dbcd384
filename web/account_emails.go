package web

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts"
	"ebb/accounts/gate"
	"ebb/httpapi"
	"ebb/mxerr"
)

// addingCookie is the cookie of a browser in which a user adds an e-mail address. It is encrypted. Unlike the cookie of
// the session, it does not change when the user confirms who they are while the e-mail is on its way.
const addingCookie = "ebb_add_email"

// addingEmail is an e-mail address that a user adds, and the verification of it.
type addingEmail struct {
	User    id.UserID `json:"u"`
	Address string    `json:"a"`
	SID     string    `json:"s"`
	Secret  string    `json:"c"`
	Until   int64     `json:"t"` // seconds since 1970
}

// emailsView holds what the page of e-mail addresses shows.
type emailsView struct {
	Emails  []accounts.Email
	Waiting string // the address to which a link was sent; "": none
}

// adding returns the e-mail address that the user of a session adds in this browser.
func (p *Pages) adding(r *httpapi.Request, s session) (a addingEmail, found bool) {
	found = p.opened(r, addingCookie, &a) && a.User == s.UserID && p.opts.Now().Unix() < a.Until
	return a, found
}

func (p *Pages) showEmails(r *httpapi.Request, s session, problem error) (any, error) {
	if !p.opts.Accounts.HasEmail() {
		return nil, mxerr.NotFound("%s", english["emails.off"])
	}
	all, err := p.opts.Accounts.Emails(r.Context(), s.User)
	if err != nil {
		return nil, err
	}
	d := emailsView{Emails: all}
	if a, found := p.adding(r, s); found {
		d.Waiting = a.Address
	}
	return p.showProblem(r, "emails", s.cookie, p.ownView(r, s, "emails.title", d), problem, nil)
}

// addEmail sends a link to an address that the user wants to add.
func (p *Pages) addEmail(r *httpapi.Request, s session, f url.Values) (any, error) {
	a := addingEmail{User: s.UserID, Address: strings.TrimSpace(f.Get("address")), Secret: gate.Secret("", 24), Until: p.opts.Now().Add(emailCookieLifetime).Unix()}
	var err error
	a.SID, err = p.opts.Accounts.RequestEmail(r.Context(), accounts.EmailRequest{
		Purpose: accounts.EmailToAdd, Address: a.Address, ClientSecret: a.Secret, SendAttempt: 1, NextLink: strings.TrimSuffix(p.opts.PublicURL, "/") + pathEmails, Network: r.Network(),
	})
	if err != nil {
		return nil, err
	}
	return p.sealedRedirect(addingCookie, a, emailCookieLifetime, pathEmails)
}

// sealedRedirect sends the browser to another address with a cookie that only this server can make and read.
func (p *Pages) sealedRedirect(name string, v any, lifetime time.Duration, to string) (any, error) {
	c, err := p.sealed(name, v, lifetime)
	if err != nil {
		return nil, err
	}
	return redirect(to, c)
}

// confirmEmail adds the address whose owner has followed the link.
func (p *Pages) confirmEmail(r *httpapi.Request, s session, _ url.Values) (any, error) {
	a, found := p.adding(r, s)
	if !found {
		return nil, mxerr.Forbidden("%s", english["email.not"])
	}
	err := p.opts.Accounts.AddEmail(r.Context(), s.requester(), accounts.EmailCredentials{SID: a.SID, ClientSecret: a.Secret})
	if mxerr.Code(err) == mxerr.CodeThreepidAuthFailed {
		err = mxerr.Forbidden("%s", english["email.not"])
	}
	if err != nil {
		return nil, err
	}
	return done(pathEmails, "email-added", p.cookie(addingCookie, "", 0))
}

// otherEmail forgets the address to which a link was sent.
func (p *Pages) otherEmail(*httpapi.Request, session, url.Values) (any, error) {
	return redirect(pathEmails, p.cookie(addingCookie, "", 0))
}

func (p *Pages) removeEmail(r *httpapi.Request, s session, f url.Values) (any, error) {
	if err := p.acts(r, s); err != nil {
		return nil, err
	}
	if err := p.opts.Accounts.RemoveEmail(r.Context(), s.requester(), "email", f.Get("address")); err != nil {
		return nil, err
	}
	return done(pathEmails, "email")
}

// done sends the browser back to a page, which says what was done.
func done(path, what string, cookies ...*http.Cookie) (any, error) {
	to, query, _ := strings.Cut(path, "?")
	q, _ := url.ParseQuery(query) // made by this package
	q.Set("done", what)
	return redirect(to+"?"+q.Encode(), cookies...)
}
