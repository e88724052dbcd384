package accounts

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// auth is the field auth in the body of a request.
type auth struct {
	Type       string     `json:"type"`
	Session    string     `json:"session"`
	Identifier Identifier `json:"identifier"`
	User       string     `json:"user"` // used before identifier existed
	Password   string     `json:"password"`
	Token      string     `json:"token"`
	// Creds is for m.login.email.identity. The second form was used before the specification named the member.
	Creds    EmailCredentials `json:"threepid_creds"`
	OldCreds EmailCredentials `json:"threepidCreds"`
}

// Identifier identifies the user in a request to log in.
// Spec: client-server-api#identifier-types
type Identifier struct {
	Type    string `json:"type"` // "" if the request has the form that was used before identifiers existed
	User    string `json:"user"`
	Medium  string `json:"medium"`
	Address string `json:"address"`
}

// accountOf returns the account that an identifier names, and the target for which guesses at its password count. For
// an unknown identifier it returns an account without a password.
//
// Errors: M_FORBIDDEN for phone numbers, which no account has; M_INVALID_PARAM, M_MISSING_PARAM.
func (s *Service) accountOf(ctx context.Context, i Identifier) (a storage.AccountRow, target string, err error) {
	if i.Type == "m.id.thirdparty" && i.Medium == mediumEmail {
		return s.accountOfEmail(ctx, i.Address)
	}
	name, err := i.Name()
	if err != nil {
		return a, "", err
	}
	return s.accountOfName(ctx, name)
}

// Name returns the user name of an identifier.
//
// Errors: M_FORBIDDEN for identifiers that are not user names; M_INVALID_PARAM, M_MISSING_PARAM.
func (i Identifier) Name() (string, error) {
	switch {
	case i.Type == "m.id.phone" || i.Type == "m.id.thirdparty":
		return "", mxerr.Forbidden("Sign in with your username: accounts on this server have no telephone numbers")
	case i.Type != "" && i.Type != "m.id.user":
		return "", mxerr.InvalidParam("The identifier type %.64q is unknown", i.Type)
	case i.User == "":
		return "", mxerr.MissingParam("The user to sign in is missing")
	}
	return i.User, nil
}

// Asked is a request that requires user-interactive authentication.
type Asked struct {
	Operation string // operation ID
	Target    string // the parameters in its path
	Requester ident.Requester
	Body      map[string]json.RawMessage // including the member auth
}

// Confirm checks the field auth in the request of a logged-in user. Each flow of such a request has a single stage. If
// Confirm returns nil, the request may proceed, and the authentication cannot be used again.
//
// Errors: 401 with the flows, and M_FORBIDDEN if the password was wrong; 403 M_FORBIDDEN for another user's password,
// and for operations that sessions of OAuth 2.0 cannot use.
func (s *Service) Confirm(ctx context.Context, q Asked) error {
	a, b, err := s.readAuth(q)
	if err != nil {
		return err
	}
	p, err := s.purposeOf(ctx, q)
	switch {
	case err != nil:
		return err
	case p.oauth && (q.Operation != resettingKeys || p.page == ""):
		return s.errOnPageOnly(q)
	case p.page != "":
		return s.confirmOnPage(ctx, q, p, a, b)
	}
	b.user, b.device = q.Requester.UserNID, q.Requester.DeviceNID
	ch := s.asked.find(a.Session, b, string(q.Requester.UserID))
	form := s.form(p)
	if a.Type == "" {
		return form.unmet(ch, nil)
	}
	if _, err := s.try(ctx, ch, form, tried{operation: q.Operation, auth: a, who: q.Requester}); err != nil {
		return err
	}
	s.asked.finish(ch.id)
	return nil
}

// ResetPassword sets the password of the account whose e-mail address the client has verified, and deletes the devices
// of the account if signOut is set. It authenticates the request itself, because the client has no access token.
//
// Errors: 401 with the flows; M_WEAK_PASSWORD, M_THREEPID_NOT_FOUND.
func (s *Service) ResetPassword(ctx context.Context, body map[string]json.RawMessage, network, password string, signOut bool) error {
	a, b, err := s.readAuth(Asked{Operation: resetting, Body: body})
	if err != nil {
		return err
	}
	ch := s.asked.find(a.Session, b, network)
	form := s.form(purpose{operation: resetting})
	if a.Type == "" {
		return form.unmet(ch, nil)
	}
	p, err := s.try(ctx, ch, form, tried{operation: resetting, auth: a, network: network})
	if err != nil {
		return err
	}
	if err := s.CheckPassword(password, ""); err != nil {
		return err
	}
	if err := s.resetPassword(ctx, *p.email, password, signOut); err != nil {
		return err
	}
	s.asked.finish(ch.id)
	return nil
}

