package clientapi

import "ebb/httpapi"

func (a *API) leavingRoutes() []httpapi.Route {
	const file = "leaving.yaml"
	return []httpapi.Route{
		roomRoute("POST", "/rooms/{roomId}/leave", "leaveRoom", file, httpapi.Sends, a.leaveRoom),
		roomRoute("POST", "/rooms/{roomId}/forget", "forgetRoom", file, httpapi.Sends, a.forgetRoom),
	}
}

// leaveRoom ends the user's membership of a room.
// Spec: client-server-api#post_matrixclientv3roomsroomidleave
func (a *API) leaveRoom(r *httpapi.Request) (any, error) {
	reason, err := decodeReason(r)
	if err != nil {
		return nil, err
	}
	return nil, a.Rooms.Leave(r.Context(), r.Requester, roomID(r), reason)
}

// forgetRoom drops a room that the user has left from the user's view.
// Spec: client-server-api#post_matrixclientv3roomsroomidforget
func (a *API) forgetRoom(r *httpapi.Request) (any, error) {
	return nil, a.Rooms.Forget(r.Context(), r.Requester, roomID(r))
}
