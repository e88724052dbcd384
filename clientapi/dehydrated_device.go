package clientapi

import (
	"maunium.net/go/mautrix/id"

	"ebb/e2ee"
	"ebb/httpapi"
)

// dehydratedDeviceRoutes returns the routes of MSC3814, which is not part of the specification yet.
func (a *API) dehydratedDeviceRoutes() []httpapi.Route {
	const base = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
	return []httpapi.Route{
		{Method: "PUT", Path: base, OperationID: "putDehydratedDevice", Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.putDehydratedDevice},
		{Method: "GET", Path: base, OperationID: "getDehydratedDevice", Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getDehydratedDevice},
		{Method: "DELETE", Path: base, OperationID: "deleteDehydratedDevice", Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.deleteDehydratedDevice},
		{Method: "GET", Path: base + "/{device_id}/events", OperationID: "getDehydratedDeviceEvents", Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getDehydratedDeviceEvents},
		{Method: "POST", Path: base + "/{device_id}/events", OperationID: "postDehydratedDeviceEvents", Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.postDehydratedDeviceEvents},
	}
}

// putDehydratedDevice stores a dehydrated device, replacing the previous one.
// Spec: MSC3814
func (a *API) putDehydratedDevice(r *httpapi.Request) (any, error) {
	var body e2ee.Dehydrate
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	return map[string]id.DeviceID{"device_id": body.DeviceID}, a.E2EE.Dehydrate(r.Context(), r.Requester, body)
}

// getDehydratedDevice returns the dehydrated device to a client that wants to rehydrate it.
// Spec: MSC3814
func (a *API) getDehydratedDevice(r *httpapi.Request) (any, error) {
	return a.E2EE.Dehydrated(r.Context(), r.Requester)
}

// deleteDehydratedDevice deletes the dehydrated device.
// Spec: MSC3814
func (a *API) deleteDehydratedDevice(r *httpapi.Request) (any, error) {
	deviceID, err := a.E2EE.DeleteDehydrated(r.Context(), r.Requester)
	return map[string]id.DeviceID{"device_id": deviceID}, err
}

// getDehydratedDeviceEvents returns the to-device messages for the dehydrated device. The last page has no next_batch.
// Spec: MSC3814
func (a *API) getDehydratedDeviceEvents(r *httpapi.Request) (any, error) {
	page, err := a.dehydratedEvents(r, r.Query("from"))
	if err != nil {
		return nil, err
	}
	if !page.More {
		page.Next = ""
	}
	return dehydratedPage(page), nil
}

// postDehydratedDeviceEvents is the form of getDehydratedDeviceEvents in earlier drafts, in which every page has a
// next_batch and an empty page marks the end.
// Spec: MSC3814
func (a *API) postDehydratedDeviceEvents(r *httpapi.Request) (any, error) {
	var body struct {
		NextBatch string `json:"next_batch"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	page, err := a.dehydratedEvents(r, body.NextBatch)
	return dehydratedPage(page), err
}

func (a *API) dehydratedEvents(r *httpapi.Request, batch string) (page e2ee.DehydratedEvents, err error) {
	limit, err := r.QueryInt("limit", e2ee.MaxDehydratedPage, 1, e2ee.MaxDehydratedPage)
	if err != nil {
		return page, err
	}
	return a.E2EE.DehydratedEvents(r.Context(), r.Requester, id.DeviceID(r.Var("device_id")), batch, int(limit))
}

func dehydratedPage(page e2ee.DehydratedEvents) any {
	var o object
	o.array("events", page.Events)
	o.text("next_batch", page.Next)
	return o.close()
}
