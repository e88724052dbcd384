package web

import (
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"ebb/accounts"
	"ebb/accounts/factors"
	"ebb/accounts/oauth"
	"ebb/httpapi"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// The addresses of the account page.
const (
	pathAccount  = oauth.PathAccount
	pathProfile  = pathAccount + "/profile"
	pathEmails   = pathAccount + "/emails"
	pathPassword = pathAccount + "/password"
	pathSecurity = pathAccount + "/security"
	pathAdd      = pathAccount + "/security/add"
	pathDevices  = pathAccount + "/devices"
	pathDevice   = pathAccount + "/device"
	pathApprove  = pathAccount + "/approve"
	pathDelete   = pathAccount + "/delete"

	pathIdentities = pathAccount + "/identities"
	pathExport     = pathAccount + "/export"
	pathMessages   = pathAccount + "/messages"
)

// stepUp is how recently a user must have shown a second factor, or the password if the account has no second factor,
// before an action that must not be possible for somebody who only finds an open browser.
const stepUp = 10 * time.Minute

// maxAction is the maximum length in bytes of the parameters of the account page.
const maxAction = 255

// accountPages are the pages by the name of the action that leads to them, without its prefix. The second names of some
// actions are those that clients used before v1.18 of the specification.
// Spec: client-server-api#account-management-url-actions
var accountPages = map[string]string{
	"profile":            pathProfile,
	"devices_list":       pathDevices,
	"sessions_list":      pathDevices,
	"device_view":        pathDevice,
	"session_view":       pathDevice,
	"device_delete":      pathDevice,
	"session_end":        pathDevice,
	"account_deactivate": pathDelete,
	"deactivateaccount":  pathDelete,
	"deactivate_account": pathDelete,

	"cross_signing_reset": pathApprove,

	accounts.ActionLifetime: pathMessages,
}

// pageOf returns the address of the page to which the parameters of the account page lead, or "" for the overview.
// Spec: client-server-api#account-management-url-parameters
func pageOf(q url.Values) string {
	name, device, session := q.Get("action"), q.Get("device_id"), q.Get("session")
	path := accountPages[strings.TrimPrefix(name, "org.matrix.")]
	more := url.Values{}
	switch {
	case path == pathDevice && device == "":
		path = pathDevices
	case path == pathDevice && len(device) <= maxAction:
		more.Set("device_id", device)
	case (path == pathApprove || path == "") && session != "" && len(session) <= maxAction:
		path = pathApprove
		more.Set("session", session)
	}
	if len(more) == 0 {
		return path
	}
	return path + "?" + more.Encode()
}

// ownPage is a page for a user who is signed in.
type ownPage struct {
	path, name string
	recent     time.Duration // see need
	show       func(p *Pages, r *httpapi.Request, s session, problem error) (any, error)
	steps      map[string]ownStep // by the value of the button
}

// ownStep handles a form. The page is shown again if it returns an error.
type ownStep func(p *Pages, r *httpapi.Request, s session, f url.Values) (any, error)

func (p *Pages) ownPages() []ownPage {
	return []ownPage{
		{pathAccount, "Account", 0, (*Pages).showAccount, map[string]ownStep{"sign-out": (*Pages).leavePage}},
		{pathProfile, "Profile", 0, (*Pages).showProfile, map[string]ownStep{"name": (*Pages).setDisplayName}},
		{pathEmails, "Emails", stepUp, (*Pages).showEmails, map[string]ownStep{
			"add-email": (*Pages).addEmail, "confirm-email": (*Pages).confirmEmail, "other-email": (*Pages).otherEmail, "remove-email": (*Pages).removeEmail,
		}},
		{pathIdentities, "Identities", stepUp, (*Pages).showIdentities, map[string]ownStep{"unlink": (*Pages).unlinkIdentity}},
		{pathPassword, "Password", stepUp, (*Pages).showPassword, map[string]ownStep{"password": (*Pages).setPassword}},
		{pathSecurity, "Security", stepUp, (*Pages).showSecurity, map[string]ownStep{
			"remove-codes": (*Pages).removeTOTP, "rename": (*Pages).renamePasskey, "remove-passkey": (*Pages).removePasskey, "recovery": (*Pages).newRecoveryCodes,
		}},
		{pathDevices, "Devices", 0, (*Pages).showDevices, map[string]ownStep{"sign-out-all": (*Pages).signOutAll}},
		{pathDevice, "Device", 0, (*Pages).showDevice, map[string]ownStep{"rename": (*Pages).renameDevice, "sign-out": (*Pages).signOutDevice}},
		{pathApprove, "Approve", stepUp, (*Pages).showApprove, map[string]ownStep{"approve": (*Pages).approve, "refuse": (*Pages).refuse}},
		{pathExport, "Export", stepUp, (*Pages).showExport, map[string]ownStep{"start": (*Pages).startExport, "drop": (*Pages).dropExport}},
		{pathMessages, "Messages", stepUp, (*Pages).showMessages, map[string]ownStep{"set": (*Pages).setLifetime, "drop": (*Pages).dropLifetime}},
		{pathDelete, "Delete", stepUp, (*Pages).showDelete, map[string]ownStep{"delete": (*Pages).deleteAccount}},
	}
}

// accountRoutes returns the routes of the account page. page makes the route of a page.
func (p *Pages) accountRoutes(page func(method, path, operation string, handler func(*httpapi.Request) (any, error)) httpapi.Route) []httpapi.Route {
	fallback := page("GET", fallbackPath, "getFallbackPage", p.getFallback)
	fallback.Aliases = []string{"/_matrix/client/r0/auth/{authType}/fallback/web"}
	picture := page("POST", pathPicture, "postAccountPicturePage", p.postPicture)
	picture.MaxBody = maxPicture
	routes := []httpapi.Route{
		fallback, page("GET", pathPicture, "getAccountPicturePage", p.getPicture), picture,
		page("GET", pathDownload, "getAccountDownloadPage", p.getDownload),
		page("GET", pathAdd, "getAccountAddPage", p.getAdd), page("POST", pathAdd, "postAccountAddPage", p.postAdd),
	}
	for _, o := range p.ownPages() {
		routes = append(routes, page("GET", o.path, "getAccount"+o.name+"Page", p.get(o)), page("POST", o.path, "postAccount"+o.name+"Page", p.post(o)))
	}
	return routes
}

// needs returns the requirements of a page.
func (o ownPage) needs() need { return need{Lead: english["account.lead"], Recent: o.recent} }

// get shows a page.
func (p *Pages) get(o ownPage) func(*httpapi.Request) (any, error) {
	return func(r *httpapi.Request) (any, error) {
		if o.path == pathAccount {
			if to := pageOf(r.QueryValues()); to != "" {
				return redirect(to)
			}
		}
		s, answer, err := p.signedIn(r, o.needs())
		if err != nil || answer != nil {
			return answer, err
		}
		return o.show(p, r, s, nil)
	}
}

// post handles the forms of a page.
func (p *Pages) post(o ownPage) func(*httpapi.Request) (any, error) {
	return func(r *httpapi.Request) (any, error) {
		s, answer, err := p.signedIn(r, o.needs())
		if err != nil || answer != nil {
			return answer, err
		}
		f, err := p.form(r, s.cookie)
		if err == nil {
			step, known := o.steps[f.Get("step")]
			if !known {
				return nil, mxerr.InvalidParam("%s", english["error.form"])
			}
			answer, err = step(p, r, s, f)
		}
		if err != nil {
			return o.show(p, r, s, err)
		}
		return answer, nil
	}
}

// ownView returns the view of a page. If the last form was successful, it says so.
func (p *Pages) ownView(r *httpapi.Request, s session, title string, data any) view {
	v := view{Title: english[title], User: string(s.UserID), Action: here(r), Data: data}
	if done, known := english["done."+r.Query("done")]; known {
		v.Lead = done
	}
	return v
}

// account returns the account of a session.
func (p *Pages) account(r *httpapi.Request, s session) (a storage.AccountRow, err error) {
	err = p.opts.DB.Read(r.Context(), func(tx *storage.Tx) (err error) {
		a, _, err = tx.Account(s.User)
		return err
	})
	return a, err
}

// acts returns an error if the account may not change what others see.
//
// Errors: M_USER_SUSPENDED.
func (p *Pages) acts(r *httpapi.Request, s session) error {
	a, err := p.account(r, s)
	if err == nil && a.Suspended {
		err = mxerr.UserSuspended()
	}
	return err
}

func (s session) requester() ident.Requester {
	return ident.Requester{UserNID: s.User, UserID: s.UserID}
}

// accountView is what the overview shows.
type accountView struct {
	Name    string
	Factors bool // whether this server uses second factors
	Secure  bool // whether the account has one
	Devices int
	Emails  bool // whether accounts have e-mail addresses
	Linked  bool // whether accounts at other services can sign users in
	Waiting []accounts.Approval
}

// showAccount shows the overview.
func (p *Pages) showAccount(r *httpapi.Request, s session, problem error) (any, error) {
	d := accountView{Emails: p.opts.Accounts.HasEmail(), Linked: len(p.opts.Upstream.Providers()) > 0}
	var err error
	if d.Name, _, err = p.opts.Accounts.MemberProfile(r.Context(), s.UserID); err != nil {
		return nil, err
	}
	devices, err := p.opts.Accounts.Devices(r.Context(), s.User)
	if err != nil {
		return nil, err
	}
	d.Devices = len(devices)
	if d.Waiting, err = p.opts.Accounts.Approvals(r.Context(), s.User); err != nil {
		return nil, err
	}
	o, on, err := p.factorsOf(r, s)
	if err != nil {
		return nil, err
	}
	d.Factors, d.Secure = on, on && hasFactor(o)
	return p.showProblem(r, "account", s.cookie, p.ownView(r, s, "account.title", d), problem, nil)
}

func hasFactor(o factors.Overview) bool { return o.TOTP != nil || len(o.Passkeys) > 0 }

// leavePage ends the session of the browser.
func (p *Pages) leavePage(r *httpapi.Request, s session, _ url.Values) (any, error) {
	return p.signOut(r, s)
}

// profileView is what the profile page shows.
type profileView struct {
	Name    string
	Avatar  bool         // whether the user has a picture
	Picture template.URL // "" if it cannot be shown
}

func (p *Pages) showProfile(r *httpapi.Request, s session, problem error) (any, error) {
	var d profileView
	var err error
	var avatar string
	if d.Name, avatar, err = p.opts.Accounts.MemberProfile(r.Context(), s.UserID); err != nil {
		return nil, err
	}
	d.Avatar, d.Picture = avatar != "", p.picture(r, avatar)
	v := p.ownView(r, s, "profile.title", d)
	v.Action, v.Images = pathProfile, d.Picture != ""
	return p.showProblem(r, "profile", s.cookie, v, problem, nil)
}

func (p *Pages) setDisplayName(r *httpapi.Request, s session, f url.Values) (any, error) {
	if err := p.acts(r, s); err != nil {
		return nil, err
	}
	if err := p.opts.Accounts.SetDisplayName(r.Context(), s.requester(), strings.TrimSpace(f.Get("name"))); err != nil {
		return nil, err
	}
	return done(pathProfile, "profile")
}

func (p *Pages) showPassword(r *httpapi.Request, s session, problem error) (any, error) {
	service, err := p.opts.Accounts.PasswordElsewhere(r.Context(), s.User)
	if err != nil {
		return nil, err
	}
	return p.showProblem(r, "password", s.cookie, p.ownView(r, s, "password.title", service), problem, nil)
}

func (p *Pages) setPassword(r *httpapi.Request, s session, f url.Values) (any, error) {
	if f.Get("password") != f.Get("again") {
		return nil, mxerr.InvalidParam("%s", english["password.differ"])
	}
	c := accounts.PasswordChange{SignOut: f.Get("all") != ""}
	if !c.SignOut {
		c.Browser = s.cookie
	}
	if err := p.opts.Accounts.SetPassword(r.Context(), s.UserID, f.Get("password"), c); err != nil {
		return nil, err
	}
	if c.SignOut { // also in this browser
		return p.show(r, http.StatusOK, "signed-out", "", view{Title: english["password.done"], Lead: english["password.everywhere"]}, p.forget())
	}
	return done(pathAccount, "password")
}

// forget returns the header that removes the cookie of a session that has ended.
func (p *Pages) forget() http.Header {
	return http.Header{"Set-Cookie": {p.cookie(sessionCookie, "", 0).String()}}
}

func (p *Pages) showDelete(r *httpapi.Request, s session, problem error) (any, error) {
	return p.showProblem(r, "delete", s.cookie, p.ownView(r, s, "delete.title", s.Localpart), problem, nil)
}

func (p *Pages) deleteAccount(r *httpapi.Request, s session, f url.Values) (any, error) {
	if typed := strings.TrimSpace(f.Get("name")); typed != s.Localpart && typed != string(s.UserID) {
		return nil, mxerr.InvalidParam("%s", english["delete.differ"])
	}
	bindings, err := p.opts.Accounts.Bindings(r.Context(), s.User)
	if err != nil {
		return nil, err
	}
	choice := f.Get("erase")
	erase, held := accounts.ErasureOf(choice != "", choice == "everything"), ""
	if erase != accounts.NotErased {
		if held, err = p.opts.Holds.Notice(r.Context(), s.User); err != nil {
			return nil, err
		}
	}
	if err := p.opts.Accounts.Deactivate(r.Context(), s.UserID, erase); err != nil {
		return nil, err
	}
	p.opts.Identity.UnbindAll(r.Context(), s.UserID, bindings)
	return p.show(r, http.StatusOK, "message", "", view{Title: english["delete.done"], Lead: strings.TrimSpace(english["delete.gone"] + " " + held)}, p.forget())
}
