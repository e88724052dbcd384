package web

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"ebb/accounts"
	"ebb/accounts/gate"
	"ebb/accounts/upstream"
	"ebb/httpapi"
	"ebb/mxerr"
	"ebb/storage"
)

// The cookies of users who sign in by an identity provider. Their values are encrypted, and only this server can make
// them, so that nothing is stored for a browser before a provider has vouched for its user.
const (
	journeyCookie  = "ebb_upstream"     // the browser is at a provider
	newcomerCookie = "ebb_upstream_new" // a user whom a provider has signed in, and who has no account yet
)

const (
	maxJourneys    = 3                // tabs in which a browser can sign in by providers at the same time
	maxLogoutToken = 128 << 10        // bytes of a request with a logout token
	linkRecent     = 10 * time.Minute // how recently the user must have signed in to link an identity
)

func (p *Pages) upstreamRoutes() []httpapi.Route {
	page := func(method, path, operation string, handler func(*httpapi.Request) (any, error)) httpapi.Route {
		return httpapi.Route{Method: method, Path: path, OperationID: operation, Page: true, Rate: httpapi.Anonymous, MaxBody: maxForm, Handler: p.handler(p.ifOn(handler))}
	}
	return []httpapi.Route{
		page("GET", upstream.PathStart, "getUpstreamStart", p.startUpstream),
		page("GET", upstream.PathCallback, "getUpstreamCallback", p.finishUpstream),
		page("GET", upstream.PathNew, "getUpstreamNew", p.getNewcomer),
		page("POST", upstream.PathNew, "postUpstreamNew", p.postNewcomer),
		{Method: "POST", Path: upstream.PathLogout, OperationID: "postUpstreamLogout", Rate: httpapi.Anonymous, MaxBody: maxLogoutToken, Handler: p.logoutUpstream},
	}
}

// providerLink leads to an identity provider.
type providerLink struct{ Name, URL string }

// providerLinks returns the links to identity providers, from which the browser comes back to the page. With again, the
// user must sign in at the provider anew.
func (p *Pages) providerLinks(r *httpapi.Request, again bool) (all []providerLink) {
	for _, one := range p.opts.Upstream.Providers() {
		all = append(all, providerLink{one.Name, providerURL(one.ID, home(r), again)})
	}
	return all
}

// providerURL returns the address that leads to an identity provider, and then to a page of this server.
func providerURL(id, to string, again bool) string {
	q := url.Values{"to": {to}}
	if again {
		q.Set("again", "1")
	}
	return strings.ReplaceAll(upstream.PathStart, "{provider}", id) + "?" + q.Encode()
}

// local returns an address if it is one of a page of this server, and otherwise that of the page for devices. A browser
// must not be led elsewhere.
func local(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || !strings.HasPrefix(address, "/") || strings.HasPrefix(address, "//") ||
		strings.ContainsFunc(address, func(c rune) bool { return c <= ' ' || c == '\\' || c == 0x7f }) {
		return "/oauth2/link"
	}
	return address
}

// startUpstream leads the browser to a provider.
func (p *Pages) startUpstream(r *httpapi.Request) (any, error) {
	address, j, err := p.opts.Upstream.Begin(r.Context(), r.Var("provider"), local(r.Query("to")), r.Query("again") != "")
	if err != nil {
		return nil, err
	}
	all := append(p.journeys(r), j)
	cookie, err := p.sealed(journeyCookie, all[max(0, len(all)-maxJourneys):], upstream.JourneyLifetime)
	if err != nil {
		return nil, err
	}
	return redirect(address, cookie)
}

// journeys returns what the browser has taken with it to providers, the latest last.
func (p *Pages) journeys(r *httpapi.Request) (all []upstream.Journey) {
	p.opened(r, journeyCookie, &all)
	return all
}

// newcomer is a user whom a provider has signed in, and who has no account yet.
type newcomer struct {
	upstream.Person
	To string `json:"to"` // where the browser continues
}

