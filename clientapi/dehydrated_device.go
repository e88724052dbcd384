package clientapi

import (
	"maunium.net/go/mautrix/id"

	"ebb/e2ee"
	"ebb/httpapi"
)

// dehydratedDeviceRoutes are those of MSC3814, which is no part of the specification yet.
func (a *API) dehydratedDeviceRoutes() []httpapi.Route {
	const base = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
	return []httpapi.Route{
		{Method: "PUT", Path: base, OperationID: "putDehydratedDevice", Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.putDehydratedDevice},
		{Method: "GET", Path: base, OperationID: "getDehydratedDevice", Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.getDehydratedDevice},
		{Method: "DELETE", Path: base, OperationID: "deleteDehydratedDevice", Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.deleteDehydratedDevice},
		{Method: "POST", Path: base + "/{device_id}/events", OperationID: "getDehydratedDeviceEvents", Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.getDehydratedDeviceEvents},
	}
}

// putDehydratedDevice stores a dehydrated device in the place of the one before.
// Spec: MSC3814
func (a *API) putDehydratedDevice(r *httpapi.Request) (any, error) {
	var body e2ee.Dehydrate
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	return map[string]id.DeviceID{"device_id": body.DeviceID}, a.E2EE.Dehydrate(r.Context(), device(r), body)
}

// getDehydratedDevice gives the dehydrated device, for a client that wants to bring it back to life.
// Spec: MSC3814
func (a *API) getDehydratedDevice(r *httpapi.Request) (any, error) {
	return a.E2EE.Dehydrated(r.Context(), device(r))
}

// deleteDehydratedDevice deletes the dehydrated device.
// Spec: MSC3814
func (a *API) deleteDehydratedDevice(r *httpapi.Request) (any, error) {
	deviceID, err := a.E2EE.DeleteDehydrated(r.Context(), device(r))
	return map[string]id.DeviceID{"device_id": deviceID}, err
}

// getDehydratedDeviceEvents gives what the dehydrated device has received.
// Spec: MSC3814
func (a *API) getDehydratedDeviceEvents(r *httpapi.Request) (any, error) {
	var body struct {
		NextBatch string `json:"next_batch"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	return a.E2EE.DehydratedEvents(r.Context(), device(r), id.DeviceID(r.Var("device_id")), body.NextBatch)
}
