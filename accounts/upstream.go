package accounts

import (
	"context"
	"errors"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/gate"
	"ebb/accounts/jwt"
	"ebb/accounts/ldap"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// UpstreamOptions are the settings for users whom other services sign in.
type UpstreamOptions struct {
	JWT       *jwt.Verifier // nil if nobody can log in with a JSON Web Token
	JWTCreate bool          // whether the first login with such a token creates the account
	JWTStrong bool          // whether some tokens state that the user has presented two factors

	LDAP       *ldap.Directory // nil if there is no directory
	LDAPCreate bool            // whether the first sign-in of a user of the directory creates the account
}

// Identity is the account of a local user at another service.
type Identity struct {
	Issuer  string // of an OpenID Connect provider, or storage.DirectoryIssuer
	Subject string
	Created time.Time
}

// maxIdentities bounds the identities of a user at other services.
const maxIdentities = 20

// errIdentityTaken returns the error for an identity that belongs to an account already.
func errIdentityTaken() error {
	return mxerr.Forbidden("This identity belongs to an account on this server already: sign in with it")
}

// addIdentity records that an account belongs to an identity at another service.
//
// Errors: M_FORBIDDEN if the identity belongs to an account already, or the account has too many.
func (w *write) addIdentity(i Identity, user ident.UserNID) error {
	all, err := w.UpstreamIdentities(user, maxIdentities)
	if err != nil {
		return err
	}
	if len(all) == maxIdentities {
		return mxerr.Forbidden("This account has too many identities at other services: remove one first")
	}
	fresh, err := w.AddUpstreamIdentity(storage.UpstreamIdentity{Issuer: i.Issuer, Subject: i.Subject, User: user})
	if err == nil && !fresh {
		err = errIdentityTaken()
	}
	if err != nil {
		return err
	}
	name, err := w.UserID(user)
	w.note("identity linked", "user", name, "issuer", i.Issuer, "subject", i.Subject)
	return err
}

// Identities returns the identities of a user at other services.
//
// Errors: M_NOT_FOUND.
func (s *Service) Identities(ctx context.Context, user id.UserID) ([]Identity, error) {
	var rows []storage.UpstreamIdentity
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		a, err := s.account(tx, user)
		if err == nil {
			rows, err = tx.UpstreamIdentities(a.NID, maxIdentities)
		}
		return err
	})
	out := make([]Identity, len(rows))
	for i, r := range rows {
		out[i] = Identity{Issuer: r.Issuer, Subject: r.Subject, Created: time.UnixMilli(r.CreatedTS)}
	}
	return out, err
}

// Link records that an account belongs to an identity at another service. If that is the LDAP directory, the account
// loses its password here, since the directory is not asked for accounts that have one.
//
// Errors: M_NOT_FOUND; M_FORBIDDEN if the identity belongs to an account already, or the account has too many;
// M_INVALID_PARAM.
func (s *Service) Link(ctx context.Context, user id.UserID, i Identity) error {
	if i.Issuer == "" || i.Subject == "" {
		return mxerr.InvalidParam("The issuer and the subject must not be empty")
	}
	return s.write(ctx, func(w *write) error {
		a, err := s.activeAccount(w.Tx, user)
		if err != nil {
			return err
		}
		if i.Issuer == storage.DirectoryIssuer {
			i.Subject = foldName(i.Subject)
			if err := w.SetPassword(a.NID, ""); err != nil {
				return err
			}
		}
		return w.addIdentity(i, a.NID)
	})
}

// Unlink removes an identity of a user. Sessions that began with it continue.
//
// Errors: M_NOT_FOUND.
func (s *Service) Unlink(ctx context.Context, user id.UserID, i Identity) error {
	return s.write(ctx, func(w *write) error {
		a, err := s.account(w.Tx, user)
		if err != nil {
			return err
		}
		w.note("identity unlinked", "user", user, "issuer", i.Issuer, "subject", i.Subject)
		found, err := w.DeleteUpstreamIdentity(storage.UpstreamIdentity{Issuer: i.Issuer, Subject: i.Subject, User: a.NID})
		if err == nil && !found {
			err = mxerr.NotFound("The user has no such identity")
		}
		return err
	})
}

// AccountOf returns the account to which an identity belongs. Closed accounts have none.
func (s *Service) AccountOf(ctx context.Context, i Identity) (storage.AccountRow, bool, error) {
	return s.accountOfIdentity(ctx, i)
}

// CreateLinked creates an account without a password for an identity, and returns it. The name must be a localpart as
// it is: capitals, which other services distinguish, are not converted.
//
// Errors: M_INVALID_USERNAME, M_USER_IN_USE, M_EXCLUSIVE; M_FORBIDDEN if the identity belongs to an account already.
func (s *Service) CreateLinked(ctx context.Context, i Identity, name, displayName, email string) (storage.AccountRow, error) {
	if name != foldName(name) {
		return storage.AccountRow{}, mxerr.New(400, mxerr.CodeInvalidUsername, "A user name must not have capital letters")
	}
	if name == "" {
		return storage.AccountRow{}, mxerr.New(400, mxerr.CodeInvalidUsername, "The user name is empty")
	}
	return s.createNamed(ctx, NewAccount{Username: name, DisplayName: displayName, KnownEmail: email, Identity: &i})
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
	try, err := s.gate.GuessToken("jwt", n.Network)
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
