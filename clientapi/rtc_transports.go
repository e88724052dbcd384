package clientapi

import (
	"net/http"

	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) rtcTransportsRoutes() []httpapi.Route {
	const path = "/rtc/transports"
	return []httpapi.Route{{
		Method: "GET", Path: "/_matrix/client/unstable/org.matrix.msc4143" + path, Aliases: []string{clientV1 + path},
		OperationID: "getRTCTransports", Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getRTCTransports,
	}}
}

// getRTCTransports returns the servers for the media of group calls. If none are configured, it returns M_UNRECOGNIZED
// and not an empty list: only after that error does Element Call look into the .well-known document, which another web
// server may serve.
// Spec: MSC4143, MSC4519
func (a *API) getRTCTransports(*httpapi.Request) (any, error) {
	list, err := a.Config.Calls.Transports()
	if err == nil && len(list) == 0 {
		err = mxerr.New(http.StatusNotFound, mxerr.CodeUnrecognized, "This server has no transports for calls; clients may find some in /.well-known/matrix/client")
	}
	return map[string]any{"rtc_transports": list}, err
}
