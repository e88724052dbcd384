package web

import (
	"net/url"

	"ebb/accounts/factors"
	"ebb/accounts/gate"
	"ebb/httpapi"
)

// securityView is what the page of second factors shows.
type securityView struct {
	On       bool // whether this server uses second factors
	Required bool
	Codes    string // since when the account has one-time codes; "" if it has none
	Passkeys []passkeyView
	Recovery int // recovery codes that are left
	Factors  bool
}

// passkeyView is what the page shows of a passkey.
type passkeyView struct {
	ID, Name, Created, Used, Problem string
}

// factorsOf returns the second factors of a user, and whether the account can have any.
func (p *Pages) factorsOf(r *httpapi.Request, s session) (o factors.Overview, on bool, err error) {
	a, err := p.account(r, s)
	if err != nil || p.opts.Gate.ModeOf(a) == gate.Off {
		return o, false, err
	}
	o, err = p.opts.Factors.Overview(r.Context(), s.User)
	return o, true, err
}

func (p *Pages) showSecurity(r *httpapi.Request, s session, problem error) (any, error) {
	o, on, err := p.factorsOf(r, s)
	if err != nil {
		return nil, err
	}
	d := securityView{On: on, Required: o.Required, Recovery: o.RecoveryCodes, Factors: hasFactor(o)}
	if o.TOTP != nil {
		d.Codes = when(o.TOTP.Created)
	}
	for _, k := range o.Passkeys {
		v := passkeyView{ID: k.ID, Name: k.Name, Created: when(k.Created), Used: when(k.Used), Problem: k.UnusableReason}
		if !k.CountWentBack.IsZero() {
			v.Problem = english["security.cloned"]
		}
		d.Passkeys = append(d.Passkeys, v)
	}
	return p.showProblem(r, "security", s.cookie, p.ownView(r, s, "security.title", d), problem, nil)
}

// grant says why the user of a session may change second factors.
func (s session) grant() factors.Grant {
	return factors.Grant{User: s.User, Shown: s.Shown(), Browser: s.cookie}
}

func (p *Pages) removeTOTP(r *httpapi.Request, s session, _ url.Values) (any, error) {
	if err := p.opts.Factors.RemoveTOTP(r.Context(), s.grant()); err != nil {
		return nil, err
	}
	return done(pathSecurity, "factor")
}

func (p *Pages) renamePasskey(r *httpapi.Request, s session, f url.Values) (any, error) {
	if err := p.opts.Factors.RenamePasskey(r.Context(), s.User, f.Get("id"), f.Get("name")); err != nil {
		return nil, err
	}
	return done(pathSecurity, "renamed")
}

func (p *Pages) removePasskey(r *httpapi.Request, s session, f url.Values) (any, error) {
	if err := p.opts.Factors.RemovePasskey(r.Context(), s.grant(), f.Get("id")); err != nil {
		return nil, err
	}
	return done(pathSecurity, "factor")
}
