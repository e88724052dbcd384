package web

import (
	"cmp"
	"net/url"

	"ebb/accounts"
	"ebb/httpapi"
)

// identityView is what the page of accounts at other services shows of one of them.
type identityView struct {
	Issuer, Subject      string
	Service, Name, Since string
	Directory            bool
}

// identitiesView holds what that page shows.
type identitiesView struct {
	Identities []identityView
	Add        []providerLink
}

func (p *Pages) showIdentities(r *httpapi.Request, s session, problem error) (any, error) {
	all, err := p.opts.Accounts.Identities(r.Context(), s.UserID)
	if err != nil {
		return nil, err
	}
	d := identitiesView{}
	for _, i := range all {
		d.Identities = append(d.Identities, identityView{
			Issuer: i.Issuer, Subject: i.Subject, Service: cmp.Or(i.Service, english["notme.off"]), Name: i.Name(), Since: when(i.Created), Directory: i.Directory,
		})
	}
	for _, one := range p.opts.Upstream.Providers() {
		d.Add = append(d.Add, providerLink{one.Name, providerURL(one.ID, pathIdentities, false)})
	}
	return p.showProblem(r, "identities", s.cookie, p.ownView(r, s, "identities.title", d), problem, nil)
}

func (p *Pages) unlinkIdentity(r *httpapi.Request, s session, f url.Values) (any, error) {
	if err := p.opts.Accounts.UnlinkOwn(r.Context(), s.UserID, accounts.Identity{Issuer: f.Get("issuer"), Subject: f.Get("subject")}); err != nil {
		return nil, err
	}
	return done(pathIdentities, "identity")
}
