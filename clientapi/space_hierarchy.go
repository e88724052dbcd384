package clientapi

import (
	"ebb/directory"
	"math"

	"ebb/history"
	"ebb/httpapi"
)

func (a *API) spaceHierarchyRoutes() []httpapi.Route {
	return []httpapi.Route{{
		Method: "GET", Path: "/_matrix/client/v1/rooms/{roomId}/hierarchy", Aliases: []string{"/_matrix/client/unstable/org.matrix.msc2946/rooms/{roomId}/hierarchy"},
		OperationID: "getSpaceHierarchy", File: "space_hierarchy.yaml", Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getSpaceHierarchy,
	}}
}

// getSpaceHierarchy lists the rooms of a space.
// Spec: client-server-api#get_matrixclientv1roomsroomidhierarchy
func (a *API) getSpaceHierarchy(r *httpapi.Request) (any, error) {
	q := directory.HierarchyQuery{User: r.UserID, Root: roomID(r), From: r.Query("from")}
	var err error
	if q.SuggestedOnly, err = r.QueryBool("suggested_only", false); err != nil {
		return nil, err
	}
	limit, err := r.QueryInt("limit", 0, 1, history.MaxPage)
	if err != nil {
		return nil, err
	}
	depth, err := r.QueryInt("max_depth", math.MaxInt32, 0, math.MaxInt32)
	if err != nil {
		return nil, err
	}
	q.Limit, q.MaxDepth = int(limit), int(depth)
	return a.Directory.Hierarchy(r.Context(), q)
}
