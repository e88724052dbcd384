package clientapi

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) profileRoutes() []httpapi.Route {
	const file = "profile.yaml"
	const whole, field = "/_matrix/client/v3/profile/{userId}", "/_matrix/client/v3/profile/{userId}/{keyName}"
	aliases := []string{"/_matrix/client/r0/profile/{userId}/{keyName}", "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{userId}/{keyName}"}
	return []httpapi.Route{
		{Method: "GET", Path: whole, Aliases: []string{"/_matrix/client/r0/profile/{userId}", "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{userId}"}, OperationID: "getUserProfile", File: file, Auth: httpapi.Optional, Handler: a.getUserProfile},
		{Method: "GET", Path: field, Aliases: aliases, OperationID: "getProfileField", File: file, Auth: httpapi.Optional, Handler: a.getProfileField},
		{Method: "PUT", Path: field, Aliases: aliases, OperationID: "setProfileField", File: file, Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.setProfileField},
		{Method: "DELETE", Path: field, Aliases: aliases, OperationID: "deleteProfileField", File: file, Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.deleteProfileField},
	}
}

// getUserProfile returns all profile fields of a user. A user without fields has an empty profile rather than a 404
// response, which clients would take to mean that the user does not exist and cannot be invited.
// Spec: client-server-api#get_matrixclientv3profileuserid
func (a *API) getUserProfile(r *httpapi.Request) (any, error) {
	if err := a.mayAskFor(r, a.Accounts.IsRemote(id.UserID(r.Var("userId")))); err != nil {
		return nil, err
	}
	fields, err := a.Accounts.Profile(r.Context(), id.UserID(r.Var("userId")))
	out := make(map[string]json.RawMessage, len(fields))
	for _, f := range fields {
		out[f.Name] = f.Value
	}
	return out, err
}

// mayAskFor returns an error if clients without an access token have made this server contact other servers too often.
// remote says whether this request would do so again.
//
// Errors: M_LIMIT_EXCEEDED.
func (a *API) mayAskFor(r *httpapi.Request, remote bool) error {
	if !remote || r.UserID != "" || r.AppService != "" {
		return nil
	}
	if err := r.Limit(httpapi.Lookups, r.Network()); err != nil {
		return err
	}
	return r.Limit(httpapi.AllLookups, "")
}

// getProfileField returns one field of a profile.
// Spec: client-server-api#get_matrixclientv3profileuseridkeyname
func (a *API) getProfileField(r *httpapi.Request) (any, error) {
	if err := a.mayAskFor(r, a.Accounts.IsRemote(id.UserID(r.Var("userId")))); err != nil {
		return nil, err
	}
	name := r.Var("keyName")
	value, err := a.Accounts.ProfileField(r.Context(), id.UserID(r.Var("userId")), name)
	return map[string]json.RawMessage{name: value}, err
}

// setProfileField sets one field of the user's own profile.
// Spec: client-server-api#put_matrixclientv3profileuseridkeyname
func (a *API) setProfileField(r *httpapi.Request) (any, error) {
	if err := ownProfile(r); err != nil {
		return nil, err
	}
	body, err := members(r)
	if err != nil {
		return nil, err
	}
	name := r.Var("keyName")
	value, there := body[name]
	if !there {
		return nil, mxerr.MissingParam("%.64q is missing in the body", name)
	}
	return nil, a.Accounts.SetProfileField(r.Context(), r.Requester, name, value)
}

// deleteProfileField removes one field of the user's own profile.
// Spec: client-server-api#delete_matrixclientv3profileuseridkeyname
func (a *API) deleteProfileField(r *httpapi.Request) (any, error) {
	if err := ownProfile(r); err != nil {
		return nil, err
	}
	return nil, a.Accounts.DeleteProfileField(r.Context(), r.Requester, r.Var("keyName"))
}

func ownProfile(r *httpapi.Request) error {
	if r.Var("userId") != string(r.UserID) {
		return mxerr.Forbidden("You can only change your own profile")
	}
	if r.Guest && r.Var("keyName") != "displayname" {
		return mxerr.GuestAccessForbidden("Guests can only change their display name")
	}
	return nil
}
