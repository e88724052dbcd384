package clientapi

import "ebb/httpapi"

func (a *API) pusherRoutes() []httpapi.Route {
	return []httpapi.Route{{Method: "GET", Path: "/_matrix/client/v3/pushers", Aliases: []string{"/_matrix/client/r0/pushers"},
		OperationID: "getPushers", File: "pusher.yaml", Auth: httpapi.User, Handler: a.getPushers}}
}

// getPushers lists the pushers of the user. The list is empty, since this server does not support pushers yet.
// Spec: client-server-api#get_matrixclientv3pushers
func (a *API) getPushers(*httpapi.Request) (any, error) {
	return map[string][]string{"pushers": {}}, nil
}
