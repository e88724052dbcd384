package clientapi

import (
	"ebb/httpapi"
)

func (a *API) refreshRoutes() []httpapi.Route {
	return []httpapi.Route{{Method: "POST", Path: "/_matrix/client/v3/refresh", Aliases: []string{"/_matrix/client/v1/refresh"},
		OperationID: "refresh", File: "refresh.yaml", Rate: httpapi.Anonymous, Handler: a.refresh}}
}

// refresh issues new tokens for a refresh token.
// Spec: client-server-api#post_matrixclientv3refresh
func (a *API) refresh(r *httpapi.Request) (any, error) {
	var body struct {
		RefreshToken *string `json:"refresh_token"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.RefreshToken == nil {
		return nil, missing("refresh_token")
	}
	t, err := a.Accounts.Refresh(r.Context(), *body.RefreshToken)
	if err != nil {
		return nil, err
	}
	return map[string]any{"access_token": t.Access, "refresh_token": t.Refresh, "expires_in_ms": t.ExpiresIn.Milliseconds()}, nil
}