// finishUpstream handles the response of a provider: it begins the session of the browser, or asks a user who has no
// account yet to create or link one.
func (p *Pages) finishUpstream(r *httpapi.Request) (any, error) {
	all := p.journeys(r)
	i := slices.IndexFunc(all, func(j upstream.Journey) bool { return j.State == r.Query("state") })
	if i < 0 {
		return nil, mxerr.Forbidden("%s", english["upstream.state"])
	}
	j := all[i]
	try, err := p.opts.Gate.GuessToken(gate.UpstreamCodes, r.Network())
	if err != nil {
		return nil, err
	}
	person, err := p.opts.Upstream.Finish(r.Context(), j, r.Var("provider"), r.QueryValues())
	if mxerr.Code(err) != mxerr.CodeForbidden {
		try.Right()
	}
	if err != nil {
		return nil, err
	}
	rest, err := p.sealed(journeyCookie, slices.Delete(all, i, i+1), upstream.JourneyLifetime)
	if err != nil {
		return nil, err
	}
	a, found, err := p.opts.Accounts.AccountOf(r.Context(), identityOf(person))
	if err != nil {
		return nil, err
	}
	if found {
		return p.signInPerson(r, a, newcomer{person, j.To}, rest)
	}
	cookie, err := p.sealed(newcomerCookie, newcomer{person, j.To}, upstream.PersonLifetime)
	if err != nil {
		return nil, err
	}
	to := upstream.PathNew
	if strings.HasPrefix(j.To, pathIdentities) { // the user wants to link this identity to an account
		to += "?link=1"
	}
	return redirect(to, rest, cookie)
}

func identityOf(u upstream.Person) accounts.Identity {
	return accounts.Identity{Issuer: u.Issuer, Subject: u.Subject, Label: u.Label}
}

// signInPerson begins the session of a user whom a provider has signed in. If the account needs a second factor that
// the provider has not checked, the page to which the browser continues asks for it.
func (p *Pages) signInPerson(r *httpapi.Request, a storage.AccountRow, u newcomer, more ...*http.Cookie) (any, error) {
	st, err := p.standing(r)
	if err != nil {
		return nil, err
	}
	cookies, err := p.prove(r.Context(), st, proof{user: a.NID, shown: u.Shown, upstream: u.Session, at: u.At()})
	if mxerr.Code(err) == mxerr.CodeUserLocked {
		return nil, mxerr.Forbidden("%s", english["upstream.locked"])
	}
	if err != nil {
		return nil, err
	}
	return redirect(u.To, append(more, cookies...)...)
}

// newcomer returns the user whom a provider has signed in in this browser.
//
// Errors: M_FORBIDDEN.
func (p *Pages) newcomer(r *httpapi.Request) (u newcomer, info upstream.Info, err error) {
	if !p.opened(r, newcomerCookie, &u) || p.opts.Upstream.Expired(u.Person) {
		return u, info, mxerr.Forbidden("%s", english["upstream.expired"])
	}
	info, err = p.opts.Upstream.Provider(u.Provider)
	return u, info, err
}

// newcomerView is what the page for a new user shows.
type newcomerView struct {
	Provider, Label string
	Create          bool   // whether an account can be created
	Name            string // localpart of the new account; "" if the user chooses it
	Suggested       string
	Link            string // address of the page on which an account is linked
	Terms           []accounts.Term
}

func (p *Pages) newcomerView(u newcomer, info upstream.Info) newcomerView {
	return newcomerView{info.Name, u.Label, info.Create, u.Name, u.Suggested, upstream.PathNew + "?link=1", p.opts.Accounts.Requirements().Terms}
}

// getNewcomer shows the page on which a new user creates or links an account.
func (p *Pages) getNewcomer(r *httpapi.Request) (any, error) {
	u, info, err := p.newcomer(r)
	if err != nil {
		return nil, err
	}
	if r.Query("link") == "" {
		return p.showNewcomer(r, u, info, nil)
	}
	s, answer, err := p.signedIn(r, p.linkIdentityNeeds(u, info))
	if err != nil || answer != nil {
		return answer, err
	}
	return p.show(r, http.StatusOK, "upstream-link", s.cookie, view{Title: english["upstream.link"], User: string(s.UserID), Action: here(r), Data: p.newcomerView(u, info)}, nil)
}

func (p *Pages) linkIdentityNeeds(u newcomer, info upstream.Info) need {
	lead, _ := text("upstream.link.lead", info.Name, u.Label) // the name is known
	return need{Lead: lead, Recent: linkRecent}
}

