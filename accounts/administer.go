package accounts

import (
	"context"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Administer returns nil if the requester may act as an administrator now.
//
// Whoever has found or stolen a session must not get the rights of an administrator with it. If signing in to the
// account needs a second factor, the session therefore has to be approved on the account page, where the user shows the
// factor. The approval is for this device and lasts for Options.AdminApproval. Like all approvals, it ends earlier with
// the session, with the password, and when browsers are signed out. Tokens of programs and of application services need
// none, since there is nobody who could show a factor: they are as good as the host, from which they were issued.
//
// Errors: M_FORBIDDEN, M_USER_LOCKED, M_USER_SUSPENDED; 401 with the flows if the user has to approve it.
func (s *Service) Administer(ctx context.Context, who ident.Requester) error {
	switch {
	case !who.IsAdmin:
		return mxerr.Forbidden("You are not an administrator of this server")
	case who.Locked:
		return mxerr.UserLocked()
	case who.Suspended:
		return mxerr.UserSuspended()
	case who.AppService != "":
		return nil
	}
	p := purpose{operation: administering}
	needed := false
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		if machine, err := tx.IsMachine(who.DeviceNID); err != nil || machine {
			return err
		}
		a, _, err := tx.Account(who.UserNID)
		if err != nil {
			return err
		}
		if needed, err = s.gate.NeedsSecond(tx, a); err != nil {
			return err
		}
		_, p.oauth, err = tx.OAuthSession(who.DeviceNID)
		return err
	})
	switch {
	case err != nil || !needed:
		return err
	case s.opts.AccountPage == "":
		return mxerr.Forbidden("Administration needs a second factor, but this server has no web pages on which you can show it: use its command line, or a token of ebb token issue")
	}
	row, form, err := s.approvalFor(ctx, Asked{Operation: administering, Requester: who}, p, binding{body: emptyBody})
	if err == nil && row.ApprovedTS == 0 {
		err = form.unmet(challenge{id: row.Session}, nil)
	}
	return err
}
