package clientapi

import "ebb/httpapi"

func (a *API) kickingRoutes() []httpapi.Route {
	return []httpapi.Route{roomRoute("POST", "/rooms/{roomId}/kick", "kick", "kicking.yaml", httpapi.Sends, a.kick)}
}

// kick removes a user from a room.
// Spec: client-server-api#post_matrixclientv3roomsroomidkick
func (a *API) kick(r *httpapi.Request) (any, error) { return moveUser(r, a.Rooms.Kick) }
