package federation

import (
	"ebb/directory"
	"ebb/history"
	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) publicRoomsRoutes() []httpapi.Route {
	const file = "public_rooms.yaml"
	return []httpapi.Route{
		route("GET", v1+"/publicRooms", "getPublicRooms", file, a.getPublicRooms),
		route("POST", v1+"/publicRooms", "queryPublicRooms", file, a.queryPublicRooms),
	}
}

// getPublicRooms returns a page of the room directory.
// Spec: server-server-api#get_matrixfederationv1publicrooms
func (a *API) getPublicRooms(r *httpapi.Request) (any, error) {
	limit, err := r.QueryInt("limit", 0, 0, history.MaxPage)
	if err != nil {
		return nil, err
	}
	all, err := r.QueryBool("include_all_networks", false)
	if err != nil {
		return nil, err
	}
	return a.Directory.PublicRooms(r.Context(), directory.PublicRoomsQuery{
		Limit: int(limit), Since: r.Query("since"), Federated: true, Network: r.Query("third_party_instance_id"), AllNetworks: all,
	})
}

// queryPublicRooms searches the room directory.
// Spec: server-server-api#post_matrixfederationv1publicrooms
func (a *API) queryPublicRooms(r *httpapi.Request) (any, error) {
	var body directory.PublicRoomsRequest
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	q, ok := body.Query()
	if !ok {
		return nil, mxerr.InvalidParam("limit must not be negative, and generic_search_term must not be too long")
	}
	q.Federated = true
	return a.Directory.PublicRooms(r.Context(), q)
}
