package clientapi

import (
	"maunium.net/go/mautrix/id"

	"ebb/accounts"
	"ebb/httpapi"
	"ebb/mxerr"
)

// The supported login types.
// Spec: client-server-api#login
const (
	loginPassword   = "m.login.password"
	loginToken      = "m.login.token"
	loginAppService = "m.login.application_service"
	loginSSO        = "m.login.sso"
	loginJWT        = "org.matrix.login.jwt" // an identifier that other servers use; the specification has none for tokens of other programs
)

func (a *API) loginRoutes() []httpapi.Route {
	const file = "login.yaml"
	const path = "/_matrix/client/v3/login"
	aliases := []string{"/_matrix/client/r0/login"}
	return []httpapi.Route{
		{Method: "GET", Path: path, Aliases: aliases, OperationID: "getLoginFlows", File: file, Handler: a.getLoginFlows},
		{Method: "POST", Path: path, Aliases: aliases, OperationID: "login", File: file, Auth: httpapi.Applicant, Rate: httpapi.Anonymous, Handler: a.login},
	}
}

// getLoginFlows lists the login types. Single sign-on leads to the pages of OAuth 2.0, which ask for a second factor if
// the account needs one, so clients should prefer it to passwords.
// Spec: client-server-api#get_matrixclientv3login
func (a *API) getLoginFlows(*httpapi.Request) (any, error) {
	var flows []map[string]any
	if a.OAuth != nil {
		flow := map[string]any{"type": loginSSO, "oauth_aware_preferred": true}
		if providers := a.identityProviders(); len(providers) > 0 {
			flow["identity_providers"] = providers
		}
		flows = append(flows, flow)
	}
	if a.Accounts.OffersPassword() {
		flows = append(flows, map[string]any{"type": loginPassword})
	}
	flows = append(flows, map[string]any{"type": loginToken, "get_login_token": true})
	if a.Accounts.OffersJWT() {
		flows = append(flows, map[string]any{"type": loginJWT})
	}
	if a.Services.Any() {
		flows = append(flows, map[string]any{"type": loginAppService})
	}
	return map[string]any{"flows": flows}, nil
}

// identityProviders lists the OpenID Connect providers that users can choose in a client.
// Spec: client-server-api#client-login-via-sso
func (a *API) identityProviders() (all []map[string]any) {
	for _, p := range a.Upstream.Providers() {
		one := map[string]any{"id": p.ID, "name": p.Name}
		if p.Icon != "" {
			one["icon"] = p.Icon
		}
		if p.Brand != "" {
			one["brand"] = p.Brand
		}
		all = append(all, one)
	}
	return all
}

// login logs a user in on a device.
// Spec: client-server-api#post_matrixclientv3login
func (a *API) login(r *httpapi.Request) (any, error) {
	var body struct {
		Type        string              `json:"type"`
		Identifier  accounts.Identifier `json:"identifier"`
		User        string              `json:"user"`
		Medium      string              `json:"medium"`
		Address     string              `json:"address"`
		Password    string              `json:"password"`
		Token       string              `json:"token"`
		DeviceID    id.DeviceID         `json:"device_id"`
		DisplayName string              `json:"initial_device_display_name"`
		Refresh     bool                `json:"refresh_token"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	who := body.Identifier
	switch {
	case who.Type != "":
	case body.Medium != "": // the older form of m.id.thirdparty
		who = accounts.Identifier{Type: "m.id.thirdparty", Medium: body.Medium, Address: body.Address}
	default:
		who.User = body.User
	}
	n := accounts.NewSession{Network: r.Network(), Device: body.DeviceID, DisplayName: body.DisplayName, Refresh: body.Refresh}
	var out accounts.SignedIn
	var err error
	switch body.Type {
	case loginPassword:
		out, err = a.Accounts.LoginPassword(r.Context(), who, body.Password, n)
	case loginToken:
		out, err = a.Accounts.LoginToken(r.Context(), body.Token, n)
	case loginJWT:
		out, err = a.Accounts.LoginJWT(r.Context(), body.Token, n)
	case loginAppService:
		var user string
		if user, err = who.Name(); err != nil {
			return nil, err
		}
		if err = a.mayLoginService(r); err == nil {
			out, err = a.Accounts.LoginService(r.Context(), r.AppService, user, n)
		}
	case "":
		err = missing("type")
	default:
		err = mxerr.New(400, mxerr.CodeUnknown, "The login type %.64q is not offered", body.Type)
	}
	if err != nil {
		return nil, err
	}
	return signedInOf(out), nil
}
