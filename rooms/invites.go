package rooms

import (
	"context"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
)

// changeInviteFilters is the Listener that drops the invite filters that have changed.
func (s *Service) changeInviteFilters(c *Commit) {
	for _, a := range c.AccountData {
		if a.Room == 0 {
			s.invites.Changed(a.User, a.Type)
		}
	}
}

// HidesInvite reports whether a local user does not want to see the invites of another user, who is blocked or ignored.
func (s *Service) HidesInvite(ctx context.Context, user ident.UserNID, inviter id.UserID) (bool, error) {
	return s.invites.Hides(ctx, user, inviter)
}

// mayBeInvited returns an error if a local user blocks the inviter, or has too many invites in total or from the
// inviter.
// Spec: client-server-api#invite-permission
func (s *Service) mayBeInvited(ctx context.Context, user ident.UserNID, inviter id.UserID) error {
	return s.invites.Check(ctx, user, inviter)
}
