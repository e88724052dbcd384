package clientapi

import "ebb/httpapi"

func (a *API) voipRoutes() []httpapi.Route {
	return []httpapi.Route{{Method: "GET", Path: "/_matrix/client/v3/voip/turnServer", Aliases: []string{"/_matrix/client/r0/voip/turnServer"},
		OperationID: "getTurnServer", File: "voip.yaml", Auth: httpapi.User, Handler: a.getTurnServer}}
}

// getTurnServer returns the TURN servers for calls. Ebb has none and returns an empty object, which clients expect.
// Spec: client-server-api#get_matrixclientv3voipturnserver
//
// Deviation: the specification has no response for a server without TURN servers.
func (a *API) getTurnServer(*httpapi.Request) (any, error) { return nil, nil }
