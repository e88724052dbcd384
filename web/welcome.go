package web

import (
	"net/http"

	"ebb/accounts/oauth"
	"ebb/httpapi"
)

// welcomeView is what the welcome page shows.
type welcomeView struct {
	Address string // of the server, as users enter it in a client
	SignIn  string // how people get an account
	Account string // path of the account page; "" if there is none
	Help    string // address of the administrator's help page; "" if there is none
}

// getWelcome serves the page shown to browsers that open the server's address. It does not reveal the version.
// Deviation: not part of the specification.
func (p *Pages) getWelcome(r *httpapi.Request) (any, error) {
	v := welcomeView{Address: p.opts.PublicURL, Help: p.opts.HelpPage}
	switch needs := p.opts.Accounts.Requirements(); {
	case needs.Token:
		v.SignIn = english["welcome.token"]
	case needs.Open:
		v.SignIn = english["welcome.open"]
	default:
		v.SignIn = english["welcome.closed"]
	}
	if p.opts.OAuth != nil {
		v.Account = oauth.PathAccount
	}
	return p.show(r, http.StatusOK, "welcome", "", view{Title: english["welcome.title"], Data: v}, nil)
}
