package accounts

import (
	"context"
	"fmt"
	"time"

	"ebb/accounts/gate"
	"ebb/mxerr"
	"ebb/storage"
)

// maxGuests bounds the active guest accounts. Unused ones are deactivated after a while.
const maxGuests = 10_000

// guestPrefix is the prefix of the localparts of guests, by which other users recognise them.
const guestPrefix = "guest-"

// CreateGuest creates a guest account with a new device. A guest has no password and is not found in the user
// directory.
//
// Errors: M_GUEST_ACCESS_FORBIDDEN if guests are switched off, M_LIMIT_EXCEEDED.
// Spec: client-server-api#guest-access
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

// IsGuest returns nil if the access token belongs to the guest account with the given user name. That account may then
// become an ordinary one.
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

// guest returns the guest account to which a token belongs. The account must have the given localpart.
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

// upgrade turns a guest account into an ordinary one. Its sessions continue with the rights of an ordinary user.
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

// idleGuests is how many unused guest accounts are deactivated at a time.
const idleGuests = 100

// expireGuests deactivates guest accounts that have not been used for their lifetime.
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
			if err := s.Deactivate(ctx, s.UserID(localpart), NotErased); err != nil {
				return err
			}
		}
	}
}
