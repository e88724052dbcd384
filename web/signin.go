package web

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"ebb/accounts/factors"
	"ebb/accounts/gate"
	"ebb/httpapi"
	"ebb/mxerr"
)

// signField is the name of a field that all forms for signing in have, whose value names the step. The forms of other
// pages do not have it. A page for signing in has a parameter of the same name in its address, which selects one of the
// views.
const signField = "sign"

// step is a step of signing in.
type step struct {
	when []lack // what the browser may lack when it takes this step
	do   func(p *Pages, r *httpapi.Request, n need, st standing, f url.Values) (answer any, err error)
}

// step returns the step that a value of signField names.
func (p *Pages) step(name string) (step, bool) {
	s, found := map[string]step{
		"password":        {[]lack{lacksUser, lacksRecent}, (*Pages).checkPassword},
		"code":            {[]lack{lacksSecond, lacksRecent}, (*Pages).checkCode},
		"recovery":        {[]lack{lacksSecond, lacksRecent}, (*Pages).checkRecoveryCode},
		"passkey-options": {[]lack{lacksUser, lacksSecond, lacksRecent}, (*Pages).passkeyOptions},
		"passkey":         {[]lack{lacksUser, lacksSecond, lacksRecent}, (*Pages).checkPasskey},
		"email":           {[]lack{lacksUser}, (*Pages).sendLink},
		"email-check":     {[]lack{lacksUser}, (*Pages).checkLink},
		"email-other":     {[]lack{lacksUser}, (*Pages).otherAddress},
		"email-skip":      {[]lack{lacksUser}, (*Pages).skipAddress},
		"create":          {[]lack{lacksUser}, (*Pages).signUp},
		"reset":           {[]lack{lacksUser}, (*Pages).resetPassword},
		"restart":         {[]lack{lacksSecond, lacksFactor, offersFactor, lacksRecent}, (*Pages).restart},

		"totp":                {[]lack{lacksFactor, offersFactor}, (*Pages).setUp},
		"totp-confirm":        {[]lack{lacksFactor, offersFactor}, (*Pages).setUp},
		"new-passkey-options": {[]lack{lacksFactor, offersFactor}, (*Pages).setUp},
		"new-passkey":         {[]lack{lacksFactor, offersFactor}, (*Pages).setUp},
		"later":               {[]lack{offersFactor}, (*Pages).later},
	}[name]
	return s, found
}

// signInStep handles a form for signing in. It returns no answer for other forms.
func (p *Pages) signInStep(r *httpapi.Request, n need, st standing, missing lack) (any, error) {
	f, err := r.Form()
	switch {
	case err != nil && missing != lacksNothing && !isUpload(r):
		return p.askAgain(r, n, st, missing, nil, err)
	case err != nil || f.Get(signField) == "": // the page that reads the form reports it
		return nil, nil //nolint:nilerr // the same
	}
	cookie := st.cookie
	if missing == lacksUser {
		cookie = p.cookieOf(r, formCookie)
	}
	s, found := p.step(f.Get(signField))
	switch _, err := p.form(r, cookie); {
	case missing == lacksNothing: // signed in in another tab
		return redirect(home(r))
	case err != nil:
		return p.askAgain(r, n, st, missing, f, err)
	case !found || !slices.Contains(s.when, missing): // the state has changed in another tab
		return p.askAgain(r, n, st, missing, f, mxerr.Forbidden("%s", english["error.state"]))
	}
	answer, err := s.do(p, r, n, st, f)
	if err != nil {
		return p.askAgain(r, n, st, missing, f, err)
	}
	return answer, nil
}

// askAgain answers a form that was refused.
func (p *Pages) askAgain(r *httpapi.Request, n need, st standing, missing lack, f url.Values, problem error) (any, error) {
	if answer, handled, err := problemJSON(f, problem); handled {
		return answer, err
	}
	if missing == lacksUser && f.Get("user") != "" {
		n.User = f.Get("user")
	}
	return p.ask(r, n, st, missing, f, problem)
}

