package accounts

import (
	"context"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/hashing"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/notices"
	"ebb/storage"
)

// PasswordChange says what stays signed in after a change of the password. Everything with which a device could still
// be signed in ends with the old password: sessions of browsers on the web pages, login tokens and codes.
type PasswordChange struct {
	SignOut bool        // all devices are signed out
	Device  id.DeviceID // except this one; "": none
	Browser string      // the cookie of the session of a browser that stays; "": none
}

// SetPassword sets a user's password.
//
// Errors: M_NOT_FOUND, M_WEAK_PASSWORD; M_FORBIDDEN if the account gets its password or its sign-ins from another
// service.
func (s *Service) SetPassword(ctx context.Context, user id.UserID, password string, c PasswordChange) error {
	return s.changePassword(ctx, user, password, c, s.refuseElsewhere)
}

// OverridePassword sets a user's password on behalf of an administrator, even if the user signs in with the password of
// the LDAP directory, which is then no longer used, or by an identity provider.
//
// Errors: M_NOT_FOUND, M_WEAK_PASSWORD.
func (s *Service) OverridePassword(ctx context.Context, user id.UserID, password string, signOut bool) error {
	return s.changePassword(ctx, user, password, PasswordChange{SignOut: signOut}, func(*storage.Tx, storage.AccountRow) error { return nil })
}

// changePassword sets a user's password unless check, which is called within the write, returns an error.
func (s *Service) changePassword(ctx context.Context, user id.UserID, password string, c PasswordChange, check func(*storage.Tx, storage.AccountRow) error) error {
	if err := s.CheckPassword(password, string(user)); err != nil {
		return err
	}
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return err
	}
	return s.write(ctx, func(w *write) error {
		a, err := s.activeAccount(w.Tx, user)
		if err != nil {
			return err
		}
		if err := check(w.Tx, a); err != nil {
			return err
		}
		w.note("password changed", "user", user)
		return s.setPassword(w, a.NID, hash, c)
	})
}

// SetPasswordHash sets a user's password by a bcrypt hash from another server. The next sign-in replaces it by a hash
// of this server's own kind.
//
// Errors: M_NOT_FOUND, M_INVALID_PARAM.
func (s *Service) SetPasswordHash(ctx context.Context, user id.UserID, hash string) error {
	if err := hashing.CheckImported(hash); err != nil {
		return mxerr.InvalidParam("This hash cannot be imported: %v", err)
	}
	return s.write(ctx, func(w *write) error {
		a, err := s.activeAccount(w.Tx, user)
		if err != nil {
			return err
		}
		w.note("password hash imported", "user", user)
		return w.replacePassword(a.NID, hash, "")
	})
}

// setPassword replaces a password, alerts its user and signs devices out.
func (s *Service) setPassword(w *write, user ident.UserNID, hash string, c PasswordChange) error {
	if err := w.replacePassword(user, hash, c.Browser); err != nil {
		return err
	}
	alert := notices.Notice{User: user, Kind: notices.PasswordChanged, Details: notices.Details{Device: string(c.Device)}}
	if c.Device != "" {
		d, _, err := w.Device(user, string(c.Device))
		if err != nil {
			return err
		}
		alert.Device = d.NID
	}
	if err := s.opts.Notices.Add(w.Tx, alert); err != nil || !c.SignOut {
		return err
	}
	return s.deleteAllDevices(w, user, c.Device)
}

// replacePassword stores the hash of a new password, and ends the sessions of all browsers except that of the given
// cookie, as well as everything else with which somebody who knew the old password could still sign a device in.
func (w *write) replacePassword(user ident.UserNID, hash, browser string) error {
	if err := w.SetPassword(user, hash); err != nil {
		return err
	}
	if browser != "" {
		browser = keyOf(browser).String()
	}
	return w.DeleteLoginTokensExcept(user, browser)
}
