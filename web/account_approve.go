package web

import (
	"net/http"
	"net/url"

	"ebb/accounts"
	"ebb/httpapi"
	"ebb/mxerr"
)

// approveView holds the data of the page on which a user approves requests of clients.
type approveView struct {
	Requests []requestView
}

// requestView holds what that page shows of one request.
type requestView struct {
	Session, What, Name, Device, Target, Asked string
	Means                                      string // what follows from approving it; "" if that is clear
}

// requestOf returns the requestView of an approval.
func requestOf(a accounts.Approval) requestView {
	v := requestView{Session: a.Session, Name: a.DeviceName, Device: string(a.Device), Target: a.Target, Asked: when(a.Created)}
	what, known := english["approve."+a.Operation]
	if !known {
		what = english["approve.other"]
	}
	v.What = what
	switch {
	case a.Lasts > 0:
		v.Means, _ = text("approve.lasts", int(a.Lasts.Minutes())) // the name is known
	case a.Operation == "uploadCrossSigningKeys":
		v.Means = english["approve.means"]
	}
	if v.Name == "" {
		v.Name = v.Device
	}
	return v
}

// showApprove shows the request in the address, or all requests of the user that wait.
func (p *Pages) showApprove(r *httpapi.Request, s session, problem error) (any, error) {
	var d approveView
	if session := r.Query("session"); session != "" {
		a, err := p.opts.Accounts.Approval(r.Context(), s.User, session)
		switch {
		case err == nil && a.Approved:
			return p.approved(r)
		case err == nil:
			d.Requests = append(d.Requests, requestOf(a))
		case problem == nil:
			problem = err
		}
	} else {
		all, err := p.opts.Accounts.Approvals(r.Context(), s.User)
		if err != nil {
			return nil, err
		}
		for _, a := range all {
			d.Requests = append(d.Requests, requestOf(a))
		}
	}
	return p.showProblem(r, "approve", s.cookie, p.ownView(r, s, "approve.title", d), problem, nil)
}

// approve approves a request, which the client then repeats.
func (p *Pages) approve(r *httpapi.Request, s session, f url.Values) (any, error) {
	if err := p.opts.Accounts.Decide(r.Context(), s.User, f.Get("session"), true); err != nil {
		return nil, err
	}
	return p.approved(r)
}

// approved returns the page that tells the user to go back to the client. Its script tells the client.
// Spec: client-server-api#fallback
func (p *Pages) approved(r *httpapi.Request) (any, error) {
	return p.show(r, http.StatusOK, "approved", "", view{Title: english["approve.done"], Lead: english["approve.return"], Script: true}, nil)
}

func (p *Pages) refuse(r *httpapi.Request, s session, f url.Values) (any, error) {
	if err := p.opts.Accounts.Decide(r.Context(), s.User, f.Get("session"), false); err != nil {
		return nil, err
	}
	return p.show(r, http.StatusOK, "message", "", view{Title: english["approve.refused"], Lead: english["approve.nothing"]}, nil)
}

// fallbackPath is the address at which clients open the page for a stage that they do not know.
// Spec: client-server-api#fallback
const fallbackPath = "/_matrix/client/v3/auth/{authType}/fallback/web"

// getFallback leads to the page on which a user approves a request.
func (p *Pages) getFallback(r *httpapi.Request) (any, error) {
	session := r.Query("session")
	switch kind := r.Var("authType"); {
	case kind != "m.login.sso" && kind != "m.oauth" && kind != "org.matrix.cross_signing_reset":
		return nil, mxerr.NotFound("%s", english["error.stage"])
	case session == "" || len(session) > maxAction:
		return nil, mxerr.MissingParam("%s", english["error.session"])
	}
	return redirect(pathApprove + "?" + url.Values{"session": {session}}.Encode())
}
