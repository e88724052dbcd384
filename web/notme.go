package web

import (
	"cmp"
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
		Title: d.Title, Lead: d.Text, User: string(d.User), Addr: d.Network, Data: p.notMeView(d),
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
	return p.show(r, http.StatusOK, "notme-done", "", view{Title: english["notme.done"], User: string(d.User), Data: p.notMeView(d)}, nil)
}

// notMeView holds what the pages behind the link of an alert say about signing in afterwards.
type notMeView struct {
	Here       bool   // whether the password of this server is made unusable
	Way        string // how the user gets a new password
	Identities []string
	SignIn     string // address of the sign-in page; "" if there is none
}

func (p *Pages) notMeView(d accounts.Disavowal) notMeView {
	v := notMeView{Here: d.Service == "", Way: wayBack(d)}
	for _, i := range d.Identities {
		name, _ := text("notme.identity", cmp.Or(i.Service, english["notme.off"]), i.Name()) // the name is known
		v.Identities = append(v.Identities, name)
	}
	if p.opts.OAuth != nil {
		v.SignIn = pathAccount
	}
	return v
}

// wayBack returns how the user can set a new password.
func wayBack(d accounts.Disavowal) string {
	switch {
	case d.Service != "":
		way, _ := text("notme.service", d.Service) // the name is known
		return way
	case d.ByEmail && d.ByPasskey:
		return english["notme.either"]
	case d.ByEmail:
		return english["notme.email"]
	case d.ByPasskey:
		return english["notme.passkey"]
	}
	return english["notme.admin"]
}
