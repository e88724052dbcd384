package clientapi

import (
	"context"

	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
	"ebb/ident"
)

func (a *API) invitingRoutes() []httpapi.Route {
	return []httpapi.Route{roomRoute("POST", "/rooms/{roomId}/invite", "inviteUser", "inviting.yaml", httpapi.Joins, a.inviteUser)}
}

// inviteUser invites a user to a room, by user ID or by an address.
// Spec: client-server-api#post_matrixclientv3roomsroomidinvite
func (a *API) inviteUser(r *httpapi.Request) (any, error) {
	var body struct {
		addressInvite
		UserID *id.UserID `json:"user_id"`
		Reason string     `json:"reason"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.UserID != nil || body.addressInvite == (addressInvite{}) {
		return moveUser(r, a.Rooms.Invite)
	}
	if err := a.checkAddressInvite(&body.addressInvite); err != nil {
		return nil, err
	}
	return nil, a.inviteAddress(r.Context(), r.Requester, roomID(r), body.addressInvite, body.Reason)
}

// moveUser changes the membership of the user named in the body.
func moveUser(r *httpapi.Request, move func(context.Context, ident.Requester, id.RoomID, id.UserID, string) error) (any, error) {
	var body struct {
		UserID id.UserID `json:"user_id"`
		Reason string    `json:"reason"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	return nil, move(r.Context(), r.Requester, roomID(r), body.UserID, body.Reason)
}
