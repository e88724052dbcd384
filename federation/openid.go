package federation

import (
	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) openidRoutes() []httpapi.Route {
	return []httpapi.Route{{
		Method: "GET", Path: v1 + "/openid/userinfo", OperationID: "exchangeOpenIdToken", File: "openid.yaml", Auth: httpapi.None, Handler: a.exchangeOpenIDToken,
	}}
}

// exchangeOpenIDToken returns the owner of an OpenID token. Any service may ask for it, not only homeservers.
// Spec: server-server-api#get_matrixfederationv1openiduserinfo
func (a *API) exchangeOpenIDToken(r *httpapi.Request) (any, error) {
	token := r.Query("access_token")
	if token == "" {
		return nil, mxerr.MissingToken() // 401 is the only error that the specification has here
	}
	user, err := a.Accounts.OpenIDUser(r.Context(), token)
	return map[string]id.UserID{"sub": user}, err
}
