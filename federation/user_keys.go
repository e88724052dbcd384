package federation

import (
	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) userKeysRoutes() []httpapi.Route {
	const file = "user_keys.yaml"
	claim := route("POST", v1+"/user/keys/claim", "claimUserEncryptionKeys", file, a.claimUserEncryptionKeys)
	claim.Rate = httpapi.KeyClaim // without it, one server could use up everybody's keys
	return []httpapi.Route{
		claim,
		route("POST", v1+"/user/keys/query", "queryUserEncryptionKeys", file, a.queryUserEncryptionKeys),
	}
}

// claimUserEncryptionKeys claims one-time keys of local users.
// Spec: server-server-api#post_matrixfederationv1userkeysclaim
func (a *API) claimUserEncryptionKeys(r *httpapi.Request) (any, error) {
	var body struct {
		OneTimeKeys map[id.UserID]map[id.DeviceID]string `json:"one_time_keys"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.OneTimeKeys == nil {
		return nil, mxerr.MissingParam("one_time_keys is missing")
	}
	claims, err := a.E2EE.ClaimForServer(r.Context(), body.OneTimeKeys)
	return map[string]any{"one_time_keys": claims}, err
}

// queryUserEncryptionKeys returns the identity keys and the public cross-signing keys of local users.
// Spec: server-server-api#post_matrixfederationv1userkeysquery
func (a *API) queryUserEncryptionKeys(r *httpapi.Request) (any, error) {
	var body struct {
		DeviceKeys map[id.UserID][]id.DeviceID `json:"device_keys"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.DeviceKeys == nil {
		return nil, mxerr.MissingParam("device_keys is missing")
	}
	keys, err := a.E2EE.QueryForServer(r.Context(), body.DeviceKeys)
	if err != nil {
		return nil, err
	}
	return map[string]any{"device_keys": keys.DeviceKeys, "master_keys": keys.MasterKeys, "self_signing_keys": keys.SelfSigningKeys}, nil
}
