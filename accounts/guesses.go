package accounts

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Budget bounds attempts by a key. Take counts one attempt, or counts none and returns how long to wait; Return takes an
// attempt off the count again.
type Budget interface {
	Take(key string) (wait time.Duration)
	Return(key string)
}

// Budgets bound what people who are not signed in may try. Only wrong guesses and finished accounts count; a right
// password or token is no guess. A nil budget is unlimited.
type Budgets struct {
	// Guesses counts wrong passwords by account and network, or by session where the user is signed in, and wrong
	// registration and login tokens by network. Strangers elsewhere cannot use it up for the owner of an account.
	Guesses Budget
	// Networks counts the passwords compared for one network or session, right or wrong: each costs 20 ms, and one network
	// may try many accounts.
	Networks Budget
	// Accounts counts the wrong passwords for one account from all networks in which the account has no device.
	Accounts Budget
	// NewAccounts counts the accounts that are made from one network.
	NewAccounts Budget
}

// attempt is a guess that counts as wrong until it is taken back.
type attempt []counted

type counted struct {
	budget Budget
	key    string
}

// take counts the attempt in one more budget. If there is nothing left in it, the attempt counts nowhere.
//
// Errors: M_LIMIT_EXCEEDED.
func (a *attempt) take(b Budget, key string) error {
	if b == nil {
		return nil
	}
	if wait := b.Take(key); wait > 0 {
		a.takeBack()
		return mxerr.LimitExceeded(wait)
	}
	*a = append(*a, counted{b, key})
	return nil
}

// takeBack makes the attempt count for nothing.
func (a *attempt) takeBack() {
	for _, c := range *a {
		c.budget.Return(c.key)
	}
	*a = nil
}

// guessFrom counts an attempt at an account's password by somebody in a network who is not signed in.
//
// Errors: M_LIMIT_EXCEEDED.
func (s *Service) guessFrom(ctx context.Context, a storage.AccountRow, network string) (try attempt, err error) {
	if full := try.take(s.opts.Budgets.Accounts, a.Localpart); full != nil {
		if known, err := s.hasDeviceIn(ctx, a.NID, network); err != nil || !known {
			return nil, cmp.Or(err, full)
		}
	}
	if err := try.take(s.opts.Budgets.Guesses, "password\x00"+a.Localpart+"\x00"+network); err != nil {
		return nil, err
	}
	var comparison attempt // is never taken back
	if err := comparison.take(s.opts.Budgets.Networks, network); err != nil {
		try.takeBack()
		return nil, err
	}
	return try, nil
}

// hasDeviceIn reports whether a device of the user was last seen in a network. The owner is likely to be there, and must
// not be locked out by strangers elsewhere who guess together.
func (s *Service) hasDeviceIn(ctx context.Context, user ident.UserNID, network string) (bool, error) {
	if user == 0 || s.opts.Network == nil {
		return false, nil
	}
	devices, err := s.Devices(ctx, user)
	return slices.ContainsFunc(devices, func(d Device) bool { return d.Address != "" && s.opts.Network(d.Address) == network }), err
}

// guessBy counts an attempt at the password of the account that is signed in. Each session counts by itself: neither
// strangers nor a stolen session keep the owner from changing the password.
//
// Errors: M_LIMIT_EXCEEDED.
func (s *Service) guessBy(who ident.Requester) (try attempt, err error) {
	session := "session\x00" + strconv.FormatInt(int64(who.DeviceNID), 10)
	if err := try.take(s.opts.Budgets.Guesses, session); err != nil {
		return nil, err
	}
	var comparison attempt // is never taken back
	if err := comparison.take(s.opts.Budgets.Networks, session); err != nil {
		try.takeBack()
		return nil, err
	}
	return try, nil
}

// guessToken counts an attempt at a token of some kind.
//
// Errors: M_LIMIT_EXCEEDED.
func (s *Service) guessToken(kind, network string) (try attempt, err error) {
	err = try.take(s.opts.Budgets.Guesses, kind+"\x00"+network)
	return try, err
}

// GuessSharedSecret counts an attempt to register by the shared secret, as one at a token of that network, until it is taken
// back: only wrong ones count.
//
// Errors: M_LIMIT_EXCEEDED.
func (s *Service) GuessSharedSecret(network string) (takeBack func(), err error) {
	try, err := s.guessToken("shared secret", network)
	return try.takeBack, err
}
