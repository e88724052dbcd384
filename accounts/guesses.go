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

// Budget limits attempts by a key. Take records an attempt; if the budget is used up, it records nothing and returns
// how long to wait. Return takes one attempt back.
type Budget interface {
	Take(key string) (wait time.Duration)
	Return(key string)
}

// Budgets limit what people who are not signed in may try. Only wrong guesses and created accounts count; a correct
// password or token does not. A nil budget is unlimited.
type Budgets struct {
	// Guesses counts wrong passwords by account and network, or by session for signed-in users, and wrong registration
	// and login tokens by network. Strangers elsewhere cannot use up the budget of an account's owner.
	Guesses Budget
	// Networks counts password comparisons for one network or session, right or wrong: each costs 20 ms, and one
	// network may try many accounts.
	Networks Budget
	// Accounts counts wrong passwords for one account from all networks in which the account has no device.
	Accounts Budget
	// NewAccounts counts the accounts created from one network.
	NewAccounts Budget
	// MailsTo counts the links sent to one e-mail address, MailsFrom those that one network asked for, and Mails all of
	// them.
	MailsTo, MailsFrom, Mails Budget
}

// attempt is a guess that counts as wrong until takeBack is called.
type attempt []counted

type counted struct {
	budget Budget
	key    string
}

// take also counts the attempt in b. If that budget is used up, the attempt is removed from all budgets.
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

// takeBack removes the attempt from all budgets.
func (a *attempt) takeBack() {
	for _, c := range *a {
		c.budget.Return(c.key)
	}
	*a = nil
}

// guessFrom counts an attempt at an account's password by a network that is not signed in.
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
	var comparison attempt // never taken back
	if err := comparison.take(s.opts.Budgets.Networks, network); err != nil {
		try.takeBack()
		return nil, err
	}
	return try, nil
}

// hasDeviceIn reports whether a device of the user was last seen in a network. The owner is then likely to be there,
// and must not be locked out by a distributed attack from elsewhere.
func (s *Service) hasDeviceIn(ctx context.Context, user ident.UserNID, network string) (bool, error) {
	if user == 0 || s.opts.Network == nil {
		return false, nil
	}
	devices, err := s.Devices(ctx, user)
	return slices.ContainsFunc(devices, func(d Device) bool { return d.Address != "" && s.opts.Network(d.Address) == network }), err
}

// guessBy counts an attempt of a signed-in user at the password of their own account. Each session counts separately,
// so that neither strangers nor a stolen session can keep the owner from changing the password.
//
// Errors: M_LIMIT_EXCEEDED.
func (s *Service) guessBy(who ident.Requester) (try attempt, err error) {
	session := "session\x00" + strconv.FormatInt(int64(who.DeviceNID), 10)
	if err := try.take(s.opts.Budgets.Guesses, session); err != nil {
		return nil, err
	}
	var comparison attempt // never taken back
	if err := comparison.take(s.opts.Budgets.Networks, session); err != nil {
		try.takeBack()
		return nil, err
	}
	return try, nil
}

// guessToken counts an attempt to guess a token from a network. Each kind of token has a count of its own.
//
// Errors: M_LIMIT_EXCEEDED.
func (s *Service) guessToken(kind, network string) (try attempt, err error) {
	err = try.take(s.opts.Budgets.Guesses, kind+"\x00"+network)
	return try, err
}

// GuessSharedSecret counts an attempt to register with the shared secret like one at a token from that network. Call
// takeBack if the secret was correct: only wrong ones count.
//
// Errors: M_LIMIT_EXCEEDED.
func (s *Service) GuessSharedSecret(network string) (takeBack func(), err error) {
	try, err := s.guessToken("shared secret", network)
	return try.takeBack, err
}
