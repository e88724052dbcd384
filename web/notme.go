package web

import (
	"net/http"
	"net/url"
	"time"

	"ebb/accounts"
	"ebb/accounts/gate"
	"ebb/httpapi"
	"ebb/notices"
)

// getNotMe shows what an alert is about and what happens if the user confirms that it was not them. It changes nothing,
// because programs that check links in messages open them too.
func (p *Pages) getNotMe(r *httpapi.Request) (any, error) {
	d, err := p.opts.Accounts.OpenDisavowal(r.Context(), r.Query("token"))
	if err != nil {
		return nil, err
	}
	cookie, h := p.cookieOf(r, formCookie), http.Header{}
	if cookie == "" {
		cookie = gate.Secret("", 32)
		h.Add("Set-Cookie", p.cookie(formCookie, cookie, 24*time.Hour).String())
	}
	return p.show(r, http.StatusOK, "notme", cookie, view{
		Title: d.Title, Lead: d.Text, User: string(d.User), Addr: d.Network, Redirect: wayBack(d),
		Action: notices.LinkPath + "?" + url.Values{"token": {r.Query("token")}}.Encode(),
	}, h)
}

// postNotMe does what the user has confirmed.
func (p *Pages) postNotMe(r *httpapi.Request) (any, error) {
	if _, err := p.form(r, p.cookieOf(r, formCookie)); err != nil {
		return nil, err
	}
	d, err := p.opts.Accounts.Disavow(r.Context(), r.Query("token"))
	if err != nil {
		return nil, err
	}
	return p.show(r, http.StatusOK, "notme-done", "", view{Title: english["notme.done"], User: string(d.User), Redirect: wayBack(d)}, nil)
}

// wayBack returns how the user can set a new password.
func wayBack(d accounts.Disavowal) string {
	switch {
	case d.ByEmail && d.ByPasskey:
		return english["notme.either"]
	case d.ByEmail:
		return english["notme.email"]
	case d.ByPasskey:
		return english["notme.passkey"]
	}
	return english["notme.admin"]
}
