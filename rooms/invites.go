package rooms

import (
	"context"
	"net/http"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
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
	if s.isNoticeSender(inviter) {
		return false, nil
	}
	return s.invites.Hides(ctx, user, inviter)
}

// mayBeInvited returns an error if a local user blocks the inviter, or has too many invites in total or from the
// inviter.
// Spec: client-server-api#invite-permission
func (s *Service) mayBeInvited(ctx context.Context, user ident.UserNID, inviter id.UserID) error {
	if s.isNoticeSender(inviter) {
		return nil
	}
	return s.invites.Check(ctx, user, inviter)
}

// isNoticeSender reports whether a user sends server notices.
func (s *Service) isNoticeSender(user id.UserID) bool {
	return user != "" && user == s.opts.NoticeSender
}

// mayReject returns an error if a user is invited to a room of server notices: such an invite cannot be rejected. Users
// who have joined the room may leave it.
// Spec: client-server-api#server-notices
func (s *Service) mayReject(r *Room, user id.UserID) error {
	if s.opts.NoticeSender == "" || r.Membership(user) != Invite {
		return nil
	}
	if create := r.State(typeCreate, ""); create == nil || !s.isNoticeSender(create.Sender()) {
		return nil
	}
	return mxerr.New(http.StatusForbidden, mxerr.CodeCannotLeaveNotices, "The invite to the room of server notices cannot be rejected. You can join the room and then leave it")
}