// problemJSON answers a request of the script that was refused. handled is false for forms.
func problemJSON(f url.Values, problem error) (answer any, handled bool, err error) {
	var known *mxerr.Error
	if !strings.HasSuffix(f.Get(signField), "-options") || !errors.As(problem, &known) {
		return nil, false, nil
	}
	answer, err = answerJSON(known.Status, map[string]string{"error": known.Msg})
	return answer, true, err
}

// ask returns the page that asks for what a browser lacks. f is the form that was refused with a problem, or nil.
func (p *Pages) ask(r *httpapi.Request, n need, st standing, missing lack, f url.Values, problem error) (any, error) {
	v := view{Lead: n.Lead, User: n.User, Action: here(r), Script: p.opts.Factors.OffersPasskeys()}
	switch missing {
	case lacksUser:
		v.Script = v.Script && p.opts.Gate.OffersFactors()
		return p.askUser(r, n, v, f, problem)
	case lacksFactor, offersFactor:
		if e, ok, err := p.enrolment(r, st, missing); err != nil {
			return nil, err
		} else if ok {
			return p.showEnrolment(r, e, problem, nil)
		}
		v.Title, v.User, v.Lead, v.Script = english["factor.title"], string(st.UserID), english["factor.link"], false
		return p.showProblem(r, "no-factor", st.cookie, v, problem, nil)
	}
	v.Title, v.User = english["second.title"], string(st.UserID)
	if missing == lacksRecent {
		v.Title, v.Lead = english["recent.title"], english["recent.lead"]
	}
	if st.enrolled == 0 {
		has, err := p.opts.Accounts.ComparesPassword(r.Context(), st.User)
		if err != nil {
			return nil, err
		}
		v.Script, v.Providers, v.Data = false, p.providerLinks(r, true), has
		return p.showProblem(r, "password-again", st.cookie, v, problem, nil)
	}
	v.Data = secondView{TOTP: st.enrolled&gate.TOTP != 0, Passkeys: st.enrolled&(gate.SecurityKey|gate.Passkey) != 0, Recovery: st.enrolled&gate.RecoveryCode != 0}
	return p.showProblem(r, "second", st.cookie, v, problem, nil)
}

// secondView lists the second factors that the page asks for.
type secondView struct{ TOTP, Passkeys, Recovery bool }

// askStranger returns a page with a form for a browser in which nobody is signed in.
func (p *Pages) askStranger(r *httpapi.Request, page string, v view, problem error) (any, error) {
	cookie, h := p.strangerCookie(r)
	return p.showProblem(r, page, cookie, v, problem, h)
}

// strangerCookie returns the cookie to which forms are bound in a browser in which nobody is signed in, and a header
// that sets it if it is new.
func (p *Pages) strangerCookie(r *httpapi.Request) (string, http.Header) {
	cookie, h := p.cookieOf(r, formCookie), http.Header{}
	if cookie == "" {
		cookie = gate.Secret("", 32)
		h.Add("Set-Cookie", p.cookie(formCookie, cookie, formLifetime).String())
	}
	return cookie, h
}

// showProblem returns a page with the problem of the form that was sent, if there is one. Errors that are not for users
// are returned.
func (p *Pages) showProblem(r *httpapi.Request, page, cookie string, v view, problem error, h http.Header) (any, error) {
	status := http.StatusOK
	if problem != nil {
		var known *mxerr.Error
		if !errors.As(problem, &known) || known.Status >= http.StatusInternalServerError {
			return nil, problem
		}
		status, v.Problem = known.Status, known.Msg
		if status == http.StatusUnauthorized { // which asks for HTTP authentication
			status = http.StatusForbidden
		}
		if known.Code == mxerr.CodeLimitExceeded {
			v.Problem = english["error.limit"]
			if h == nil {
				h = http.Header{}
			}
			h.Set("Retry-After", "60")
		}
	}
	return p.show(r, status, page, cookie, v, h)
}

// proved records the given evidence and shows the page again, or asks for what else is missing.
func (p *Pages) proved(r *httpapi.Request, st standing, shown proof) (any, error) {
	cookies, err := p.prove(r.Context(), st, shown)
	if err != nil {
		return nil, err
	}
	return redirect(home(r), cookies...)
}

