package web

import (
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/factors"
	"ebb/accounts/gate"
	"ebb/httpapi"
	"ebb/mxerr"
	"ebb/storage"
)

// enrolment is a page on which a user sets up a second factor. Its forms have signField, and enrolStep handles them.
type enrolment struct {
	user   id.UserID
	grant  factors.Grant
	cookie string    // to which the forms are bound
	lead   string    // why the user is asked for it
	until  time.Time // until when the user may put it off; zero: not at all
}

// factorView holds the data of a page on which a user sets up a second factor.
type factorView struct {
	Passkeys bool // whether browsers can use passkeys with this server
	Skip     string

	// The secret of one-time codes.
	Ceremony string
	Secret   string       // in groups of four
	URL      template.URL // for an app on the same device
	Picture  template.HTML

	Codes []string // recovery codes
	Next  string   // the address at which the user continues
}

// showEnrolment returns the page on which a user chooses a second factor.
func (p *Pages) showEnrolment(r *httpapi.Request, e enrolment, problem error, h http.Header) (any, error) {
	data := factorView{Passkeys: p.opts.Factors.OffersPasskeys()}
	if !e.until.IsZero() {
		data.Skip, _ = text("factor.until", e.until.UTC().Format("2 January 2006 15:04 UTC")) // the name is known
	}
	return p.showProblem(r, "factor", e.cookie, view{
		Title: english["factor.choose"], Lead: e.lead, User: string(e.user), Action: here(r), Script: data.Passkeys, Data: data,
	}, problem, h)
}

// showTOTP returns the page with the secret of one-time codes.
func (p *Pages) showTOTP(r *httpapi.Request, e enrolment, secret factors.TOTPEnrolment, problem error) (any, error) {
	picture, err := secret.SVG()
	if err != nil {
		return nil, err
	}
	var groups []string
	for rest := secret.Secret; rest != ""; {
		n := min(len(rest), 4)
		groups, rest = append(groups, rest[:n]), rest[n:]
	}
	return p.showProblem(r, "totp", e.cookie, view{Title: english["totp.title"], User: string(e.user), Action: here(r), Data: factorView{
		Ceremony: p.bind(e.cookie, secret.ID), Secret: strings.Join(groups, " "),
		URL:     template.URL(secret.URL), //nolint:gosec // made by this server
		Picture: template.HTML(picture),   //nolint:gosec // the same
	}}, problem, nil)
}

// enrolStep handles a step of setting up a second factor. It returns either the response or, when the factor is set up,
// the result.
func (p *Pages) enrolStep(r *httpapi.Request, e enrolment, f url.Values) (answer any, made *factors.Enrolled, err error) {
	ceremony := p.bound(e.cookie, f.Get("ceremony"))
	switch f.Get(signField) {
	case "totp":
		secret, err := p.opts.Factors.BeginTOTP(r.Context(), e.grant)
		if err != nil {
			return nil, nil, err
		}
		answer, err = p.showTOTP(r, e, secret, nil)
		return answer, nil, err
	case "totp-confirm":
		done, problem := p.opts.Factors.ConfirmTOTP(r.Context(), e.grant, ceremony, f.Get("code"))
		if problem == nil {
			return nil, &done, nil
		}
		secret, err := p.opts.Factors.PendingTOTP(r.Context(), e.grant.User, ceremony)
		if err != nil { // it has expired
			return nil, nil, problem
		}
		answer, err = p.showTOTP(r, e, secret, problem)
		return answer, nil, err
	case "new-passkey-options":
		c, err := p.opts.Factors.BeginRegistration(r.Context(), e.grant, factors.NewPasskey{Name: f.Get("name")})
		if err != nil {
			return nil, nil, err
		}
		answer, err = answerJSON(http.StatusOK, map[string]any{"ceremony": p.bind(e.cookie, c.ID), "options": c.Options})
		return answer, nil, err
	case "new-passkey":
		done, err := p.opts.Factors.FinishRegistration(r.Context(), e.grant, ceremony, []byte(f.Get("answer")))
		return nil, &done, err
	}
	return nil, nil, mxerr.Forbidden("%s", english["error.state"])
}

