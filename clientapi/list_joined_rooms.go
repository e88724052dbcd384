package clientapi

import "ebb/httpapi"

func (a *API) listJoinedRoomsRoutes() []httpapi.Route {
	return []httpapi.Route{roomRoute("GET", "/joined_rooms", "getJoinedRooms", "list_joined_rooms.yaml", httpapi.Reads, a.getJoinedRooms)}
}

// getJoinedRooms lists the rooms that the user has joined.
// Spec: client-server-api#get_matrixclientv3joined_rooms
func (a *API) getJoinedRooms(r *httpapi.Request) (any, error) {
	joined, err := a.Rooms.JoinedRooms(r.Context(), r.UserNID)
	return map[string][]string{"joined_rooms": listed(joined)}, err
}
