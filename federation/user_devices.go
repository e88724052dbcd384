package federation

import (
	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
)

func (a *API) userDevicesRoutes() []httpapi.Route {
	return []httpapi.Route{route("GET", v1+"/user/devices/{userId}", "getUserDevices", "user_devices.yaml", a.getUserDevices)}
}

// getUserDevices returns the device list of a local user with its stream ID.
// Spec: server-server-api#get_matrixfederationv1userdevicesuserid
func (a *API) getUserDevices(r *httpapi.Request) (any, error) {
	return a.E2EE.UserDevices(r.Context(), id.UserID(r.Var("userId")))
}
