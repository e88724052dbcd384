package clientapi

import (
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) directoryRoutes() []httpapi.Route {
	const file, path = "directory.yaml", "/directory/room/{roomAlias}"
	resolve := roomRoute("GET", path, "getRoomIdByAlias", file, httpapi.Reads, a.getRoomIDByAlias)
	resolve.Auth = httpapi.Optional
	list := roomRoute("GET", "/rooms/{roomId}/aliases", "getLocalAliases", file, httpapi.Reads, a.getLocalAliases)
	list.Aliases = append(list.Aliases, "/_matrix/client/unstable/org.matrix.msc2432/rooms/{roomId}/aliases")
	return []httpapi.Route{
		roomRoute("PUT", path, "setRoomAlias", file, httpapi.Sends, a.setRoomAlias),
		resolve,
		roomRoute("DELETE", path, "deleteRoomAlias", file, httpapi.Sends, a.deleteRoomAlias),
		list,
	}
}

func roomAlias(r *httpapi.Request) id.RoomAlias { return id.RoomAlias(r.Var("roomAlias")) }

// setRoomAlias creates an alias for a room.
// Spec: client-server-api#put_matrixclientv3directoryroomroomalias
func (a *API) setRoomAlias(r *httpapi.Request) (any, error) {
	var body struct {
		RoomID id.RoomID `json:"room_id"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.RoomID == "" {
		return nil, mxerr.MissingParam("room_id is missing")
	}
	return nil, a.Directory.CreateAlias(r.Context(), r.Requester, roomAlias(r), body.RoomID)
}

// getRoomIDByAlias returns the room ID for an alias.
// Spec: client-server-api#get_matrixclientv3directoryroomroomalias
func (a *API) getRoomIDByAlias(r *httpapi.Request) (any, error) {
	alias := roomAlias(r)
	_, server, _ := strings.Cut(string(alias), ":")
	if err := a.mayAskFor(r, server != a.Config.ServerName); err != nil {
		return nil, err
	}
	room, servers, err := a.Directory.ResolveAlias(r.Context(), alias)
	return map[string]any{"room_id": room, "servers": servers}, err
}

// deleteRoomAlias removes an alias.
// Spec: client-server-api#delete_matrixclientv3directoryroomroomalias
func (a *API) deleteRoomAlias(r *httpapi.Request) (any, error) {
	return nil, a.Directory.DeleteAlias(r.Context(), r.Requester, roomAlias(r))
}

// getLocalAliases lists the local aliases of a room.
// Spec: client-server-api#get_matrixclientv3roomsroomidaliases
func (a *API) getLocalAliases(r *httpapi.Request) (any, error) {
	aliases, err := a.Directory.LocalAliases(r.Context(), r.Requester, roomID(r))
	return map[string][]id.RoomAlias{"aliases": listed(aliases)}, err
}
