package accounts

import (
	"context"
	"crypto/sha512"
	"fmt"
	"net/http"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Assume returns the requester for a request in which an application service acts as a local user. Such a request has
// no access token of the user. If device is not "", the service acts as that device of the user. The caller has checked
// that the service may do so. Like Authenticate, Assume records that the device was seen, and caches its results.
// Spec: application-service-api#identity-assertion
//
// Errors: M_FORBIDDEN if there is no such user, M_USER_DEACTIVATED, M_UNKNOWN_DEVICE.
func (s *Service) Assume(ctx context.Context, user id.UserID, device id.DeviceID, addr, userAgent string) (ident.Requester, error) {
	key := assumedKey(user, device)
	c := s.sessions.get(key)
	if c == nil {
		epoch := s.sessions.currentEpoch()
		var err error
		if c, err = s.loadAssumed(ctx, user, device); err != nil {
			return ident.Requester{}, err
		}
		s.sessions.put(key, c, epoch)
	}
	if c.DeviceNID != 0 {
		c.seen(s.opts.Now().UnixMilli(), addr, userAgent)
	}
	return c.Requester, nil
}

// assumedKey returns the key under which the cache holds a session that Assume has created. It is computed with another
// hash function than the keys of access tokens, so it cannot be equal to the key of a token.
func assumedKey(user id.UserID, device id.DeviceID) tokenKey {
	return sha512.Sum512_256([]byte(string(user) + "\x00" + string(device)))
}

func (s *Service) loadAssumed(ctx context.Context, user id.UserID, device id.DeviceID) (*session, error) {
	c := &session{}
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		a, err := s.account(tx, user)
		switch {
		case mxerr.Code(err) == mxerr.CodeNotFound:
			return mxerr.Forbidden("The application service has not registered the user %s", user)
		case err != nil:
			return err
		case a.DeactivatedTS != 0:
			return errDeactivated()
		}
		c.Requester = ident.Requester{UserNID: a.NID, UserID: user, IsAdmin: a.Admin, Locked: a.Locked, Suspended: a.Suspended}
		if device == "" {
			return nil
		}
		d, found, err := tx.Device(a.NID, string(device))
		if err == nil && !found {
			err = mxerr.New(http.StatusBadRequest, mxerr.CodeUnknownDevice, "The user has no such device")
		}
		c.DeviceNID, c.DeviceID = d.NID, device
		return err
	})
	return c, err
}

func errDeactivated() error {
	return mxerr.New(http.StatusForbidden, mxerr.CodeUserDeactivated, "This account has been deactivated")
}

// LoginService logs a user in for an application service. user is a localpart or a user ID.
// Spec: application-service-api#server-admin-style-permissions
//
// Errors: M_EXCLUSIVE, M_FORBIDDEN if there is no such user, M_USER_DEACTIVATED.
func (s *Service) LoginService(ctx context.Context, service, user string, n NewSession) (SignedIn, error) {
	a, err := s.accountToSignIn(ctx, user)
	if err != nil {
		return SignedIn{}, err
	}
	if a.NID == 0 {
		a.Localpart, _ = s.localpartOf(user)
	}
	if s.reserved(service, a.Localpart) {
		return SignedIn{}, mxerr.New(http.StatusForbidden, mxerr.CodeExclusive, "The user is outside the namespaces of the application service")
	}
	if a.NID == 0 {
		return SignedIn{}, mxerr.Forbidden("The application service has not registered this user")
	}
	return s.SignIn(ctx, gate.Attempt{Path: gate.PathAppService, User: a.NID, Shown: gate.AppService}, n, nil)
}

// reserved reports whether the given localpart is reserved for others than service, the ID of an application service.
// If service is "", it reports whether ordinary users may not have the localpart.
func (s *Service) reserved(service, localpart string) bool {
	return s.opts.Hooks.Exclusive != nil && s.opts.Hooks.Exclusive(service, localpart)
}

// EnsureUser creates the account of an application service's sender if it does not exist. Nobody can log in to it with
// a password. The localpart may be any that is valid in a user ID.
func (s *Service) EnsureUser(ctx context.Context, localpart string) error {
	found := false
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		_, found, err = tx.AccountByLocalpart(localpart)
		return err
	})
	if err != nil || found {
		return err
	}
	err = s.write(ctx, func(w *write) error {
		_, err := s.create(w, storage.AccountRow{Localpart: localpart}, NewAccount{DisplayName: localpart})
		return err
	})
	if err != nil && mxerr.Code(err) != mxerr.CodeUserInUse {
		return fmt.Errorf("create the user %s of an application service: %w", localpart, err)
	}
	return nil
}
