package clientapi

import (
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/e2ee"
	"ebb/httpapi"
)

func (a *API) keysRoutes() []httpapi.Route {
	const file = "keys.yaml"
	const base = "/_matrix/client/v3/keys"
	return []httpapi.Route{
		{Method: "POST", Path: base + "/upload", Aliases: []string{"/_matrix/client/r0/keys/upload"}, OperationID: "uploadKeys", File: file, Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.uploadKeys},
		{Method: "POST", Path: base + "/query", Aliases: []string{"/_matrix/client/r0/keys/query"}, OperationID: "queryKeys", File: file, Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.queryKeys},
		{Method: "POST", Path: base + "/claim", Aliases: []string{"/_matrix/client/r0/keys/claim"}, OperationID: "claimKeys", File: file, Auth: httpapi.User, Rate: httpapi.KeyClaim, Handler: a.claimKeys},
		{Method: "GET", Path: base + "/changes", Aliases: []string{"/_matrix/client/r0/keys/changes"}, OperationID: "getKeysChanges", File: file, Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getKeysChanges},
	}
}

// uploadKeys stores the keys of the requesting device.
// Spec: client-server-api#post_matrixclientv3keysupload
func (a *API) uploadKeys(r *httpapi.Request) (any, error) {
	if err := requireDevice(r); err != nil {
		return nil, err
	}
	var body e2ee.UploadKeys
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	counts, err := a.E2EE.Upload(r.Context(), r.Requester, body)
	return map[string]any{"one_time_key_counts": counts}, err
}

// queryKeys returns users' identity and cross-signing keys.
// Spec: client-server-api#post_matrixclientv3keysquery
func (a *API) queryKeys(r *httpapi.Request) (any, error) {
	var body struct {
		DeviceKeys map[id.UserID][]id.DeviceID `json:"device_keys"`
		Timeout    int64                       `json:"timeout"` // milliseconds
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.DeviceKeys == nil {
		return nil, missing("device_keys")
	}
	return a.E2EE.Query(r.Context(), r.Requester, body.DeviceKeys, milliseconds(body.Timeout))
}

// claimKeys claims one-time keys.
// Spec: client-server-api#post_matrixclientv3keysclaim
func (a *API) claimKeys(r *httpapi.Request) (any, error) {
	var body struct {
		OneTimeKeys map[id.UserID]map[id.DeviceID]string `json:"one_time_keys"`
		Timeout     int64                                `json:"timeout"` // milliseconds
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.OneTimeKeys == nil {
		return nil, missing("one_time_keys")
	}
	claims, failures, err := a.E2EE.Claim(r.Context(), body.OneTimeKeys, milliseconds(body.Timeout))
	return map[string]any{"one_time_keys": claims, "failures": failures}, err
}

// milliseconds converts a client's timeout to a duration. It limits the timeout to an hour, so that it cannot overflow;
// no operation waits that long.
func milliseconds(n int64) time.Duration {
	return time.Duration(min(max(0, n), time.Hour.Milliseconds())) * time.Millisecond
}

// getKeysChanges lists the users whose devices changed between two sync tokens.
// Spec: client-server-api#get_matrixclientv3keyschanges
func (a *API) getKeysChanges(r *httpapi.Request) (any, error) {
	if r.Query("from") == "" || r.Query("to") == "" {
		return nil, missing("from and to")
	}
	changed, left, err := a.Feed.DeviceChanges(r.Context(), r.Requester, r.Query("from"), r.Query("to"))
	return map[string][]id.UserID{"changed": listed(changed), "left": listed(left)}, err
}

// listed returns list, or an empty list instead of nil, which JSON would encode as null.
func listed[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
