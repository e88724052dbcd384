package clientapi

import (
	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) wellknownRoutes() []httpapi.Route {
	return []httpapi.Route{
		{Method: "GET", Path: "/.well-known/matrix/client", OperationID: "getWellknown", File: "wellknown.yaml", Handler: a.getWellknown},
		{Method: "GET", Path: "/.well-known/matrix/server", OperationID: "getWellKnown", File: "wellknown.yaml", Handler: a.getWellKnownServer},
	}
}

// getWellknown returns the address of this server for clients.
// Spec: client-server-api#getwell-knownmatrixclient
func (a *API) getWellknown(*httpapi.Request) (any, error) {
	answer := map[string]any{"m.homeserver": map[string]string{"base_url": a.Config.PublicURL}}
	if list, err := a.Config.Calls.Transports(); err == nil && len(list) > 0 { // Validate has checked it
		answer["org.matrix.msc4143.rtc_foci"] = list // clients from before MSC4519
	}
	return answer, nil
}

// getWellKnownServer returns the server to which federation is delegated.
// Spec: server-server-api#getwell-knownmatrixserver
func (a *API) getWellKnownServer(*httpapi.Request) (any, error) {
	if a.Config.WellKnown.Server == "" {
		return nil, mxerr.NotFound("This server has no well-known document for servers")
	}
	return map[string]string{"m.server": a.Config.WellKnown.Server}, nil
}
