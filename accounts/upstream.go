package accounts

import (
	"context"
	"errors"

	"ebb/accounts/gate"
	"ebb/accounts/jwt"
	"ebb/accounts/ldap"
	"ebb/mxerr"
	"ebb/storage"
)

// UpstreamOptions are the settings for users whom other services sign in.
type UpstreamOptions struct {
	JWT       *jwt.Verifier // nil if nobody can log in with a JSON Web Token
	JWTCreate bool          // whether the first login with such a token creates the account
	JWTStrong bool          // whether some tokens state that the user has presented two factors

	Providers map[string]string // names of the OpenID Connect providers, by issuer

	LDAP       *ldap.Directory // nil if there is no directory
	LDAPCreate bool            // whether the first sign-in of a user of the directory creates the account
}

// AccountOf returns the account to which an identity belongs. Closed accounts have none.
func (s *Service) AccountOf(ctx context.Context, i Identity) (storage.AccountRow, bool, error) {
	return s.accountOfIdentity(ctx, i)
}

// CreateLinked creates an account without a password for an identity, and returns it. It calls also within the write
// that creates the account. The name must be a localpart as
// it is: capitals, which other services distinguish, are not converted.
//
// Errors: M_INVALID_USERNAME, M_USER_IN_USE, M_EXCLUSIVE; M_FORBIDDEN if the identity belongs to an account already.
func (s *Service) CreateLinked(ctx context.Context, i Identity, name, displayName, email string, also func(*storage.Tx, storage.AccountRow) error) (storage.AccountRow, error) {
	if name != foldName(name) {
		return storage.AccountRow{}, mxerr.New(400, mxerr.CodeInvalidUsername, "A user name must not have capital letters")
	}
	if name == "" {
		return storage.AccountRow{}, mxerr.New(400, mxerr.CodeInvalidUsername, "The user name is empty")
	}
	return s.createNamed(ctx, NewAccount{Username: name, DisplayName: displayName, KnownEmail: email, Identity: &i, Also: also})
}

// OffersJWT reports whether anybody can log in with a JSON Web Token.
func (s *Service) OffersJWT() bool {
	return s.opts.Upstream.JWT != nil && (s.opts.Upstream.JWTStrong || s.gate.OffersPassword())
}

// LoginJWT logs in with a JSON Web Token of another program, which names the user. If the account does not exist, it is
// created if the configuration says so.
//
// Errors: M_FORBIDDEN, M_LIMIT_EXCEEDED, M_USER_LOCKED, M_INVALID_PARAM; M_UNKNOWN if such tokens are not accepted.
func (s *Service) LoginJWT(ctx context.Context, token string, n NewSession) (SignedIn, error) {
	if s.opts.Upstream.JWT == nil {
		return SignedIn{}, mxerr.New(400, mxerr.CodeUnknown, "This server accepts no JSON Web Tokens")
	}
	try, err := s.gate.GuessToken(gate.JSONWebTokens, n.Network)
	if err != nil {
		return SignedIn{}, err
	}
	person, err := s.opts.Upstream.JWT.Verify(token)
	if err != nil {
		s.failed(ctx, "", err.Error())
		return SignedIn{}, mxerr.Forbidden("The JSON Web Token is not valid, has expired or was issued for another purpose").Because(err)
	}
	try.Right()
	if err := n.check(); err != nil {
		return SignedIn{}, err
	}
	a, err := s.accountNamed(ctx, person, s.opts.Upstream.JWTCreate)
	if err != nil {
		return SignedIn{}, err
	}
	shown := gate.Upstream
	if person.TwoFactors {
		shown |= gate.UpstreamMFA
	}
	return s.SignIn(ctx, gate.Attempt{Path: gate.PathJWT, User: a.NID, Shown: shown, Network: n.Network, Guess: try}, n, nil)
}

// accountNamed returns the account of a user whom a trusted program names. If there is none, it is created if create is
// set. Guests and the users of application services cannot be named.
//
// Errors: M_FORBIDDEN.
func (s *Service) accountNamed(ctx context.Context, p jwt.Person, create bool) (storage.AccountRow, error) {
	a, err := s.accountToSignIn(ctx, p.Name)
	switch {
	case err != nil:
		return a, err
	case a.NID == 0 && create:
		a, err = s.createNamed(ctx, NewAccount{Username: p.Name, DisplayName: p.DisplayName})
		if code := mxerr.Code(err); code == mxerr.CodeInvalidUsername || code == mxerr.CodeExclusive {
			s.failed(ctx, p.Name, "not a name for an account")
			return a, mxerr.Forbidden("There can be no account with the name %.64q on this server", p.Name).Because(err)
		}
		return a, err
	case a.NID == 0:
		s.failed(ctx, "", noSuchUser)
	case !a.Guest && !s.reserved("", a.Localpart):
		return a, nil
	}
	return a, mxerr.Forbidden("There is no account on this server that can be used this way; ask the administrator of this server")
}

// createNamed creates an account without a password for a user whom another service has identified, and returns it. If
// the account has been created in the meantime, it is returned.
func (s *Service) createNamed(ctx context.Context, n NewAccount) (a storage.AccountRow, err error) {
	if s.reserved("", foldName(n.Username)) {
		return a, errExclusive()
	}
	if checkText("displayname", n.DisplayName, maxDisplayName) != nil {
		n.DisplayName = ""
	}
	n.NoPassword = true
	_, err = s.Create(ctx, n)
	var e *mxerr.Error
	if err != nil && (!errors.As(err, &e) || e.Code != mxerr.CodeUserInUse || n.Identity != nil) {
		return a, err
	}
	return s.accountToSignIn(ctx, n.Username)
}
