package clientapi

import (
	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
)

func (a *API) knockingRoutes() []httpapi.Route {
	return []httpapi.Route{roomRoute("POST", "/knock/{roomIdOrAlias}", "knockRoom", "knocking.yaml", httpapi.Joins, a.knockRoom)}
}

// knockRoom sends a knock to a room.
// Spec: client-server-api#post_matrixclientv3knockroomidoralias
func (a *API) knockRoom(r *httpapi.Request) (any, error) {
	reason, err := decodeReason(r)
	if err != nil {
		return nil, err
	}
	room, servers, err := a.Directory.ResolveRoom(r.Context(), r.Var("roomIdOrAlias"))
	if err != nil {
		return nil, err
	}
	return map[string]id.RoomID{"room_id": room}, a.Rooms.Knock(r.Context(), r.Requester, room, append(via(r), servers...), reason)
}
