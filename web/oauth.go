package web

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/oauth"
	"ebb/httpapi"
	"ebb/mxerr"
)

// authorize checks the authorization request in the address of the page. If the request has an error that may be
// reported to the client, answer is the response, which redirects the browser to the client with that error.
func (p *Pages) authorize(r *httpapi.Request) (req oauth.Request, answer any, err error) {
	req, safe, err := p.opts.OAuth.Authorize(r.Context(), r.QueryValues())
	var e *oauth.Error
	if err != nil && safe && errors.As(err, &e) {
		answer, err = redirect(req.Refuse(e))
	}
	return req, answer, err
}

// getAuthorize is the authorization endpoint. It shows the page for signing in, or that for consent.
// Spec: client-server-api#authorisation-code-grant
func (p *Pages) getAuthorize(r *httpapi.Request) (any, error) {
	req, answer, err := p.authorize(r)
	if err != nil || answer != nil {
		return answer, err
	}
	s, answer, err := p.signedIn(r, p.clientNeeds(req))
	if err != nil || answer != nil {
		return answer, err
	}
	return p.showConsent(r, s, view{
		Title: english["consent.title"], Client: req.Client, Redirect: target(req.RedirectURI), Device: req.Scope.DeviceID, Target: source(req.RedirectURI),
	})
}

// replacedView describes the device whose session the new one replaces.
type replacedView struct {
	deviceView
	Again bool // whether it was signed in with the same client, which a user does who was signed out
}

// showConsent returns the page for consent. It says so if the client asks for the ID of a device that exists: the
// client gets the device, and whoever uses it now is signed out.
func (p *Pages) showConsent(r *httpapi.Request, s session, v view) (any, error) {
	v.User, v.Action = string(s.UserID), here(r)
	d, err := p.opts.Accounts.Device(r.Context(), s.User, id.DeviceID(v.Device))
	switch {
	case err == nil:
		clients, err := p.opts.OAuth.ClientsOf(r.Context(), s.User)
		if err != nil {
			return nil, err
		}
		was, known := clients[d.ID]
		v.Data = replacedView{p.deviceOf(d, clients), known && was.Title() == v.Client.Title() && was.Host() == v.Client.Host()}
	case mxerr.Code(err) != mxerr.CodeNotFound:
		return nil, err
	}
	return p.show(r, http.StatusOK, "consent", s.cookie, v, nil)
}

// clientNeeds returns the requirements of the pages of an authorization request.
func (p *Pages) clientNeeds(req oauth.Request) need {
	lead, _ := text("signin.client", req.Client.Title(), p.opts.Server) // the name is known
	return need{Lead: lead, User: hintedUser(req.LoginHint), SignUp: req.SignUp()}
}

// source returns a redirect URI as a source of a content security policy: the origin of a website, or a scheme.
func source(redirect string) string {
	u, err := url.Parse(redirect)
	switch {
	case err != nil:
		return ""
	case u.Scheme != "https" && u.Scheme != "http" || strings.Contains(u.Host, "["): // a policy cannot name an IPv6 address
		return u.Scheme + ":"
	}
	return u.Scheme + "://" + u.Host
}

// target returns the part of a redirect URI that is shown to the user: its host, or its scheme if it has no host.
func target(redirect string) string {
	u, err := url.Parse(redirect)
	switch {
	case err != nil:
		return ""
	case u.Host == "":
		return u.Scheme + ":"
	}
	return u.Host
}

// postAuthorize handles the forms for signing in and for consent.
func (p *Pages) postAuthorize(r *httpapi.Request) (any, error) {
	req, answer, err := p.authorize(r)
	if err != nil || answer != nil {
		return answer, err
	}
	s, answer, err := p.signedIn(r, p.clientNeeds(req))
	if err != nil || answer != nil {
		return answer, err
	}
	f, err := p.form(r, s.cookie)
	if err != nil {
		return nil, err
	}
	switch f.Get("step") {
	case "allow":
		to, err := p.opts.OAuth.Approve(r.Context(), req, s.cookie)
		if err != nil {
			return nil, err
		}
		return redirect(to)
	case "deny":
		return redirect(req.Refuse(oauth.Denied()))
	case "other":
		return p.signOut(r, s)
	}
	return nil, mxerr.InvalidParam("The form is not valid")
}

// getLink shows the page on which a user types the code of a device, or the page for consent. It never approves
// anything itself.
func (p *Pages) getLink(r *httpapi.Request) (any, error) {
	s, answer, err := p.signedIn(r, p.linkNeeds())
	if err != nil || answer != nil {
		return answer, err
	}
	code := r.Query("user_code")
	if code == "" {
		return p.showLink(r, nil)
	}
	d, err := p.opts.OAuth.Device(r.Context(), code, r.Network())
	if err != nil {
		return p.showLink(r, err)
	}
	return p.showConsent(r, s, view{Title: english["link.title"], Client: d.Client, Device: d.DeviceID, Addr: d.Addr, UserCode: d.UserCode})
}

// linkNeeds returns the requirements of the page on which a user connects a device.
func (p *Pages) linkNeeds() need {
	lead, _ := text("signin.device", p.opts.Server) // the name is known
	return need{Lead: lead}
}

// showLink returns the page on which a user types the code of a device.
func (p *Pages) showLink(r *httpapi.Request, problem error) (any, error) {
	status, v := http.StatusOK, view{Title: english["link.title"], Action: oauth.PathLink}
	if problem != nil {
		var known *mxerr.Error
		if !errors.As(problem, &known) {
			return nil, problem
		}
		status, v.Problem = known.Status, known.Msg
	}
	return p.show(r, status, "link", "", v, nil)
}

// postLink handles the forms for signing in and for consent.
func (p *Pages) postLink(r *httpapi.Request) (any, error) {
	s, answer, err := p.signedIn(r, p.linkNeeds())
	if err != nil || answer != nil {
		return answer, err
	}
	f, err := p.form(r, s.cookie)
	if err != nil {
		return nil, err
	}
	allow := f.Get("step") == "allow"
	switch {
	case f.Get("step") == "other":
		return p.signOut(r, s)
	case !allow && f.Get("step") != "deny":
		return nil, mxerr.InvalidParam("The form is not valid")
	}
	if err := p.opts.OAuth.DecideDevice(r.Context(), f.Get("user_code"), s.cookie, r.Network(), allow); err != nil {
		return p.showLink(r, err)
	}
	v := view{Title: english["link.done"], Lead: english["link.return"]}
	if !allow {
		v = view{Title: english["link.denied"], Lead: english["link.closed"]}
	}
	return p.show(r, http.StatusOK, "message", "", v, nil)
}
