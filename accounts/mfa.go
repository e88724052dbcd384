package accounts

import (
	"cmp"
	"context"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/gate"
	"ebb/ident"
)

// SetMFA sets the policy on second factors for one account; "" means that of the server. If a second factor becomes
// required, sessions without one end after the grace period. The zero requester stands for the command line.
//
// Errors: M_INVALID_PARAM, M_NOT_FOUND, M_FORBIDDEN.
func (s *Service) SetMFA(ctx context.Context, by ident.Requester, user id.UserID, mode gate.Mode) error {
	return s.write(ctx, func(w *write) error {
		a, err := s.localAccount(w.Tx, user)
		if err != nil {
			return err
		}
		w.note("policy on second factors of an account set", "user", user, "mode", cmp.Or(string(mode), "default"), "by", by.UserID)
		return gate.SetMode(w.Tx, a, mode)
	})
}
