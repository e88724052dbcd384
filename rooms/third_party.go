package rooms

import (
	"context"
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/handshake"
)

// ThirdPartyInvite is an invite to a third-party identifier that turned out to belong to a user.
type ThirdPartyInvite = handshake.ThirdPartyInvite

// MayInviteAddress returns nil if a user can send third-party invites to a room.
//
// Errors: M_FORBIDDEN.
func (s *Service) MayInviteAddress(ctx context.Context, who ident.Requester, room id.RoomID) error {
	r, err := s.Room(ctx, room)
	if err != nil {
		return unknownIsForbidden(err)
	}
	if r.Membership(who.UserID) != Join {
		return errNotInRoom()
	}
	if levels := r.Levels(); levels.UserLevel(who.UserID) < levels.Invite {
		return mxerr.Forbidden("You do not have the power to invite users to this room")
	}
	return nil
}

// ExchangeThirdPartyInvite invites a user of another server on behalf of the local sender of the third-party invite.
// Spec: server-server-api#put_matrixfederationv1exchange_third_party_inviteroomid
func (s *Service) ExchangeThirdPartyInvite(ctx context.Context, origin string, t ThirdPartyInvite) error {
	if _, err := s.RoomForServer(ctx, origin, t.Room); err != nil {
		return err
	}
	if ident.ServerOf(t.Invitee) != origin {
		return mxerr.Forbidden("The invited user must belong to your server")
	}
	return s.fulfil(ctx, t)
}

// fulfil invites the user to whom the third-party identifier belongs.
func (s *Service) fulfil(ctx context.Context, t ThirdPartyInvite) error {
	if err := t.Check(); err != nil {
		return err
	}
	if !s.IsLocal(t.Sender) {
		return mxerr.Forbidden("The third-party invite was not sent by a user of this server")
	}
	r, err := s.Room(ctx, t.Room)
	if err != nil {
		return err
	}
	nid, err := s.UserNID(ctx, t.Sender)
	if err != nil {
		return err
	}
	token, _ := canonjson.Get(t.Signed, "token")
	issued := r.State(typeThirdPartyInvite, canonjson.String(token))
	if issued == nil || issued.Sender() != t.Sender {
		return mxerr.Forbidden("There is no such third-party invite in the room")
	}
	raw, err := json.Marshal(t.Content(issued.ContentString("display_name"))["third_party_invite"])
	if err != nil {
		return err
	}
	c := memberContent{Membership: Invite, more: map[string]json.RawMessage{"third_party_invite": raw}}
	return s.invite(ctx, ident.Requester{UserNID: nid, UserID: t.Sender}, t.Room, t.Invitee, c)
}

// Bound sends the third-party invites to an identifier, after it was bound to a local user. If the inviter belongs to
// another server, the invite is sent by that server. The request is not authenticated, so failures are only logged.
// Spec: server-server-api#put_matrixfederationv13pidonbind
func (s *Service) Bound(ctx context.Context, invites []ThirdPartyInvite) {
	for _, t := range invites {
		err := t.Check()
		switch {
		case err != nil:
		case s.IsLocal(t.Sender):
			err = s.fulfil(ctx, t)
		case s.federates():
			err = s.opts.Remote.ExchangeThirdPartyInvite(ctx, ident.ServerOf(t.Sender), t.Room, t.Event(""))
		}
		if err != nil {
			s.log.InfoContext(ctx, "could not send a third-party invite", "room", t.Room, "user", t.Invitee, "err", err)
		}
	}
}
