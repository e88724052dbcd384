package federation

import (
	"maps"
	"math"

	"ebb/httpapi"
	"ebb/mxerr"
	"ebb/rooms/pdu"
)

// maxNotarised bounds the servers whose keys may be requested at once.
const maxNotarised = 200

func (a *API) keysQueryRoutes() []httpapi.Route {
	const file = "keys_query.yaml"
	return []httpapi.Route{
		{
			Method: "GET", Path: "/_matrix/key/v2/query/{serverName}", Aliases: []string{"/_matrix/key/v2/query/{serverName}/{keyId}"}, OperationID: "perspectivesKeyQuery",
			File: file, Rate: httpapi.Anonymous, Handler: a.perspectivesKeyQuery,
		},
		{Method: "POST", Path: "/_matrix/key/v2/query", OperationID: "bulkPerspectivesKeyQuery", File: file, Rate: httpapi.Anonymous, Handler: a.bulkPerspectivesKeyQuery},
	}
}

// perspectivesKeyQuery returns the keys of a server as a notary.
// Spec: server-server-api#get_matrixkeyv2queryservername
func (a *API) perspectivesKeyQuery(r *httpapi.Request) (any, error) {
	until, err := r.QueryInt("minimum_valid_until_ts", 0, 0, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	return a.vouch(r, map[string]int64{r.Var("serverName"): until})
}

// bulkPerspectivesKeyQuery returns the keys of several servers as a notary.
// Spec: server-server-api#post_matrixkeyv2query
func (a *API) bulkPerspectivesKeyQuery(r *httpapi.Request) (any, error) {
	var body struct {
		ServerKeys map[string]map[string]struct {
			Until int64 `json:"minimum_valid_until_ts"`
		} `json:"server_keys"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if len(body.ServerKeys) > maxNotarised {
		return nil, mxerr.InvalidParam("There must be no more than %d servers per request", maxNotarised)
	}
	wanted := map[string]int64{}
	for server, keys := range body.ServerKeys {
		wanted[server] = 0
		for _, key := range keys {
			wanted[server] = max(wanted[server], key.Until)
		}
	}
	return a.vouch(r, wanted)
}

// vouch returns the key responses of other servers with this server's signature. It leaves out servers whose keys
// cannot be fetched.
func (a *API) vouch(r *httpapi.Request, wanted map[string]int64) (any, error) {
	maps.DeleteFunc(wanted, func(server string, _ int64) bool { return !pdu.ValidServerName(server) })
	found, err := a.Keys.Vouch(r.Context(), wanted)
	return map[string]any{"server_keys": found}, err
}