// resetPassword uses up a verification and sets the password of the account that has the address.
func (s *Service) resetPassword(ctx context.Context, v Verified, password string, signOut bool) error {
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return err
	}
	return s.write(ctx, func(w *write) error {
		if _, found, err := w.EmailSession(v.sid); err != nil {
			return err
		} else if !found { // used in the meantime
			return errNotVerified()
		}
		if err := w.DeleteEmailSessions(v.Address, v.purpose); err != nil {
			return err
		}
		user, nid, found, err := s.userOfEmail(w.Tx, v.Address)
		if err != nil {
			return err
		}
		if !found { // removed from the account in the meantime
			return errNoSuchEmail()
		}
		a, _, err := w.Account(nid)
		if err != nil {
			return err
		}
		if err := s.refuseElsewhere(w.Tx, a); err != nil {
			return err
		}
		if _, err := s.gate.Admit(w.Tx, gate.Attempt{Path: gate.PathReset, User: nid, Shown: gate.Email}); err != nil {
			return err
		}
		w.note("password reset by e-mail", "user", user, "address", v.Address)
		return s.setPassword(w, nid, hash, PasswordChange{SignOut: signOut})
	})
}

// checkOwn checks that the password is that of the requesting account.
func (s *Service) checkOwn(ctx context.Context, at tried) (_ proof, refused *mxerr.Error, err error) {
	a, who := at.auth, at.who
	if a.Identifier.Type != "" || a.User != "" {
		named := a.Identifier
		if named.Type == "" {
			named.User = a.User
		}
		row, _, err := s.accountOf(ctx, named)
		if err != nil {
			return proof{}, nil, err
		}
		if row.NID != who.UserNID {
			return proof{}, nil, mxerr.Forbidden("The password must be the one of your own account")
		}
	}
	try, err := s.gate.GuessOwn(who)
	if err != nil {
		return proof{}, nil, err
	}
	row, err := s.accountToSignIn(ctx, string(who.UserID))
	if err != nil {
		return proof{}, nil, err
	}
	_, err = s.checkPassword(ctx, row, a.Password, try, false)
	if errors.As(err, &refused) && refused.Code == mxerr.CodeForbidden {
		return proof{}, refused, nil
	}
	return proof{}, nil, err
}

// readAuth returns the field auth of a request, and a value that binds the authentication session to this request.
func (s *Service) readAuth(q Asked) (a auth, b binding, err error) {
	if raw, there := q.Body["auth"]; there && string(raw) != "null" {
		if err := json.Unmarshal(raw, &a); err != nil {
			return a, b, mxerr.BadJSON("auth does not have the documented shape").Because(err)
		}
	}
	b.operation = q.Operation + " " + q.Target
	b.body, err = bodyDigest(q.Body)
	return a, b, err
}

func errUnknownStage(stage string) *mxerr.Error {
	return mxerr.New(http.StatusUnauthorized, mxerr.CodeUnrecognized, "The authentication type %.64q is not offered", stage)
}

// challengeForm describes a challenge to the client.
type challengeForm struct {
	flows  [][]string
	params map[string]any
	page   string // on which the user approves the request; "" if it is not approved on a page
}

// met reports whether all stages of some flow are completed.
func (f challengeForm) met(ch challenge) bool {
	return slices.ContainsFunc(f.flows, func(stages []string) bool {
		return !slices.ContainsFunc(stages, func(stage string) bool { return !slices.Contains(ch.completed, stage) })
	})
}

func (f challengeForm) offers(stage string) bool {
	return slices.ContainsFunc(f.flows, func(stages []string) bool { return slices.Contains(stages, stage) })
}

