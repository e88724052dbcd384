package accounts

import (
	"context"
	"slices"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/storage"
)

// Budget limits attempts by a key.
type Budget = gate.Budget

// Budgets limits what clients without an access token may do, apart from guessing, which gate.Budgets limits. A nil
// budget is unlimited.
type Budgets struct {
	// NewAccounts counts the accounts created from one network.
	NewAccounts Budget
	// MailsTo counts the links sent to one e-mail address, MailsFrom those requested by one network, and Mails all of
	// them.
	MailsTo, MailsFrom, Mails Budget
}

// guessFrom counts an attempt at an account's password from a network without an access token. It counts for target:
// the name of the account, or the e-mail address by which the client named it. If guesses by address counted for the
// name, the limit of one would show to strangers whether the address belongs to that account.
//
// Errors: M_LIMIT_EXCEEDED.
func (s *Service) guessFrom(ctx context.Context, a storage.AccountRow, target, network string) (*gate.Guess, error) {
	return s.gate.GuessPassword(target, network, func() (bool, error) { return s.hasDeviceIn(ctx, a.NID, network) })
}

// hasDeviceIn reports whether a device of the user was last seen in a network.
func (s *Service) hasDeviceIn(ctx context.Context, user ident.UserNID, network string) (bool, error) {
	if user == 0 || s.opts.Network == nil {
		return false, nil
	}
	devices, err := s.Devices(ctx, user)
	return slices.ContainsFunc(devices, func(d Device) bool { return d.Address != "" && s.opts.Network(d.Address) == network }), err
}

// GuessSharedSecret counts an attempt to register with the shared secret from the given network. It counts like an
// attempt to guess a token. The caller calls takeBack if the secret was correct, since only wrong ones count.
//
// Errors: M_LIMIT_EXCEEDED.
func (s *Service) GuessSharedSecret(network string) (takeBack func(), err error) {
	try, err := s.gate.GuessToken(gate.SharedSecrets, network)
	if err != nil {
		return nil, err
	}
	return try.Right, nil
}
