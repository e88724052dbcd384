package clientapi

import (
	"maps"
	"slices"

	"ebb/config"
	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) wellknownRoutes() []httpapi.Route {
	return []httpapi.Route{
		{Method: "GET", Path: "/.well-known/matrix/client", OperationID: "getWellknown", File: "wellknown.yaml", Handler: a.getWellknown},
		{Method: "GET", Path: "/.well-known/matrix/policy_server", OperationID: "getWellknownPolicy", File: "policy_server.yaml", Handler: a.getWellknownPolicy},
		{Method: "GET", Path: "/.well-known/matrix/server", OperationID: "getWellKnown", File: "wellknown.yaml", Handler: a.getWellKnownServer},
	}
}

// getWellknown returns the address of this server for clients, and the fields that the configuration adds.
// Spec: client-server-api#getwell-knownmatrixclient
func (a *API) getWellknown(*httpapi.Request) (any, error) {
	members := map[string]any{}
	maps.Copy(members, a.Config.WellKnown.ClientExtra)
	members["m.homeserver"] = map[string]string{"base_url": a.Config.PublicURL}
	if list, err := a.Config.Calls.Transports(); err == nil && len(list) > 0 { // Validate has checked the error
		members["org.matrix.msc4143.rtc_foci"] = list // for clients older than MSC4519
	}
	if e := elementEncryption(a.Config.Encryption); e != nil {
		members["io.element.e2ee"] = e
	}
	return members, nil
}

// elementEncryption returns the fields that Element reads about encryption: whether rooms are encrypted by default, and
// whether encryption is disabled. It returns nil if the configuration leaves the choice to clients.
func elementEncryption(policy config.Encryption) map[string]bool {
	switch {
	case len(policy.Force) > 0:
		return map[string]bool{"default": true}
	case slices.Contains(policy.Forbid, "private") && slices.Contains(policy.Forbid, "public"):
		return map[string]bool{"default": false, "force_disable": true}
	}
	return nil
}

// getWellknownPolicy returns the public key of the policy server that has this server's name.
// Spec: client-server-api#getwell-knownmatrixpolicy_server
func (a *API) getWellknownPolicy(*httpapi.Request) (any, error) {
	key := a.Config.WellKnown.PolicyKey
	if key == "" {
		return nil, mxerr.NotFound("This server has no policy server")
	}
	return map[string]any{"public_keys": map[string]string{"ed25519": key}}, nil
}

// getWellKnownServer returns the server to which federation is delegated.
// Spec: server-server-api#getwell-knownmatrixserver
func (a *API) getWellKnownServer(*httpapi.Request) (any, error) {
	if a.Config.WellKnown.Server == "" {
		return nil, mxerr.NotFound("This server has no well-known document for servers")
	}
	return map[string]string{"m.server": a.Config.WellKnown.Server}, nil
}
