package web

import (
	"net/url"
	"slices"

	"ebb/accounts/factors"
	"ebb/httpapi"
)

func (p *Pages) newRecoveryCodes(r *httpapi.Request, s session, _ url.Values) (any, error) {
	codes, err := p.opts.Factors.NewRecoveryCodes(r.Context(), s.grant())
	if err != nil {
		return nil, err
	}
	return p.showCodes(r, factors.Enrolled{RecoveryCodes: codes}, pathSecurity)
}

// addNeeds returns the requirements of the page on which a user adds a second factor.
func addNeeds() need { return need{Lead: english["account.lead"], Recent: stepUp} }

// adding returns the page on which the user of a session adds a second factor.
func (s session) adding() enrolment {
	return enrolment{user: s.UserID, cookie: s.cookie, grant: s.grant(), lead: english["security.add.lead"]}
}

// getAdd shows the page on which a user adds a second factor.
func (p *Pages) getAdd(r *httpapi.Request) (any, error) {
	s, answer, err := p.signedIn(r, addNeeds())
	if err != nil || answer != nil {
		return answer, err
	}
	return p.showEnrolment(r, s.adding(), nil, nil)
}

// postAdd handles the forms of that page. They have the field signField, like the forms with which a user sets up a
// second factor while signing in, so they must be handled before signedIn reads them.
func (p *Pages) postAdd(r *httpapi.Request) (any, error) {
	st, err := p.standing(r)
	if err != nil {
		return nil, err
	}
	if st.lacks(addNeeds(), p.opts.Now()) == lacksNothing {
		return p.add(r, st)
	}
	_, answer, err := p.signedIn(r, addNeeds())
	if err == nil && answer == nil { // signed in in another tab in between
		answer, err = redirect(pathAdd)
	}
	return answer, err
}

// add handles a step of adding a second factor.
func (p *Pages) add(r *httpapi.Request, st standing) (any, error) {
	e := st.adding()
	f, err := p.form(r, st.cookie)
	if err != nil {
		return p.showEnrolment(r, e, err, nil)
	}
	if !slices.Contains([]string{"totp", "totp-confirm", "new-passkey-options", "new-passkey"}, f.Get(signField)) { // signed in in another tab
		return redirect(pathAdd)
	}
	answer, made, err := p.enrolStep(r, e, f)
	if err != nil {
		if answer, handled, err := problemJSON(f, err); handled {
			return answer, err
		}
		return p.showEnrolment(r, e, err, nil)
	}
	if made == nil {
		return answer, nil
	}
	cookies, err := p.prove(r.Context(), st, proof{user: st.User, shown: made.Shown})
	if err != nil {
		return nil, err
	}
	return p.showCodes(r, *made, pathSecurity+"?done=added", cookies...)
}
