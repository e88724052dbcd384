package federation

import "ebb/httpapi"

func (a *API) spaceHierarchyRoutes() []httpapi.Route {
	return []httpapi.Route{route("GET", v1+"/hierarchy/{roomId}", "getSpaceHierarchy", "space_hierarchy.yaml", a.getSpaceHierarchy)}
}

// getSpaceHierarchy returns a room and its children as far as users of the other server may see them.
// Spec: server-server-api#get_matrixfederationv1hierarchyroomid
func (a *API) getSpaceHierarchy(r *httpapi.Request) (any, error) {
	suggestedOnly, err := r.QueryBool("suggested_only", false)
	if err != nil {
		return nil, err
	}
	return a.Directory.HierarchyForServer(r.Context(), r.Server, roomID(r), suggestedOnly)
}
