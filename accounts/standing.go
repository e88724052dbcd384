package accounts

import (
	"context"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Standing says whether administrators have locked or suspended an account.
type Standing struct {
	Locked    bool // nobody can use the account
	Suspended bool // the user can read, but do little else
}

// Standing tells an administrator whether an account is locked or suspended.
//
// Errors: M_INVALID_PARAM, M_FORBIDDEN, M_NOT_FOUND.
func (s *Service) Standing(ctx context.Context, by ident.Requester, user id.UserID) (st Standing, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		a, err := s.localAccount(tx, user)
		if err == nil && a.Admin && a.NID != by.UserNID {
			err = errModerateAdmin()
		}
		st = Standing{Locked: a.Locked, Suspended: a.Suspended}
		return err
	})
	return st, err
}

// SetLocked locks or unlocks an account. The tokens of a locked account stay valid, so that they can be used again
// after it is unlocked, but browsers are signed out of the web pages. Login tokens are kept, so that clients are told
// why they are refused; they expire within minutes. The zero requester stands for the command line.
// Spec: client-server-api#account-locking
//
// Errors: M_INVALID_PARAM, M_FORBIDDEN, M_NOT_FOUND.
func (s *Service) SetLocked(ctx context.Context, by ident.Requester, user id.UserID, locked bool) error {
	return s.moderate(ctx, by, user, func(w *write, a storage.AccountRow) error {
		w.note("account locked or unlocked", "user", user, "locked", locked, "by", by.UserID)
		if s.opts.Hooks.Locked != nil {
			w.after(func() { s.opts.Hooks.Locked(a.NID, locked) })
		}
		if err := w.SetLocked(a.NID, locked); err != nil || !locked {
			return err
		}
		return w.EndBrowsers(a.NID, "")
	})
}

// SetSuspended suspends an account or ends its suspension. The zero requester stands for the command line.
// Spec: client-server-api#account-suspension
//
// Errors: M_INVALID_PARAM, M_FORBIDDEN, M_NOT_FOUND.
func (s *Service) SetSuspended(ctx context.Context, by ident.Requester, user id.UserID, suspended bool) error {
	return s.moderate(ctx, by, user, func(w *write, a storage.AccountRow) error {
		w.note("account suspended or unsuspended", "user", user, "suspended", suspended, "by", by.UserID)
		return w.SetSuspended(a.NID, suspended)
	})
}

// moderate changes the standing of an account. Administrators cannot change the standing of administrators; the command
// line can.
func (s *Service) moderate(ctx context.Context, by ident.Requester, user id.UserID, change func(*write, storage.AccountRow) error) error {
	return s.write(ctx, func(w *write) error {
		a, err := s.localAccount(w.Tx, user)
		if err != nil {
			return err
		}
		if a.Admin && by.UserNID != 0 {
			return errModerateAdmin()
		}
		w.after(func() { s.sessions.dropUser(a.NID) })
		return change(w, a)
	})
}

func errModerateAdmin() error {
	return mxerr.Forbidden("Administrators can only be moderated with the command line")
}

// localAccount returns the active account of a user ID, which must be of this server.
//
// Errors: M_INVALID_PARAM, M_NOT_FOUND.
func (s *Service) localAccount(tx *storage.Tx, user id.UserID) (storage.AccountRow, error) {
	if _, server, err := user.Parse(); err != nil || server != s.opts.Server {
		return storage.AccountRow{}, mxerr.InvalidParam("The user ID must be one of this server")
	}
	return s.activeAccount(tx, user)
}

// IsLocked reports whether an account is locked.
func (s *Service) IsLocked(ctx context.Context, user ident.UserNID) (locked bool, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		a, _, err := tx.Account(user)
		locked = a.Locked
		return err
	})
	return locked, err
}

// WhoIs returns the devices of a user. Only the user and administrators may call it.
// Spec: client-server-api#get_matrixclientv3adminwhoisuserid
//
// Errors: M_INVALID_PARAM, M_NOT_FOUND, and those of Administer.
func (s *Service) WhoIs(ctx context.Context, by ident.Requester, user id.UserID) ([]Device, error) {
	if user != by.UserID {
		if err := s.Administer(ctx, by); err != nil {
			return nil, err
		}
	}
	var a storage.AccountRow
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		a, err = s.localAccount(tx, user)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.Devices(ctx, a.NID)
}
