package clientapi

import "ebb/httpapi"

func (a *API) administrativeContactRoutes() []httpapi.Route {
	return []httpapi.Route{{Method: "GET", Path: "/_matrix/client/v3/account/3pid", Aliases: []string{"/_matrix/client/r0/account/3pid"},
		OperationID: "getAccount3PIDs", File: "administrative_contact.yaml", Auth: httpapi.User, Handler: a.getAccount3PIDs}}
}

// getAccount3PIDs lists the email addresses and phone numbers of the account: there are none on this server.
// Spec: client-server-api#get_matrixclientv3account3pid
func (a *API) getAccount3PIDs(*httpapi.Request) (any, error) {
	return map[string][]string{"threepids": {}}, nil
}
