package clientapi

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/feed"
	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) filterRoutes() []httpapi.Route {
	return []httpapi.Route{{
		Method: "POST", Path: "/_matrix/client/v3/user/{userId}/filter", Aliases: []string{"/_matrix/client/r0/user/{userId}/filter"},
		OperationID: "defineFilter", File: "filter.yaml", Auth: httpapi.User, Rate: httpapi.Sends, MaxBody: feed.MaxFilterSize, Handler: a.defineFilter,
	}, {
		Method: "GET", Path: "/_matrix/client/v3/user/{userId}/filter/{filterId}", Aliases: []string{"/_matrix/client/r0/user/{userId}/filter/{filterId}"},
		OperationID: "getFilter", File: "filter.yaml", Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getFilter,
	}}
}

// defineFilter stores a filter verbatim.
// Spec: client-server-api#post_matrixclientv3useruseridfilter
func (a *API) defineFilter(r *httpapi.Request) (any, error) {
	if id.UserID(r.Var("userId")) != r.UserID {
		return nil, mxerr.Forbidden("You can only use your own filters")
	}
	var filter json.RawMessage
	if err := r.Decode(&filter); err != nil {
		return nil, err
	}
	filterID, err := a.Feed.DefineFilter(r.Context(), r.UserNID, filter)
	return map[string]string{"filter_id": filterID}, err
}

// getFilter returns a filter as it was stored.
// Spec: client-server-api#get_matrixclientv3useruseridfilterfilterid
func (a *API) getFilter(r *httpapi.Request) (any, error) {
	if id.UserID(r.Var("userId")) != r.UserID {
		return nil, mxerr.Forbidden("You can only use your own filters")
	}
	raw, err := a.Feed.StoredFilter(r.Context(), r.UserNID, r.Var("filterId"))
	return json.RawMessage(raw), err
}