func (p *Pages) showNewcomer(r *httpapi.Request, u newcomer, info upstream.Info, problem error) (any, error) {
	return p.askStranger(r, "upstream-new", view{Title: english["upstream.new"], Action: upstream.PathNew, Data: p.newcomerView(u, info)}, problem)
}

// postNewcomer handles the forms for creating and for linking an account.
func (p *Pages) postNewcomer(r *httpapi.Request) (any, error) {
	u, info, err := p.newcomer(r)
	if err != nil {
		return nil, err
	}
	gone := p.cookie(newcomerCookie, "", 0)
	if r.Query("link") == "" {
		f, err := p.form(r, p.cookieOf(r, formCookie))
		if err != nil {
			return p.showNewcomer(r, u, info, err)
		}
		a, err := p.createAccount(r, u, info, f)
		if err != nil {
			return p.showNewcomer(r, u, info, err)
		}
		return p.signInPerson(r, a, u, gone)
	}
	s, answer, err := p.signedIn(r, p.linkIdentityNeeds(u, info))
	if err != nil || answer != nil {
		return answer, err
	}
	if _, err := p.form(r, s.cookie); err != nil {
		return nil, err
	}
	if err := p.opts.Accounts.Link(r.Context(), s.UserID, identityOf(u.Person)); err != nil {
		return nil, err
	}
	return redirect(u.To, gone)
}

// createAccount creates the account of a user whom a provider has signed in.
//
// Errors: M_FORBIDDEN, M_INVALID_USERNAME, M_USER_IN_USE, M_EXCLUSIVE.
func (p *Pages) createAccount(r *httpapi.Request, u newcomer, info upstream.Info, f url.Values) (storage.AccountRow, error) {
	name := u.Name
	if name == "" {
		name = strings.TrimSpace(f.Get("user"))
	}
	switch {
	case !info.Create:
		return storage.AccountRow{}, mxerr.Forbidden("%s", english["upstream.closed"])
	case len(p.opts.Accounts.Requirements().Terms) > 0 && f.Get("terms") == "":
		return storage.AccountRow{}, mxerr.Forbidden("%s", english["upstream.terms"])
	}
	return p.opts.Accounts.CreateLinked(r.Context(), identityOf(u.Person), name, u.DisplayName, u.Email, p.opts.Factors.AllowSignUp)
}

// logoutUpstream is the endpoint at which providers say that a user has signed out.
// Spec: OpenID Connect Back-Channel Logout 1.0, 2.5
func (p *Pages) logoutUpstream(r *httpapi.Request) (any, error) {
	if p.opts.OAuth == nil {
		return nil, mxerr.Unrecognized()
	}
	f, err := r.Form()
	if err == nil {
		err = p.opts.Upstream.Logout(r.Context(), r.Var("provider"), f.Get("logout_token"))
	}
	status, answer := http.StatusOK, "{}"
	if code := mxerr.Code(err); code == mxerr.CodeForbidden || code == mxerr.CodeInvalidParam {
		status, answer = http.StatusBadRequest, `{"error":"invalid_request"}`
	} else if err != nil {
		return nil, err
	}
	return httpapi.Raw{Status: status, ContentType: "application/json", Header: http.Header{"Cache-Control": {"no-store"}}, Body: []byte(answer)}, nil
}

// aead returns the cipher for cookies of a kind.
func (p *Pages) aead(kind string) (cipher.AEAD, error) {
	block, err := aes.NewCipher(p.opts.DB.Secret("web cookie " + kind)) // 32 bytes
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// sealed returns a cookie that only this server can make and read.
func (p *Pages) sealed(name string, v any, lifetime time.Duration) (*http.Cookie, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	a, err := p.aead(name)
	if err != nil {
		return nil, err
	}
	//nolint:gosec // this AEAD makes a random nonce itself
	return p.cookie(name, base64.RawURLEncoding.EncodeToString(a.Seal(nil, nil, plain, nil)), lifetime), nil
}

// opened reads a cookie that sealed has made, and reports whether there is one.
func (p *Pages) opened(r *httpapi.Request, name string, v any) bool {
	raw, err := base64.RawURLEncoding.DecodeString(p.cookieOf(r, name))
	if err != nil {
		return false
	}
	a, err := p.aead(name)
	if err != nil {
		return false
	}
	plain, err := a.Open(nil, nil, raw, nil)
	return err == nil && json.Unmarshal(plain, v) == nil
}
