package federation

import "ebb/httpapi"

func (a *API) keysServerRoutes() []httpapi.Route {
	return []httpapi.Route{{
		Method: "GET", Path: "/_matrix/key/v2/server", Aliases: []string{"/_matrix/key/v2/server/{keyId}"}, OperationID: "getServerKey",
		File: "keys_server.yaml", Handler: a.getServerKey,
	}}
}

// getServerKey returns this server's signing keys.
// Spec: server-server-api#get_matrixkeyv2server
func (a *API) getServerKey(*httpapi.Request) (any, error) { return answer(a.Keys.Own()) }
