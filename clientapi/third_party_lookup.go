package clientapi

import "ebb/httpapi"

func (a *API) thirdPartyLookupRoutes() []httpapi.Route {
	return []httpapi.Route{{Method: "GET", Path: "/_matrix/client/v3/thirdparty/protocols", Aliases: []string{"/_matrix/client/r0/thirdparty/protocols"},
		OperationID: "getProtocols", File: "third_party_lookup.yaml", Auth: httpapi.User, Handler: a.getProtocols}}
}

// getProtocols lists the third-party networks that bridges of this server reach. There are none.
// Spec: client-server-api#get_matrixclientv3thirdpartyprotocols
func (a *API) getProtocols(*httpapi.Request) (any, error) { return nil, nil }
