package clientapi

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/accounts"
	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) registrationRoutes() []httpapi.Route {
	const file = "registration.yaml"
	const base = "/_matrix/client/v3/register"
	return append(a.thirdPartyTokens("/register", file, "requestTokenToRegisterEmail", "requestTokenToRegisterMSISDN", accounts.EmailForAccount), []httpapi.Route{
		{Method: "POST", Path: base, Aliases: []string{"/_matrix/client/r0/register"}, OperationID: "register", File: file, Auth: httpapi.Applicant, Rate: httpapi.Anonymous, Handler: a.register},
		{Method: "GET", Path: base + "/available", Aliases: []string{"/_matrix/client/r0/register/available"}, OperationID: "checkUsernameAvailability", File: file, Rate: httpapi.Anonymous, Handler: a.checkUsernameAvailability},
	}...)
}

// signedIn is the response of operations that log a user in.
type signedIn struct {
	UserID       id.UserID   `json:"user_id"`
	AccessToken  string      `json:"access_token,omitempty"`
	RefreshToken string      `json:"refresh_token,omitempty"`
	ExpiresInMS  int64       `json:"expires_in_ms,omitempty"`
	DeviceID     id.DeviceID `json:"device_id,omitempty"`
}

func signedInOf(s accounts.SignedIn) signedIn {
	return signedIn{UserID: s.User, AccessToken: s.Access, RefreshToken: s.Refresh, ExpiresInMS: s.ExpiresIn.Milliseconds(), DeviceID: s.Device}
}

// register creates an account and logs it in. If a request that created an account is repeated, it gets the same
// response again.
// Spec: client-server-api#post_matrixclientv3register
func (a *API) register(r *httpapi.Request) (any, error) {
	switch kind := r.Query("kind"); kind {
	case "", "user":
	case "guest":
		return a.registerGuest(r)
	default:
		return nil, mxerr.InvalidParam("kind must be user or guest, not %.32q", kind)
	}
	all, err := members(r)
	if err != nil {
		return nil, err
	}
	if isServiceRegistration(all) {
		return a.registerService(r)
	}
	if made, ok, err := a.Accounts.Registered(all); ok || err != nil {
		return signedInOf(made), err
	}
	out, err := a.newAccount(r, all)
	if err != nil {
		if made, ok, _ := a.Accounts.Registered(all); ok { // created by an identical request that was still in progress
			return signedInOf(made), nil
		}
		return nil, err
	}
	return signedInOf(out), nil
}

// registerGuest creates a guest account. It ignores all fields of the body except the name of the device.
// Spec: client-server-api#guest-access
func (a *API) registerGuest(r *httpapi.Request) (any, error) {
	var body struct {
		DisplayName string `json:"initial_device_display_name"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	out, err := a.Accounts.CreateGuest(r.Context(), body.DisplayName, r.Network())
	if err != nil {
		return nil, err
	}
	return signedInOf(out), nil
}

// newAccount creates the account for a registration request.
func (a *API) newAccount(r *httpapi.Request, all map[string]json.RawMessage) (out accounts.SignedIn, err error) {
	var body struct {
		Username     *string     `json:"username"`
		Password     string      `json:"password"`
		DeviceID     id.DeviceID `json:"device_id"`
		DisplayName  string      `json:"initial_device_display_name"`
		InhibitLogin bool        `json:"inhibit_login"`
		Refresh      bool        `json:"refresh_token"`
		GuestToken   string      `json:"guest_access_token"`
	}
	if err := r.Decode(&body); err != nil {
		return out, err
	}
	if err := a.usable(r, body.Username, body.GuestToken); err != nil {
		return out, err
	}
	if body.Password != "" { // checked first, since the authentication can be used only once
		name := ""
		if body.Username != nil {
			name = *body.Username
		}
		if err := a.Accounts.CheckPassword(body.Password, name); err != nil {
			return out, err
		}
	}
	admission, err := a.Accounts.Admit(r.Context(), all, r.Network())
	if err != nil {
		return out, err
	}
	n := accounts.NewAccount{Password: body.Password, Token: admission.Token, Email: admission.Email, GuestToken: body.GuestToken, Network: r.Network()}
	if body.Username != nil {
		n.Username = *body.Username
	}
	if !body.InhibitLogin {
		n.SignIn = &accounts.NewSession{Device: body.DeviceID, DisplayName: body.DisplayName, Refresh: body.Refresh}
	}
	if out, err = a.Accounts.Create(r.Context(), n); err == nil {
		admission.Done(out)
	}
	return out, err
}

// usable returns an error if a user name cannot be registered. A name can be registered if it is available, or if it
// belongs to the guest who registers.
func (a *API) usable(r *httpapi.Request, username *string, guestToken string) error {
	switch {
	case guestToken != "" && username == nil:
		return missing("username")
	case guestToken != "":
		return a.Accounts.IsGuest(r.Context(), guestToken, *username)
	case username == nil:
		return nil
	}
	return a.Accounts.Available(r.Context(), *username)
}

// checkUsernameAvailability reports whether a user name is available.
// Spec: client-server-api#get_matrixclientv3registeravailable
func (a *API) checkUsernameAvailability(r *httpapi.Request) (any, error) {
	return map[string]bool{"available": true}, a.Accounts.Available(r.Context(), r.Query("username"))
}
