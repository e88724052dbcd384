package clientapi

import (
	"ebb/httpapi"
	"ebb/rooms"
)

func (a *API) roomStateRoutes() []httpapi.Route {
	route := roomRoute("PUT", "/rooms/{roomId}/state/{eventType}/{stateKey}", "setRoomStateWithKey", "room_state.yaml", httpapi.Sends, a.setRoomStateWithKey)
	route.Aliases = append(route.Aliases, emptyStateKey...)
	return []httpapi.Route{route}
}

// setRoomStateWithKey sets a state event of a room.
// Spec: client-server-api#put_matrixclientv3roomsroomidstateeventtypestatekey
func (a *API) setRoomStateWithKey(r *httpapi.Request) (any, error) {
	key := r.Var("stateKey")
	return a.send(r, rooms.NewEvent{StateKey: &key})
}
