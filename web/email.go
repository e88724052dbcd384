package web

import (
	"net/http"
	"net/url"

	"ebb/accounts"
	"ebb/httpapi"
)

// emailView is what the pages behind the link in a verification e-mail show.
type emailView struct {
	Address    string
	Password   bool   // whether the link is for a new password
	SID, Token string // of the link
	Next, Host string // where the client continues, and its host; "" if the client has not said so
}

// getEmail shows the page behind the link in a verification e-mail, which asks the user to confirm the address. Opening
// the page confirms nothing, because mail servers open links to check them.
// Deviation: not part of the specification.
func (p *Pages) getEmail(r *httpapi.Request) (any, error) {
	v := emailView{SID: r.Query("sid"), Token: r.Query("token")}
	link, err := p.opts.Accounts.EmailLink(r.Context(), v.SID, v.Token)
	if err != nil {
		return nil, err
	}
	if link.Confirmed {
		return p.emailConfirmed(r, link)
	}
	v.Address, v.Password = link.Address, link.Purpose == accounts.EmailForPassword
	title := english["mail.title"]
	if v.Password {
		title = english["mail.reset"]
	}
	return p.show(r, http.StatusOK, "email-link", "", view{Title: title, Data: v}, nil)
}

// postEmail handles the confirmation form and marks the address as verified. The form needs no token against forms of
// other websites, since it has that of the link.
// Deviation: not part of the specification.
func (p *Pages) postEmail(r *httpapi.Request) (any, error) {
	form, err := r.Form()
	if err != nil {
		return nil, err
	}
	link, err := p.opts.Accounts.ConfirmEmail(r.Context(), form.Get("sid"), form.Get("token"))
	if err != nil {
		return nil, err
	}
	return p.emailConfirmed(r, link)
}

// emailConfirmed shows that an address is confirmed. It displays the host of the client's next_link and links to it
// instead of redirecting, because anybody can request an e-mail with any next_link.
func (p *Pages) emailConfirmed(r *httpapi.Request, link accounts.EmailLink) (any, error) {
	v := emailView{Address: link.Address}
	if u, err := url.Parse(link.NextLink); link.NextLink != "" && err == nil {
		v.Next, v.Host = link.NextLink, u.Host
	}
	return p.show(r, http.StatusOK, "email-confirmed", "", view{Title: english["mail.done"], Data: v}, nil)
}
