package clientapi

import (
	"ebb/accounts"
	"ebb/httpapi"
)

func (a *API) passwordManagementRoutes() []httpapi.Route {
	const file = "password_management.yaml"
	return append(thirdPartyTokens("/account/password", file, "requestTokenToResetPasswordEmail", "requestTokenToResetPasswordMSISDN", a.unknownThirdParty), httpapi.Route{
		Method: "POST", Path: "/_matrix/client/v3/account/password", Aliases: []string{"/_matrix/client/r0/account/password"},
		OperationID: "changePassword", File: file, Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.changePassword,
	})
}

// changePassword sets the user's password, and signs out the other devices unless the client declines that.
// Spec: client-server-api#post_matrixclientv3accountpassword
func (a *API) changePassword(r *httpapi.Request) (any, error) {
	var body struct {
		NewPassword   *string `json:"new_password"`
		LogoutDevices *bool   `json:"logout_devices"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.NewPassword != nil { // checked before the authentication is used up
		if err := accounts.CheckPassword(*body.NewPassword); err != nil {
			return nil, err
		}
	}
	if err := a.interactiveAuth(r, "changePassword"); err != nil {
		return nil, err
	}
	if body.NewPassword == nil {
		return nil, missing("new_password")
	}
	signOut := body.LogoutDevices == nil || *body.LogoutDevices
	return nil, a.Accounts.SetPassword(r.Context(), r.UserID, *body.NewPassword, signOut, r.DeviceID)
}
