package clientapi

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
)

// maxToDeviceBody is the maximum size of the body of a sendToDevice request in bytes: 10,000 messages of 3 KiB.
const maxToDeviceBody = 32 << 20

func (a *API) toDeviceRoutes() []httpapi.Route {
	return []httpapi.Route{{Method: "PUT", Path: "/_matrix/client/v3/sendToDevice/{eventType}/{txnId}", Aliases: []string{"/_matrix/client/r0/sendToDevice/{eventType}/{txnId}"},
		OperationID: "sendToDevice", File: "to_device.yaml", Auth: httpapi.User, Rate: httpapi.Sends, MaxBody: maxToDeviceBody, Handler: a.sendToDevice}}
}

// sendToDevice queues messages for devices.
// Spec: client-server-api#put_matrixclientv3sendtodeviceeventtypetxnid
func (a *API) sendToDevice(r *httpapi.Request) (any, error) {
	var body struct {
		Messages map[id.UserID]map[id.DeviceID]json.RawMessage `json:"messages"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Messages == nil {
		return nil, missing("messages")
	}
	return nil, a.E2EE.SendToDevice(r.Context(), r.Requester, "sendToDevice/"+r.Var("eventType"), r.Var("txnId"), r.Var("eventType"), body.Messages)
}
