package accounts

import (
	"context"

	"maunium.net/go/mautrix/id"

	"ebb/mxerr"
	"ebb/storage"
)

// Applicant describes a new user on a web page, where everything that registration requires is sent at once.
type Applicant struct {
	Username, Password string
	Token              string           // registration token, or ""
	Terms              bool             // whether the user has accepted the terms
	Email              EmailCredentials // of a verified address; the zero value if there is none
	Network            string           // the client's network

	// Also is called within the write that creates the account.
	Also func(tx *storage.Tx, account storage.AccountRow) error
}

// Requirements describes what registration on a web page requires.
type Requirements struct {
	Open  bool // whether users can create accounts at all
	Token bool
	Email EmailUse
	Terms []Term
}

// Requirements returns what registration requires.
func (s *Service) Requirements() Requirements {
	mode := s.opts.Registration
	return Requirements{Open: mode == Open || mode == WithToken, Token: mode == WithToken, Email: s.registrationEmail(), Terms: s.opts.Terms}
}

func errClosed() error {
	return mxerr.Forbidden("Registration is closed; ask the administrator of this server for an account")
}

// SignUp creates an account for a user on a web page, by the rules of POST /register: it checks the same stages. It
// creates no session.
//
// Errors: M_FORBIDDEN, M_EXCLUSIVE, M_LIMIT_EXCEEDED, M_INVALID_USERNAME, M_USER_IN_USE, M_WEAK_PASSWORD,
// M_THREEPID_AUTH_FAILED, M_SESSION_NOT_VALIDATED.
func (s *Service) SignUp(ctx context.Context, a Applicant) (id.UserID, error) {
	if !s.Requirements().Open {
		return "", errClosed()
	}
	if err := s.Available(ctx, a.Username); err != nil {
		return "", err
	}
	ch := s.applying.find("", binding{operation: registering}, a.Network)
	defer s.applying.finish(ch.id)
	ch, err := s.applyAtOnce(ctx, ch, a)
	if err != nil {
		return "", err
	}
	made, err := s.Create(ctx, NewAccount{Username: a.Username, Password: a.Password, Token: ch.token, Email: ch.email, Network: a.Network, Also: a.Also})
	return made.User, err
}

// applyAtOnce attempts all stages of a registration that are required, and those that the applicant has chosen.
func (s *Service) applyAtOnce(ctx context.Context, ch challenge, a Applicant) (challenge, error) {
	registration := purpose{operation: registering}
	form := s.form(registration)
	for _, st := range stages {
		u := st.use(s, registration)
		if u == unused || u == optional && (st.name != stageEmail || a.Email.SID == "") {
			continue
		}
		if st.name == stageTerms && !a.Terms {
			return ch, mxerr.Forbidden("Accept the terms of this server first")
		}
		var err error
		auth := auth{Type: st.name, Token: a.Token, Creds: a.Email}
		if ch, err = s.apply(ctx, ch, form, tried{operation: registering, auth: auth, network: a.Network}); err != nil {
			return ch, err
		}
	}
	return ch, nil
}

// EmailVerified reports whether the owner of an address has followed the link, for a page that waits for it.
//
// Errors: M_MISSING_PARAM, M_INVALID_PARAM, M_THREEPID_AUTH_FAILED.
func (s *Service) EmailVerified(ctx context.Context, creds EmailCredentials, purpose EmailPurpose) (address string, done bool, err error) {
	creds.purpose = purpose
	v, state, err := s.verified(ctx, creds)
	if err == nil && state == verifiedUnknown {
		err = errUnknownVerification()
	}
	return v.Address, state == verifiedYes, err
}

// ResetByEmail sets the password of the account whose e-mail address a user has verified on a web page, and signs the
// account's devices out if signOut is set. It creates no session: a second factor of the account is still needed.
//
// Errors: M_WEAK_PASSWORD, M_THREEPID_AUTH_FAILED, M_THREEPID_NOT_FOUND, M_USER_LOCKED.
func (s *Service) ResetByEmail(ctx context.Context, creds EmailCredentials, password string, signOut bool) error {
	creds.purpose = EmailForPassword
	v, state, err := s.verified(ctx, creds)
	switch {
	case err != nil:
		return err
	case state != verifiedYes:
		return errNotVerified()
	}
	if err := s.CheckPassword(password, ""); err != nil {
		return err
	}
	return s.resetPassword(ctx, v, password, signOut)
}
