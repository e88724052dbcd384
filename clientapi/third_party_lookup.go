package clientapi

import (
	"maps"

	"ebb/appservice"
	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) thirdPartyLookupRoutes() []httpapi.Route {
	route := func(path, operation string, h func(*httpapi.Request) (any, error)) httpapi.Route {
		return httpapi.Route{
			Method: "GET", Path: clientV3 + "/thirdparty" + path, Aliases: []string{clientR0 + "/thirdparty" + path}, OperationID: operation,
			File: "third_party_lookup.yaml", Auth: httpapi.User, Rate: httpapi.Reads, Handler: h,
		}
	}
	return []httpapi.Route{
		route("/protocols", "getProtocols", a.getProtocols),
		route("/protocol/{protocol}", "getProtocolMetadata", a.getProtocolMetadata),
		route("/location/{protocol}", "queryLocationByProtocol", a.queryByProtocol(appservice.Locations)),
		route("/user/{protocol}", "queryUserByProtocol", a.queryByProtocol(appservice.Users)),
		route("/location", "queryLocationByAlias", a.queryByID(appservice.Locations, "alias")),
		route("/user", "queryUserByID", a.queryByID(appservice.Users, "userid")),
	}
}

// getProtocols lists the third-party networks that bridges on this server connect to.
// Spec: client-server-api#get_matrixclientv3thirdpartyprotocols
func (a *API) getProtocols(r *httpapi.Request) (any, error) {
	return a.Services.Protocols(r.Context(), ""), nil
}

// getProtocolMetadata describes one third-party network.
// Spec: client-server-api#get_matrixclientv3thirdpartyprotocolprotocol
func (a *API) getProtocolMetadata(r *httpapi.Request) (any, error) {
	name := r.Var("protocol")
	p, ok := a.Services.Protocols(r.Context(), name)[name]
	if !ok {
		return nil, mxerr.NotFound("No bridge of this server reaches the network %.100q", name)
	}
	return p, nil
}

// queryByProtocol finds users or locations of a third-party network.
// Spec: client-server-api#get_matrixclientv3thirdpartylocationprotocol,
// client-server-api#get_matrixclientv3thirdpartyuserprotocol
func (a *API) queryByProtocol(kind string) func(*httpapi.Request) (any, error) {
	return func(r *httpapi.Request) (any, error) {
		fields := maps.Clone(r.QueryValues())
		for _, own := range []string{"access_token", "user_id", "device_id"} { // these parameters are for this server, not for the bridge
			fields.Del(own)
		}
		return a.Services.ByProtocol(r.Context(), kind, r.Var("protocol"), fields)
	}
}

// queryByID returns the third-party users or locations that a user ID or an alias stands for.
// Spec: client-server-api#get_matrixclientv3thirdpartylocation, client-server-api#get_matrixclientv3thirdpartyuser
func (a *API) queryByID(kind, name string) func(*httpapi.Request) (any, error) {
	return func(r *httpapi.Request) (any, error) {
		if r.Query(name) == "" {
			return nil, missing(name)
		}
		return a.Services.ByID(r.Context(), kind, name, r.Query(name)), nil
	}
}
