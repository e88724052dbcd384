package clientapi

import (
	"ebb/directory"
	"ebb/history"
	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) listPublicRoomsRoutes() []httpapi.Route {
	const file, entry, all = "list_public_rooms.yaml", "/directory/list/room/{roomId}", "/publicRooms"
	get := roomRoute("GET", entry, "getRoomVisibilityOnDirectory", file, httpapi.Reads, a.getRoomVisibilityOnDirectory)
	list := roomRoute("GET", all, "getPublicRooms", file, httpapi.Reads, a.getPublicRooms)
	get.Auth, list.Auth = httpapi.None, httpapi.Optional
	return []httpapi.Route{
		get,
		roomRoute("PUT", entry, "setRoomVisibilityOnDirectory", file, httpapi.Sends, a.setRoomVisibilityOnDirectory),
		list,
		roomRoute("POST", all, "queryPublicRooms", file, httpapi.Reads, a.queryPublicRooms),
	}
}

// getRoomVisibilityOnDirectory reports whether a room is in the room directory.
// Spec: client-server-api#get_matrixclientv3directorylistroomroomid
func (a *API) getRoomVisibilityOnDirectory(r *httpapi.Request) (any, error) {
	published, err := a.Directory.IsPublished(r.Context(), roomID(r))
	return map[string]string{"visibility": visibility(published)}, err
}

// visibility returns "public" if the room directory lists a room, otherwise "private".
func visibility(published bool) string {
	if published {
		return "public"
	}
	return "private"
}

// setRoomVisibilityOnDirectory adds a room to the room directory or removes it.
// Spec: client-server-api#put_matrixclientv3directorylistroomroomid
func (a *API) setRoomVisibilityOnDirectory(r *httpapi.Request) (any, error) {
	public, err := wantsPublic(r, "public")
	if err != nil {
		return nil, err
	}
	return nil, a.Directory.SetPublished(r.Context(), r.Requester, roomID(r), public)
}

// wantsPublic reports whether the body of a request asks for the visibility "public". If the body has no visibility,
// byDefault counts instead.
//
// Errors: M_INVALID_PARAM.
func wantsPublic(r *httpapi.Request, byDefault string) (bool, error) {
	body := struct {
		Visibility string `json:"visibility"`
	}{byDefault}
	if err := r.Decode(&body); err != nil {
		return false, err
	}
	if body.Visibility != "public" && body.Visibility != "private" {
		return false, mxerr.InvalidParam("visibility must be public or private")
	}
	return body.Visibility == "public", nil
}

// getPublicRooms lists the rooms in the directory.
// Spec: client-server-api#get_matrixclientv3publicrooms
func (a *API) getPublicRooms(r *httpapi.Request) (any, error) {
	limit, err := r.QueryInt("limit", 0, 0, history.MaxPage)
	if err != nil {
		return nil, err
	}
	all, err := r.QueryBool("include_all_networks", false)
	if err != nil {
		return nil, err
	}
	return a.publicRooms(r, directory.PublicRoomsRequest{Limit: int(limit), Since: r.Query("since"), Network: r.Query("third_party_instance_id"), AllNetworks: all})
}

// queryPublicRooms searches the rooms in the directory.
// Spec: client-server-api#post_matrixclientv3publicrooms
func (a *API) queryPublicRooms(r *httpapi.Request) (any, error) {
	var body directory.PublicRoomsRequest
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	return a.publicRooms(r, body)
}

func (a *API) publicRooms(r *httpapi.Request, body directory.PublicRoomsRequest) (any, error) {
	q, ok := body.Query()
	if !ok {
		return nil, mxerr.InvalidParam("limit must not be negative, and generic_search_term must not be too long")
	}
	if server := r.Query("server"); server != "" && server != a.Config.ServerName {
		if r.UserID == "" { // anonymous requests must not make this server contact others
			return nil, mxerr.MissingToken()
		}
		return a.Directory.RemotePublicRooms(r.Context(), server, body)
	}
	q.Stranger = r.UserID == ""
	return a.Directory.PublicRooms(r.Context(), q)
}
