package clientapi

import "ebb/httpapi"

func (a *API) loginTokenRoutes() []httpapi.Route {
	return []httpapi.Route{{Method: "POST", Path: "/_matrix/client/v1/login/get_token", OperationID: "generateLoginToken",
		File: "login_token.yaml", Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.generateLoginToken}}
}

// generateLoginToken creates a token with which another client can log in as the same user.
// Spec: client-server-api#post_matrixclientv1loginget_token
func (a *API) generateLoginToken(r *httpapi.Request) (any, error) {
	if err := a.Accounts.MayCreateLoginToken(r.Context(), r.Requester); err != nil { // checked first, since the authentication can be used only once
		return nil, err
	}
	if err := a.interactiveAuth(r, "generateLoginToken"); err != nil {
		return nil, err
	}
	token, lifetime, err := a.Accounts.CreateLoginToken(r.Context(), r.Requester)
	return map[string]any{"login_token": token, "expires_in_ms": lifetime.Milliseconds()}, err
}
