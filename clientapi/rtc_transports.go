package clientapi

import (
	"encoding/json"

	"ebb/httpapi"
)

func (a *API) rtcTransportsRoutes() []httpapi.Route {
	const path = "/rtc/transports"
	return []httpapi.Route{{
		Method: "GET", Path: "/_matrix/client/unstable/org.matrix.msc4143" + path, Aliases: []string{clientV1 + path},
		OperationID: "getRTCTransports", Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getRTCTransports,
	}}
}

// getRTCTransports returns the servers for the media of group calls.
// Spec: MSC4143, MSC4519
func (a *API) getRTCTransports(*httpapi.Request) (any, error) {
	list, err := a.Config.Calls.Transports()
	if list == nil {
		list = []json.RawMessage{}
	}
	return map[string]any{"rtc_transports": list}, err
}