// unmet returns the response that asks for more stages: 401 with the flows. It has an error code only if an attempt
// failed.
// Spec: client-server-api#user-interactive-api-in-the-rest-api
func (f challengeForm) unmet(ch challenge, failed *mxerr.Error) error {
	flows := make([]map[string][]string, len(f.flows))
	for i, stages := range f.flows {
		flows[i] = map[string][]string{"stages": stages}
	}
	params := f.params
	if params == nil {
		params = map[string]any{}
	}
	e := mxerr.New(http.StatusUnauthorized, "", "More authentication is required")
	if f.page != "" {
		e = mxerr.New(http.StatusUnauthorized, "", "Approve this on your account page and then try again: %s", f.page)
	}
	if failed != nil {
		e = mxerr.New(http.StatusUnauthorized, failed.Code, "%s", failed.Msg)
	}
	return e.With("flows", flows).With("params", params).With("session", ch.id).With("completed", append([]string{}, ch.completed...))
}

// Admission is the permission to register. The caller calls Done when the account has been created; until then the same
// session can be used for another attempt with another name.
type Admission struct {
	Token string    // the registration token whose uses count, or ""
	Email *Verified // the address that the account gets, or nil
	Done  func(SignedIn)
}

// Registered returns the response to an earlier registration request that created an account. It is for clients that
// repeat the request because they did not receive the response. ok is false for all other requests.
func (s *Service) Registered(body map[string]json.RawMessage) (made SignedIn, ok bool, err error) {
	a, b, err := s.readAuth(Asked{Body: body})
	if err != nil {
		return made, false, err
	}
	if answer := s.applying.made(a.Session, b.body); answer != nil {
		return *answer, true, nil
	}
	return made, false, nil
}

// Admit checks the field auth of a registration request according to the registration mode and the terms. Wrong
// registration tokens count for the client's network; requests for the progress of a session do not.
//
// Errors: 401 with the flows, and M_FORBIDDEN if a stage failed; 403 M_FORBIDDEN if registration is closed.
func (s *Service) Admit(ctx context.Context, body map[string]json.RawMessage, network string) (Admission, error) {
	if s.opts.Registration != Open && s.opts.Registration != WithToken {
		return Admission{}, errClosed()
	}
	a, b, err := s.readAuth(Asked{Body: body})
	if err != nil {
		return Admission{}, err
	}
	// The challenge is not bound to the parameters, because no existing account is at stake and the client may replace
	// a name that is in use.
	ch := s.applying.find(a.Session, binding{operation: registering}, network)
	form := s.form(purpose{operation: registering})
	if a.Type != "" && a.Session != "" && ch.id != a.Session {
		return Admission{}, form.unmet(ch, mxerr.Forbidden("The session is unknown or has expired; continue with the new one"))
	}
	if a.Type != "" {
		if ch, err = s.apply(ctx, ch, form, tried{operation: registering, auth: a, network: network}); err != nil {
			return Admission{}, err
		}
	}
	if !form.met(ch) {
		return Admission{}, form.unmet(ch, nil)
	}
	return Admission{Token: ch.token, Email: ch.email, Done: func(made SignedIn) { s.applying.register(ch.id, b.body, made) }}, nil
}

// policies returns the terms in the form of parameters of m.login.terms.
// Spec: client-server-api#terms-of-service-at-registration
func (s *Service) policies(purpose) any {
	out := map[string]any{}
	for _, t := range s.opts.Terms {
		version := t.Version
		if version == "" {
			version = "1"
		}
		out[t.ID] = map[string]any{"version": version, "en": map[string]string{"name": t.Name, "url": t.URL}}
	}
	return map[string]any{"policies": out}
}

// apply attempts one stage of a registration and records its completion.
func (s *Service) apply(ctx context.Context, ch challenge, form challengeForm, at tried) (challenge, error) {
	p, err := s.try(ctx, ch, form, at)
	if err != nil {
		return ch, err
	}
	after, ok := s.applying.complete(ch.id, at.auth.Type, p)
	if !ok {
		return after, form.unmet(after, errBadToken())
	}
	return after, nil
}

// checkRegistrationToken checks that the given registration token can still be used.
func (s *Service) checkRegistrationToken(ctx context.Context, at tried) (p proof, refused *mxerr.Error, err error) {
	row, found, err := s.guessRegistrationToken(ctx, at.auth.Token, at.network)
	if err != nil {
		return p, nil, err
	}
	if !found {
		return p, errBadToken(), nil
	}
	return proof{token: at.auth.Token, usable: func(pending int64) bool { return s.usable(row, pending) }}, nil, nil
}

func errBadToken() *mxerr.Error {
	return mxerr.Forbidden("The registration token is unknown, used up or has expired")
}
