package rooms

import (
	"context"
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// ThirdPartyInvite is an invite to a third-party identifier, such as an email address, that turned out to belong to a
// user.
type ThirdPartyInvite struct {
	Room    id.RoomID
	Sender  id.UserID // the sender of the m.room.third_party_invite event
	Invitee id.UserID
	Signed  json.RawMessage // signed by the identity server: mxid, token, signatures
}

// event returns the invite in the form that servers exchange.
func (t *ThirdPartyInvite) event(displayName string) map[string]any {
	return map[string]any{
		"type": typeMember, "room_id": t.Room, "sender": t.Sender, "state_key": t.Invitee, "content": t.content(displayName),
	}
}

func (t *ThirdPartyInvite) content(displayName string) map[string]any {
	return map[string]any{"membership": Invite, "third_party_invite": map[string]any{"display_name": displayName, "signed": t.Signed}}
}

// check verifies that the signed part is about the invited user. The authorisation rules check the signature.
func (t *ThirdPartyInvite) check() error {
	if !canonjson.IsObject(t.Signed) {
		return mxerr.InvalidParam("third_party_invite must have signed")
	}
	mxid, _ := canonjson.Get(t.Signed, "mxid")
	if !pdu.ValidUserID(t.Invitee) || canonjson.String(mxid) != string(t.Invitee) {
		return mxerr.InvalidParam("mxid in signed must be the invited user")
	}
	return nil
}

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

// fulfil sends the invite.
func (s *Service) fulfil(ctx context.Context, t ThirdPartyInvite) error {
	if err := t.check(); err != nil {
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
	raw, err := json.Marshal(t.content(issued.ContentString("display_name"))["third_party_invite"])
	if err != nil {
		return err
	}
	c := memberContent{Membership: Invite, more: map[string]json.RawMessage{"third_party_invite": raw}}
	return s.invite(ctx, ident.Requester{UserNID: nid, UserID: t.Sender}, t.Room, t.Invitee, c)
}

// Bound sends the invites that waited for a third-party identifier which is now bound to a local user: in a local room,
// or through the inviter's server. The request is not authenticated, so failures are only logged.
// Spec: server-server-api#put_matrixfederationv13pidonbind
func (s *Service) Bound(ctx context.Context, invites []ThirdPartyInvite) {
	for _, t := range invites {
		err := t.check()
		switch {
		case err != nil:
		case s.IsLocal(t.Sender):
			err = s.fulfil(ctx, t)
		case s.federates():
			err = s.opts.Remote.ExchangeThirdPartyInvite(ctx, ident.ServerOf(t.Sender), t.Room, t.event(""))
		}
		if err != nil {
			s.log.InfoContext(ctx, "could not send a third-party invite", "room", t.Room, "user", t.Invitee, "err", err)
		}
	}
}

// Bounds of a user's pending invites, which are part of every initial /sync: all of them, and those by one local user
// or by the users of one other server. Bytes include the stripped state.
const (
	maxPendingInvites     = 2000
	maxPendingInviteBytes = 16 << 20
	maxInvitesOfInviter   = 500 // a bridge on another server may have hundreds of rooms for one user
	maxInviterBytes       = 4 << 20
)

// checkPendingInvites returns an error if the user has too many pending invites.
func (s *Service) checkPendingInvites(ctx context.Context, user ident.UserNID, inviter id.UserID) error {
	var pending []storage.PendingInvite
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		pending, err = tx.PendingInvites(user)
		return err
	})
	if err != nil {
		return err
	}
	var all, same, allBytes, sameBytes int64
	for _, p := range pending {
		all, allBytes = all+1, allBytes+p.Size
		if s.countsAs(id.UserID(p.Inviter)) == s.countsAs(inviter) {
			same, sameBytes = same+1, sameBytes+p.Size
		}
	}
	if all >= maxPendingInvites || allBytes >= maxPendingInviteBytes || same >= maxInvitesOfInviter || sameBytes >= maxInviterBytes {
		return mxerr.Forbidden("The user already has too many pending invites")
	}
	return nil
}

// countsAs returns the inviter against whose bound an invite counts: a local user or another server.
func (s *Service) countsAs(inviter id.UserID) string {
	if s.IsLocal(inviter) {
		return string(inviter)
	}
	return ident.ServerOf(inviter)
}