// showCodes returns the page with new recovery codes, which are shown once. next is the address at which the user
// continues; "" if there is none. If there are no new codes, the browser is redirected to next at once.
func (p *Pages) showCodes(r *httpapi.Request, made factors.Enrolled, next string, cookies ...*http.Cookie) (any, error) {
	if len(made.RecoveryCodes) == 0 && next != "" {
		return redirect(next, cookies...)
	}
	h := http.Header{}
	for _, c := range cookies {
		h.Add("Set-Cookie", c.String())
	}
	v := view{Title: english["codes.title"], Script: true, Data: factorView{Codes: made.RecoveryCodes, Next: next}}
	if len(made.RecoveryCodes) == 0 {
		v.Title = english["factor.done"]
	}
	return p.show(r, http.StatusOK, "codes", "", v, h)
}

// enrolment returns the page on which the user of a session sets up a second factor. ok is false if the user may not,
// and needs a link from an administrator.
func (p *Pages) enrolment(r *httpapi.Request, st standing, missing lack) (e enrolment, ok bool, err error) {
	e = enrolment{user: st.UserID, cookie: st.cookie, grant: st.grant(), lead: english["factor.required"]}
	if missing == offersFactor {
		e.until = st.ends
		return e, true, nil
	}
	ok, err = p.opts.Factors.MayEnrol(r.Context(), e.grant) // the account has just been created
	return e, ok, err
}

// setUp is a step of setting up a second factor while signing in.
func (p *Pages) setUp(r *httpapi.Request, n need, st standing, f url.Values) (any, error) {
	e, ok, err := p.enrolment(r, st, st.lacks(n, p.opts.Now()))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, mxerr.Forbidden("%s", english["factor.link"])
	}
	answer, made, err := p.enrolStep(r, e, f)
	if err != nil || made == nil {
		return answer, err
	}
	cookies, err := p.prove(r.Context(), st, proof{user: st.User, shown: made.Shown})
	if err != nil {
		return nil, err
	}
	return p.showCodes(r, *made, home(r), cookies...)
}

// later is the step of a user who sets up a second factor another time.
func (p *Pages) later(r *httpapi.Request, _ need, st standing, _ url.Values) (any, error) {
	err := p.opts.DB.Write(r.Context(), func(tx *storage.Tx) error { return tx.DeferFactor(gate.KeyOf(st.cookie).String()) })
	if err != nil {
		return nil, err
	}
	return redirect(home(r))
}

// linkEnrolment returns the enrolment for the page behind an enrolment link.
func (p *Pages) linkEnrolment(r *httpapi.Request) (e enrolment, err error) {
	token := r.Query("token")
	l, err := p.opts.Factors.OpenLink(r.Context(), token)
	return enrolment{user: l.User, cookie: p.cookieOf(r, formCookie), grant: factors.Grant{User: l.NID, Link: token}, lead: english["factor.by.link"]}, err
}

// getEnrol shows the page behind an enrolment link. Opening it changes nothing, since programs that check e-mails open
// links too.
func (p *Pages) getEnrol(r *httpapi.Request) (any, error) {
	e, err := p.linkEnrolment(r)
	if err != nil {
		return nil, err
	}
	return p.showLinked(r, e, nil)
}

// showLinked returns the page behind an enrolment link.
func (p *Pages) showLinked(r *httpapi.Request, e enrolment, problem error) (any, error) {
	var h http.Header
	e.cookie, h = p.strangerCookie(r)
	return p.showEnrolment(r, e, problem, h)
}

// postEnrol handles the forms of the page behind an enrolment link.
func (p *Pages) postEnrol(r *httpapi.Request) (any, error) {
	e, err := p.linkEnrolment(r)
	if err != nil {
		return nil, err
	}
	f, err := p.form(r, e.cookie)
	if err != nil {
		return p.showLinked(r, e, err)
	}
	answer, made, err := p.enrolStep(r, e, f)
	if err != nil {
		if answer, handled, err := problemJSON(f, err); handled {
			return answer, err
		}
		return p.showLinked(r, e, err)
	}
	if made == nil {
		return answer, nil
	}
	return p.showCodes(r, *made, "")
}
