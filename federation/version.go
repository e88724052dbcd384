package federation

import "ebb/httpapi"

func (a *API) versionRoutes() []httpapi.Route {
	return []httpapi.Route{{Method: "GET", Path: v1 + "/version", OperationID: "getVersion", File: "version.yaml", Handler: a.getVersion}}
}

// getVersion returns the name and version of the program.
// Spec: server-server-api#get_matrixfederationv1version
func (a *API) getVersion(*httpapi.Request) (any, error) {
	return map[string]any{"server": map[string]string{"name": "Ebb", "version": a.Version}}, nil
}
