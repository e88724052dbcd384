package clientapi

import (
	"net/http"

	"maunium.net/go/mautrix/id"

	"ebb/accounts"
	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) deviceManagementRoutes() []httpapi.Route {
	const file = "device_management.yaml"
	const all, r0all = "/_matrix/client/v3/devices", "/_matrix/client/r0/devices"
	const one, r0one = all + "/{deviceId}", r0all + "/{deviceId}"
	return []httpapi.Route{
		{Method: "GET", Path: all, Aliases: []string{r0all}, OperationID: "getDevices", File: file, Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getDevices},
		{Method: "GET", Path: one, Aliases: []string{r0one}, OperationID: "getDevice", File: file, Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getDevice},
		{Method: "PUT", Path: one, Aliases: []string{r0one}, OperationID: "updateDevice", File: file, Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.updateDevice},
		{Method: "DELETE", Path: one, Aliases: []string{r0one}, OperationID: "deleteDevice", File: file, Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.deleteDevice},
		{Method: "POST", Path: "/_matrix/client/v3/delete_devices", Aliases: []string{"/_matrix/client/r0/delete_devices"}, OperationID: "deleteDevices", File: file, Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.deleteDevices},
	}
}

// aDevice is the JSON form of a device in responses to its user.
type aDevice struct {
	DeviceID    id.DeviceID `json:"device_id"`
	DisplayName *string     `json:"display_name,omitempty"`
	LastSeenTS  int64       `json:"last_seen_ts,omitempty"`
	LastSeenIP  string      `json:"last_seen_ip,omitempty"`
}

func aDeviceOf(d accounts.Device) aDevice {
	return aDevice{DeviceID: d.ID, DisplayName: d.DisplayName, LastSeenTS: d.LastSeen.UnixMilli(), LastSeenIP: d.Address}
}

// getDevices lists the devices of the user.
// Spec: client-server-api#get_matrixclientv3devices
func (a *API) getDevices(r *httpapi.Request) (any, error) {
	list, err := a.Accounts.Devices(r.Context(), r.UserNID)
	out := make([]aDevice, len(list))
	for i, d := range list {
		out[i] = aDeviceOf(d)
	}
	return map[string]any{"devices": out}, err
}

// getDevice returns one device of the user.
// Spec: client-server-api#get_matrixclientv3devicesdeviceid
func (a *API) getDevice(r *httpapi.Request) (any, error) {
	d, err := a.Accounts.Device(r.Context(), r.UserNID, id.DeviceID(r.Var("deviceId")))
	if err != nil {
		return nil, err
	}
	return aDeviceOf(d), nil
}

// updateDevice renames a device, or creates it for an application service.
// Spec: client-server-api#put_matrixclientv3devicesdeviceid
func (a *API) updateDevice(r *httpapi.Request) (any, error) {
	var body struct {
		DisplayName *string `json:"display_name"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	device := id.DeviceID(r.Var("deviceId"))
	if r.AppService != "" {
		created, err := a.Accounts.PutDevice(r.Context(), r.UserNID, device, body.DisplayName)
		if err != nil || !created {
			return nil, err
		}
		return httpapi.Raw{Status: http.StatusCreated, Body: []byte("{}")}, nil
	}
	if body.DisplayName == nil { // nothing to change
		_, err := a.Accounts.Device(r.Context(), r.UserNID, device)
		return nil, err
	}
	return nil, a.Accounts.RenameDevice(r.Context(), r.UserNID, device, *body.DisplayName)
}

// deleteDevice deletes a device.
// Spec: client-server-api#delete_matrixclientv3devicesdeviceid
func (a *API) deleteDevice(r *httpapi.Request) (any, error) {
	if err := a.interactiveAuth(r, "deleteDevice"); err != nil {
		return nil, err
	}
	return nil, a.Accounts.DeleteDevices(r.Context(), r.UserNID, []id.DeviceID{id.DeviceID(r.Var("deviceId"))})
}

// deleteDevices deletes several devices.
// Spec: client-server-api#post_matrixclientv3delete_devices
func (a *API) deleteDevices(r *httpapi.Request) (any, error) {
	var body struct {
		Devices []id.DeviceID `json:"devices"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if len(body.Devices) > accounts.MaxDevices {
		return nil, mxerr.InvalidParam("devices must not have more than %d entries", accounts.MaxDevices)
	}
	if err := a.interactiveAuth(r, "deleteDevices"); err != nil {
		return nil, err
	}
	if body.Devices == nil {
		return nil, missing("devices")
	}
	return nil, a.Accounts.DeleteDevices(r.Context(), r.UserNID, body.Devices)
}
