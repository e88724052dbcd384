package clientapi

import (
	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
)

func (a *API) logoutRoutes() []httpapi.Route {
	const file = "logout.yaml"
	const path = "/_matrix/client/v3/logout"
	return []httpapi.Route{
		{Method: "POST", Path: path, Aliases: []string{"/_matrix/client/r0/logout"}, OperationID: "logout", File: file, Auth: httpapi.User, Handler: a.logout},
		{Method: "POST", Path: path + "/all", Aliases: []string{"/_matrix/client/r0/logout/all"}, OperationID: "logout_all", File: file, Auth: httpapi.User, Handler: a.logoutAll},
	}
}

// logout deletes the requesting device.
// Spec: client-server-api#post_matrixclientv3logout
func (a *API) logout(r *httpapi.Request) (any, error) {
	return nil, a.Accounts.DeleteDevices(r.Context(), r.UserNID, []id.DeviceID{r.DeviceID})
}

// logoutAll deletes every device of the user.
// Spec: client-server-api#post_matrixclientv3logoutall
func (a *API) logoutAll(r *httpapi.Request) (any, error) {
	return nil, a.Accounts.DeleteAllDevices(r.Context(), r.UserNID, "")
}
