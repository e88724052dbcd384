package accounts

import (
	"context"
	"fmt"
	"time"

	"ebb/accounts/gate"
	"ebb/mxerr"
	"ebb/storage"
)

// maxGuests bounds the active guest accounts; those that nobody uses are deactivated after a while.
const maxGuests = 10_000

// guestPrefix begins the localparts of guest accounts, so that other users recognise them.
const guestPrefix = "guest-"

// CreateGuest creates a guest account on a new device. A guest has no password, and is not in the user directory.
// Spec: client-server-api#guest-access
//
// Errors: M_GUEST_ACCESS_FORBIDDEN where the server has no guests, M_LIMIT_EXCEEDED.
func (s *Service) CreateGuest(ctx context.Context, deviceName, network string) (SignedIn, error) {
	if !s.opts.Guests {
		return SignedIn{}, mxerr.GuestAccessForbidden("This server has no guest accounts")
	}
	name := guestPrefix + letters(lowerAlphabet, 12)
	n := NewAccount{Username: name, DisplayName: name, Network: network, Path: gate.PathGuest, SignIn: &NewSession{DisplayName: deviceName}}
	if err := n.SignIn.check(); err != nil {
		return SignedIn{}, err
	}
	var made gate.Guess
	if err := made.Take(s.opts.Budgets.NewAccounts, network); err != nil {
		return SignedIn{}, err
	}
	var out SignedIn
	err := s.write(ctx, func(w *write) error {
		guests, err := w.CountGuests()
		if err != nil {
			return err
		}
		if guests >= maxGuests {
			return mxerr.LimitExceeded(time.Hour)
		}
		out, err = s.create(w, storage.AccountRow{Localpart: name, Guest: true}, n)
		return err
	})
	return out, err
}

// IsGuest returns nil if a token is that of the guest account with a user name, which may then become an ordinary
// account.
//
// Errors: M_MISSING_PARAM, M_UNKNOWN_TOKEN, M_FORBIDDEN.
func (s *Service) IsGuest(ctx context.Context, token, username string) error {
	if username == "" {
		return mxerr.MissingParam("username must be the one of the guest account")
	}
	return s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		_, err := s.guest(tx, token, username)
		return err
	})
}

// guest returns the guest account of a token, which must have the given localpart.
func (s *Service) guest(tx *storage.Tx, token, localpart string) (a storage.AccountRow, err error) {
	row, found, err := tx.AccessToken(keyOf(token).String())
	if err != nil {
		return a, fmt.Errorf("read the token of a guest: %w", err)
	}
	if !found {
		return a, mxerr.UnknownToken(false)
	}
	if a, _, err = tx.Account(row.User); err != nil {
		return a, err
	}
	switch {
	case a.Locked:
		return a, mxerr.UserLocked()
	case !a.Guest || a.Localpart != localpart:
		return a, mxerr.Forbidden("guest_access_token must belong to the guest account that username names")
	}
	return a, nil
}

// upgrade makes a guest account an ordinary one. Its sessions go on, now with all rights of a user.
func (s *Service) upgrade(w *write, to storage.AccountRow, n NewAccount) (SignedIn, error) {
	a, err := s.guest(w.Tx, n.GuestToken, to.Localpart)
	if err != nil {
		return SignedIn{}, err
	}
	user := s.UserID(a.Localpart)
	w.note("guest account became an ordinary account", "user", user, "registration_token", shortened(n.Token))
	if err := w.useRegistrationToken(n.Token); err != nil {
		return SignedIn{}, err
	}
	if n.Email != nil {
		if err := w.useEmail(*n.Email, a.NID); err != nil {
			return SignedIn{}, err
		}
	}
	fields, err := w.Profile(a.NID)
	if err != nil {
		return SignedIn{}, err
	}
	displayName, _ := nameAndAvatar(fields)
	if err := w.UpgradeGuest(a.NID, to.Password, searchText(user, displayName)); err != nil {
		return SignedIn{}, err
	}
	w.after(func() { s.sessions.dropUser(a.NID) })
	if n.SignIn == nil {
		return SignedIn{User: user}, nil
	}
	return s.admit(w, n.attempt(a.NID), *n.SignIn)
}

// idleGuests is the number of unused guest accounts that are deactivated at a time.
const idleGuests = 100

// expireGuests deactivates the guest accounts that were not used for a lifetime.
func (s *Service) expireGuests(ctx context.Context) error {
	if s.opts.GuestLifetime == 0 {
		return nil
	}
	since := s.opts.Now().Add(-s.opts.GuestLifetime).UnixMilli()
	for {
		var idle []string
		err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			idle, err = tx.IdleGuests(since, idleGuests)
			return err
		})
		if err != nil || len(idle) == 0 {
			return err
		}
		for _, localpart := range idle {
			if err := s.Deactivate(ctx, s.UserID(localpart), false); err != nil {
				return err
			}
		}
	}
}
