package clientapi

import "ebb/httpapi"

func (a *API) leavingRoutes() []httpapi.Route {
	const file = "leaving.yaml"
	return []httpapi.Route{
		roomRoute("POST", "/rooms/{roomId}/leave", "leaveRoom", file, httpapi.Sends, a.leaveRoom),
		roomRoute("POST", "/rooms/{roomId}/forget", "forgetRoom", file, httpapi.Sends, a.forgetRoom),
	}
}

// leaveRoom makes the user leave a room.
// Spec: client-server-api#post_matrixclientv3roomsroomidleave
func (a *API) leaveRoom(r *httpapi.Request) (any, error) {
	reason, err := decodeReason(r)
	if err != nil {
		return nil, err
	}
	return nil, a.Rooms.Leave(r.Context(), r.Requester, roomID(r), reason)
}

// forgetRoom makes the user forget a room they have left.
// Spec: client-server-api#post_matrixclientv3roomsroomidforget
func (a *API) forgetRoom(r *httpapi.Request) (any, error) {
	return nil, a.Rooms.Forget(r.Context(), r.Requester, roomID(r))
}
