package clientapi

import (
	"maps"

	"ebb/accounts"
	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) passwordManagementRoutes() []httpapi.Route {
	const file = "password_management.yaml"
	return append(a.thirdPartyTokens("/account/password", file, "requestTokenToResetPasswordEmail", "requestTokenToResetPasswordMSISDN", accounts.EmailForPassword), httpapi.Route{
		Method: "GET", Path: "/_matrix/client/v3/password_policy",
		Aliases:     []string{"/_matrix/client/r0/password_policy", "/_matrix/client/unstable/password_policy", "/_matrix/client/unstable/org.matrix.msc2000/password_policy"},
		OperationID: "getPasswordPolicy", Rate: httpapi.Anonymous, Handler: a.getPasswordPolicy,
	}, httpapi.Route{
		Method: "POST", Path: "/_matrix/client/v3/account/password", Aliases: []string{"/_matrix/client/r0/account/password"},
		OperationID: "changePassword", File: file, Auth: httpapi.Optional, Rate: httpapi.Anonymous, Handler: a.changePassword,
	})
}

// changePassword sets the user's password and logs the other devices out, unless the client asks to keep them. A user
// who has forgotten the password authenticates by e-mail and needs no access token.
// Spec: client-server-api#post_matrixclientv3accountpassword
func (a *API) changePassword(r *httpapi.Request) (any, error) {
	var body struct {
		NewPassword   *string `json:"new_password"`
		LogoutDevices *bool   `json:"logout_devices"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.NewPassword != nil { // checked first, since the authentication can be used only once
		if err := a.Accounts.CheckPassword(*body.NewPassword, string(r.UserID)); err != nil {
			return nil, err
		}
	}
	signOut := body.LogoutDevices == nil || *body.LogoutDevices
	if r.UserID == "" {
		return nil, a.resetPassword(r, body.NewPassword, signOut)
	}
	if err := a.interactiveAuth(r, "changePassword"); err != nil {
		return nil, err
	}
	if body.NewPassword == nil {
		return nil, missing("new_password")
	}
	return nil, a.Accounts.SetPassword(r.Context(), r.UserID, *body.NewPassword, accounts.PasswordChange{SignOut: signOut, Device: r.DeviceID})
}

// resetPassword sets the password of the account whose e-mail address the client has verified.
func (a *API) resetPassword(r *httpapi.Request, password *string, signOut bool) error {
	if !a.Accounts.HasEmail() {
		return mxerr.MissingToken()
	}
	all, err := members(r)
	if err != nil {
		return err
	}
	if password == nil {
		password = new(string) // an empty password yields M_WEAK_PASSWORD, but only after the client has authenticated
	}
	return a.Accounts.ResetPassword(r.Context(), all, r.Network(), *password, signOut)
}

// getPasswordPolicy returns the rules for passwords that clients can check while the user types. Servers in use return
// them at the top level, the proposal has them in policy.
// Spec: MSC2000
func (a *API) getPasswordPolicy(*httpapi.Request) (any, error) {
	rules := map[string]any{"m.minimum_length": a.Accounts.PasswordRules().MinLength}
	answer := map[string]any{"policy": rules}
	maps.Copy(answer, rules)
	return answer, nil
}