// checkPassword is the step of the user name and password. Until the password is right, the answer does not depend on
// whether the account exists or has a second factor.
func (p *Pages) checkPassword(r *httpapi.Request, _ need, st standing, f url.Values) (any, error) {
	user := f.Get("user")
	if st.found {
		if st.enrolled != 0 { // which must be shown instead
			return nil, mxerr.Forbidden("%s", english["error.state"])
		}
		user = string(st.UserID)
	}
	a, err := p.opts.Accounts.VerifyPassword(r.Context(), user, f.Get("password"), r.Network())
	if err != nil {
		return nil, err
	}
	return p.proved(r, st, proof{user: a.NID, shown: gate.Password, password: a.Password})
}

// checkCode is the step of a one-time code.
func (p *Pages) checkCode(r *httpapi.Request, _ need, st standing, f url.Values) (any, error) {
	shown, err := p.opts.Factors.CheckTOTP(r.Context(), st.User, st.network, f.Get("code"))
	if err != nil {
		return nil, err
	}
	return p.proved(r, st, proof{user: st.User, shown: shown})
}

// checkRecoveryCode is the step of a recovery code.
func (p *Pages) checkRecoveryCode(r *httpapi.Request, _ need, st standing, f url.Values) (any, error) {
	shown, err := p.opts.Factors.CheckRecoveryCode(r.Context(), st.User, st.network, f.Get("code"))
	if err != nil {
		return nil, err
	}
	return p.proved(r, st, proof{user: st.User, shown: shown})
}

// passkeyOptions answers the script of a page, which asks the browser for a passkey. Nothing is stored before the user
// presses the button.
func (p *Pages) passkeyOptions(r *httpapi.Request, _ need, st standing, _ url.Values) (any, error) {
	var c factors.Ceremony
	var err error
	if st.found {
		c, err = p.opts.Factors.BeginCheck(r.Context(), st.User, st.Shown())
	} else {
		c, err = p.opts.Factors.BeginSignIn(r.Context(), r.Network())
	}
	if err != nil {
		return nil, err
	}
	return p.answerCeremony(r, st, c)
}

// answerCeremony answers the script of a page with what the browser is to do. The ID is bound to the cookie.
func (p *Pages) answerCeremony(r *httpapi.Request, st standing, c factors.Ceremony) (any, error) {
	return answerJSON(http.StatusOK, map[string]any{"ceremony": p.bind(p.formCookieOf(r, st), c.ID), "options": c.Options})
}

// formCookieOf returns the cookie to which the forms that the browser is shown are bound.
func (p *Pages) formCookieOf(r *httpapi.Request, st standing) string {
	if st.found {
		return st.cookie
	}
	return p.cookieOf(r, formCookie)
}

func answerJSON(status int, v any) (any, error) {
	body, err := json.Marshal(v)
	return httpapi.Raw{Status: status, ContentType: "application/json", Body: body}, err
}

// checkPasskey is the step of a passkey, which is enough on its own if its authenticator has verified the user.
func (p *Pages) checkPasskey(r *httpapi.Request, _ need, st standing, f url.Values) (any, error) {
	ceremony, answer := p.bound(p.formCookieOf(r, st), f.Get("ceremony")), []byte(f.Get("answer"))
	shown := proof{user: st.User}
	var err error
	if st.found {
		shown.shown, err = p.opts.Factors.FinishCheck(r.Context(), st.User, ceremony, answer)
	} else {
		shown.user, shown.shown, err = p.opts.Factors.FinishSignIn(r.Context(), ceremony, answer)
	}
	if err != nil {
		return nil, err
	}
	return p.proved(r, st, shown)
}

// restart ends a session, so that another user can sign in.
func (p *Pages) restart(r *httpapi.Request, _ need, st standing, _ url.Values) (any, error) {
	return p.signOut(r, st.session)
}

// home returns the address of the page without the parameter signField, which selects a view.
func home(r *httpapi.Request) string {
	q := r.URL.Query()
	if !q.Has(signField) {
		return here(r)
	}
	q.Del(signField)
	if len(q) == 0 {
		return r.URL.Path
	}
	return r.URL.Path + "?" + q.Encode()
}
