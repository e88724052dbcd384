package clientapi

import (
	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) openidRoutes() []httpapi.Route {
	return []httpapi.Route{{
		Method: "POST", Path: "/_matrix/client/v3/user/{userId}/openid/request_token", Aliases: []string{"/_matrix/client/r0/user/{userId}/openid/request_token"},
		OperationID: "requestOpenIdToken", File: "openid.yaml", Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.requestOpenIDToken,
	}}
}

// requestOpenIDToken creates a token with which another service can verify the user's identity.
// Spec: client-server-api#post_matrixclientv3useruseridopenidrequest_token
func (a *API) requestOpenIDToken(r *httpapi.Request) (any, error) {
	if r.Var("userId") != string(r.UserID) {
		return nil, mxerr.Forbidden("You can only get a token for yourself")
	}
	if _, err := members(r); err != nil {
		return nil, err
	}
	token, lifetime, err := a.Accounts.CreateOpenIDToken(r.Context(), r.UserNID)
	return map[string]any{
		"access_token": token, "token_type": "Bearer", "matrix_server_name": a.Config.ServerName, "expires_in": int(lifetime.Seconds()),
	}, err
}
