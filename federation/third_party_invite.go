package federation

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
	"ebb/mxerr"
	"ebb/rooms"
)

func (a *API) thirdPartyInviteRoutes() []httpapi.Route {
	const file = "third_party_invite.yaml"
	return []httpapi.Route{
		route("PUT", v1+"/exchange_third_party_invite/{roomId}", "exchangeThirdPartyInvite", file, a.exchangeThirdPartyInvite),
		{
			Method: "PUT", Path: v1 + "/3pid/onbind", OperationID: "onBindThirdPartyIdentifier", File: file, Rate: httpapi.Joins,
			Handler: a.onBindThirdPartyIdentifier,
		},
	}
}

// exchangeThirdPartyInvite invites a user who has accepted a third-party invite from this server and owns its address.
// Spec: server-server-api#put_matrixfederationv1exchange_third_party_inviteroomid
func (a *API) exchangeThirdPartyInvite(r *httpapi.Request) (any, error) {
	var body struct {
		Type     string    `json:"type"`
		RoomID   id.RoomID `json:"room_id"`
		Sender   id.UserID `json:"sender"`
		StateKey id.UserID `json:"state_key"`
		Content  struct {
			Membership string `json:"membership"`
			Invite     struct {
				Signed json.RawMessage `json:"signed"`
			} `json:"third_party_invite"`
		} `json:"content"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Type != "m.room.member" || body.RoomID != roomID(r) || body.Content.Membership != rooms.Invite {
		return nil, mxerr.InvalidParam("The event is not an invite to this room")
	}
	return nil, a.Rooms.ExchangeThirdPartyInvite(r.Context(), r.Server, rooms.ThirdPartyInvite{
		Room: body.RoomID, Sender: body.Sender, Invitee: body.StateKey, Signed: body.Content.Invite.Signed,
	})
}

// maxBoundInvites bounds the third-party invites in one request of an identity server.
const maxBoundInvites = 20

// onBindThirdPartyIdentifier completes the invites that were waiting for a third-party identifier, which has now been
// bound to a user.
// Spec: server-server-api#put_matrixfederationv13pidonbind
func (a *API) onBindThirdPartyIdentifier(r *httpapi.Request) (any, error) {
	var body struct {
		User    id.UserID `json:"mxid"`
		Invites []struct {
			User   id.UserID       `json:"mxid"`
			RoomID id.RoomID       `json:"room_id"`
			Sender id.UserID       `json:"sender"`
			Signed json.RawMessage `json:"signed"`
		} `json:"invites"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if len(body.Invites) > maxBoundInvites {
		return nil, mxerr.InvalidParam("There must be no more than %d invites", maxBoundInvites)
	}
	if err := a.Accounts.Exists(r.Context(), body.User); err != nil {
		return nil, err
	}
	var invites []rooms.ThirdPartyInvite
	for _, i := range body.Invites {
		if i.User == body.User {
			invites = append(invites, rooms.ThirdPartyInvite{Room: i.RoomID, Sender: i.Sender, Invitee: i.User, Signed: i.Signed})
		}
	}
	a.Rooms.Bound(r.Context(), invites)
	return nil, nil
}
