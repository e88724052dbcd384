package clientapi

import "ebb/httpapi"

func (a *API) whoamiRoutes() []httpapi.Route {
	return []httpapi.Route{{Method: "GET", Path: "/_matrix/client/v3/account/whoami", Aliases: []string{"/_matrix/client/r0/account/whoami"},
		OperationID: "getTokenOwner", File: "whoami.yaml", Auth: httpapi.User, Handler: a.getTokenOwner}}
}

// getTokenOwner returns the owner of the access token.
// Spec: client-server-api#get_matrixclientv3accountwhoami
func (a *API) getTokenOwner(r *httpapi.Request) (any, error) {
	answer := map[string]any{"user_id": r.UserID, "is_guest": r.Guest}
	if r.DeviceID != "" {
		answer["device_id"] = r.DeviceID
	}
	return answer, nil
}
