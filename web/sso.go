package web

import (
	"net/http"
	"net/url"

	"ebb/accounts/oauth"
	"ebb/httpapi"
	"ebb/mxerr"
)

// pathSSO is the path of the page for clients that use single sign-on instead of OAuth 2.0.
const pathSSO = "/oauth2/sso"

func (p *Pages) ssoRoutes() []httpapi.Route {
	const file = "sso_login_redirect.yaml"
	const base = "/login/sso/redirect"
	aliases := func(end string) []string { return []string{"/_matrix/client/r0" + base + end} }
	page := func(method, path, operation string, handler func(*httpapi.Request) (any, error)) httpapi.Route {
		return httpapi.Route{Method: method, Path: path, OperationID: operation, Page: true, Rate: httpapi.Anonymous, MaxBody: maxForm, Handler: p.handler(handler)}
	}
	plain, withProvider := page("GET", "/_matrix/client/v3"+base, "redirectToSSO", p.redirectToSSO), page("GET", "/_matrix/client/v3"+base+"/{idpId}", "redirectToIdP", p.redirectToIdP)
	plain.File, plain.Aliases, plain.Handler = file, aliases(""), p.unlessOff(plain.Handler)
	withProvider.File, withProvider.Aliases, withProvider.Handler = file, aliases("/{idpId}"), p.unlessOff(withProvider.Handler)
	return []httpapi.Route{plain, withProvider, page("GET", pathSSO, "getSSOPage", p.ifOn(p.getSSO)), page("POST", pathSSO, "postSSOPage", p.ifOn(p.postSSO))}
}

// unlessOff returns a handler for an operation of the specification. If OAuth 2.0 is off, it responds as for an unknown
// endpoint.
func (p *Pages) unlessOff(f func(*httpapi.Request) (any, error)) func(*httpapi.Request) (any, error) {
	return func(r *httpapi.Request) (any, error) {
		if p.opts.OAuth != nil {
			return f(r)
		}
		e := mxerr.Unrecognized()
		return answerJSON(e.Status, map[string]string{"errcode": e.Code, "error": e.Msg})
	}
}

// redirectToSSO leads the browser of a client that does not use OAuth 2.0 to the page on which the user signs in.
// Spec: client-server-api#get_matrixclientv3loginssoredirect
func (p *Pages) redirectToSSO(r *httpapi.Request) (any, error) {
	to, err := p.opts.OAuth.SSORedirect(r.Query("redirectUrl"))
	if err != nil {
		return nil, err
	}
	q := url.Values{"redirectUrl": {to.URL()}}
	if r.Query("action") == "register" {
		q.Set("action", "register")
	}
	return httpapi.Raw{Status: http.StatusFound, ContentType: httpapi.HTML, Header: http.Header{"Location": {pathSSO + "?" + q.Encode()}}}, nil
}

// redirectToIdP is like redirectToSSO, but for an identity provider that the user has chosen in the client. It leads
// the browser to that provider at once.
// Spec: client-server-api#get_matrixclientv3loginssoredirectidpid
func (p *Pages) redirectToIdP(r *httpapi.Request) (any, error) {
	if _, err := p.opts.Upstream.Provider(r.Var("idpId")); err != nil {
		return nil, mxerr.NotFound("%s", english["sso.provider"])
	}
	to, err := p.opts.OAuth.SSORedirect(r.Query("redirectUrl"))
	if err != nil {
		return nil, err
	}
	address := providerURL(r.Var("idpId"), pathSSO+"?"+url.Values{"redirectUrl": {to.URL()}}.Encode(), false)
	return httpapi.Raw{Status: http.StatusFound, ContentType: httpapi.HTML, Header: http.Header{"Location": {address}}}, nil
}

// sso returns the redirect to the client that the address of the page asks for, and the session of the browser. If
// answer is not nil, it is the response, and the session is not set.
func (p *Pages) sso(r *httpapi.Request) (to oauth.SSORedirect, s session, answer any, err error) {
	if to, err = p.opts.OAuth.SSORedirect(r.Query("redirectUrl")); err != nil {
		return to, s, nil, err
	}
	lead, _ := text("signin.client", to.Target(), p.opts.Server) // the name is known
	s, answer, err = p.signedIn(r, need{Lead: lead, SignUp: r.Query("action") == "register"})
	return to, s, answer, err
}

// getSSO shows the pages for signing in, and then that for consent. Everybody can send a link to this page that leads
// to a website of their own, so it shows where the user continues, and never continues by itself.
func (p *Pages) getSSO(r *httpapi.Request) (any, error) {
	to, s, answer, err := p.sso(r)
	if err != nil || answer != nil {
		return answer, err
	}
	return p.show(r, http.StatusOK, "sso", s.cookie, view{
		Title: english["consent.title"], User: string(s.UserID), Redirect: to.Target(), Action: here(r), Target: source(to.URL()),
	}, nil)
}

// postSSO handles the forms for signing in and for consent.
func (p *Pages) postSSO(r *httpapi.Request) (any, error) {
	to, s, answer, err := p.sso(r)
	if err != nil || answer != nil {
		return answer, err
	}
	f, err := p.form(r, s.cookie)
	if err != nil {
		return nil, err
	}
	switch f.Get("step") {
	case "allow":
		address, err := p.opts.OAuth.ApproveSSO(r.Context(), to, s.cookie, r.Network())
		if err != nil {
			return nil, err
		}
		return redirect(address)
	case "deny":
		return p.show(r, http.StatusOK, "message", "", view{Title: english["link.denied"], Lead: english["sso.closed"]}, nil)
	case "other":
		return p.signOut(r, s)
	}
	return nil, mxerr.InvalidParam("The form is not valid")
}
