package clientapi

import (
	"ebb/accounts"
	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) registrationTokensRoutes() []httpapi.Route {
	return []httpapi.Route{{Method: "GET", Path: "/_matrix/client/v1/register/m.login.registration_token/validity",
		OperationID: "registrationTokenValidity", File: "registration_tokens.yaml", Rate: httpapi.Anonymous, Handler: a.registrationTokenValidity}}
}

// registrationTokenValidity reports whether a registration token can be used now.
// Spec: client-server-api#get_matrixclientv1registermloginregistration_tokenvalidity
func (a *API) registrationTokenValidity(r *httpapi.Request) (any, error) {
	if a.Accounts.RegistrationMode() == accounts.Closed {
		return nil, mxerr.Forbidden("Registration is not enabled on this server")
	}
	if !r.URL.Query().Has("token") {
		return nil, missing("token")
	}
	valid, err := a.Accounts.TokenUsable(r.Context(), r.Query("token"), r.Network())
	return map[string]bool{"valid": valid}, err
}
