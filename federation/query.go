package federation

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) queryRoutes() []httpapi.Route {
	const file = "query.yaml"
	return []httpapi.Route{
		route("GET", v1+"/query/directory", "queryRoomDirectory", file, a.queryRoomDirectory),
		route("GET", v1+"/query/profile", "queryProfile", file, a.queryProfile),
		route("GET", v1+"/query/{queryType}", "queryInfo", file, a.queryInfo),
	}
}

// queryRoomDirectory returns the room to which a local alias points.
// Spec: server-server-api#get_matrixfederationv1querydirectory
func (a *API) queryRoomDirectory(r *httpapi.Request) (any, error) {
	alias, err := required(r, "room_alias")
	if err != nil {
		return nil, err
	}
	room, servers, err := a.Directory.ResolveLocalAlias(r.Context(), id.RoomAlias(alias))
	return map[string]any{"room_id": room, "servers": servers}, err
}

// queryProfile returns the profile of a local user, or one field of it.
// Spec: server-server-api#get_matrixfederationv1queryprofile
func (a *API) queryProfile(r *httpapi.Request) (any, error) {
	user, err := required(r, "user_id")
	if err != nil {
		return nil, err
	}
	if _, server, err := id.UserID(user).Parse(); err != nil || server != a.Server {
		return nil, mxerr.InvalidParam("The user does not belong to this server")
	}
	fields, err := a.Accounts.LocalProfile(r.Context(), id.UserID(user))
	profile := make(map[string]json.RawMessage, len(fields))
	for _, f := range fields {
		if wanted := r.Query("field"); wanted == "" || wanted == f.Name {
			profile[f.Name] = f.Value
		}
	}
	return profile, err
}

// queryInfo refuses unknown query types. The two types that the specification defines have their own routes.
// Spec: server-server-api#get_matrixfederationv1queryquerytype
func (a *API) queryInfo(*httpapi.Request) (any, error) { return nil, mxerr.Unrecognized() }
