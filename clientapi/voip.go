package clientapi

import "ebb/httpapi"

func (a *API) voipRoutes() []httpapi.Route {
	return []httpapi.Route{{Method: "GET", Path: "/_matrix/client/v3/voip/turnServer", Aliases: []string{"/_matrix/client/r0/voip/turnServer"},
		OperationID: "getTurnServer", File: "voip.yaml", Auth: httpapi.User, Handler: a.getTurnServer}}
}

// getTurnServer tells of relays for calls: this server has none, and says so by an empty object, as clients expect.
// Spec: client-server-api#get_matrixclientv3voipturnserver
//
// Deviation: the specification has no answer for a server without relay.
func (a *API) getTurnServer(*httpapi.Request) (any, error) { return nil, nil }
