package clientapi

import "ebb/httpapi"

func (a *API) banningRoutes() []httpapi.Route {
	const file = "banning.yaml"
	return []httpapi.Route{
		roomRoute("POST", "/rooms/{roomId}/ban", "ban", file, httpapi.Sends, a.ban),
		roomRoute("POST", "/rooms/{roomId}/unban", "unban", file, httpapi.Sends, a.unban),
	}
}

// ban bans a user from a room.
// Spec: client-server-api#post_matrixclientv3roomsroomidban
func (a *API) ban(r *httpapi.Request) (any, error) { return moveUser(r, a.Rooms.Ban) }

// unban lifts the ban of a user.
// Spec: client-server-api#post_matrixclientv3roomsroomidunban
func (a *API) unban(r *httpapi.Request) (any, error) { return moveUser(r, a.Rooms.Unban) }
