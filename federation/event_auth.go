package federation

import "ebb/httpapi"

func (a *API) eventAuthRoutes() []httpapi.Route {
	return []httpapi.Route{route("GET", v1+"/event_auth/{roomId}/{eventId}", "getEventAuth", "event_auth.yaml", a.getEventAuth)}
}

// getEventAuth returns the auth chain of an event.
// Spec: server-server-api#get_matrixfederationv1event_authroomideventid
func (a *API) getEventAuth(r *httpapi.Request) (any, error) {
	chain, err := a.History.AuthChainForServer(r.Context(), r.Server, roomID(r), eventID(r))
	return map[string]any{"auth_chain": bytesOf(chain)}, err
}
