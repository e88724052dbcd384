package clientapi

import (
	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
	"ebb/rooms"
)

func (a *API) createRoomRoutes() []httpapi.Route {
	return []httpapi.Route{roomRoute("POST", "/createRoom", "createRoom", "create_room.yaml", httpapi.Joins, a.createRoom)}
}

// createRoom creates a room.
// Spec: client-server-api#post_matrixclientv3createroom
func (a *API) createRoom(r *httpapi.Request) (any, error) {
	var body rooms.CreateRoom
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	invites, err := a.readAddressInvites(body.InviteThirdParty)
	if err != nil {
		return nil, err
	}
	body.InviteThirdParty = nil
	room, err := a.Rooms.Create(r.Context(), r.Requester, body)
	if err != nil {
		return nil, err
	}
	for _, i := range invites {
		if err := a.inviteAddress(r.Context(), r.Requester, room, i, ""); err != nil { // the room exists already
			a.Log.WarnContext(r.Context(), "could not invite an address to a new room", "room", room, "err", err)
		}
	}
	return map[string]id.RoomID{"room_id": room}, nil
}
