package clientapi

import (
	"maunium.net/go/mautrix/id"

	"ebb/accounts"
	"ebb/httpapi"
)

func (a *API) adminRoutes() []httpapi.Route {
	const file = "admin.yaml"
	route := func(method, path, operation string, h func(*httpapi.Request) (any, error)) httpapi.Route {
		return httpapi.Route{Method: method, Path: clientV1 + path, Aliases: []string{"/_matrix/client/unstable/uk.timedout.msc4323" + path},
			OperationID: operation, File: file, Auth: httpapi.Admin, Rate: rateOf(method), Handler: h}
	}
	return []httpapi.Route{
		route("GET", "/admin/lock/{userId}", "getAdminLockUser", a.getAdminLockUser),
		route("PUT", "/admin/lock/{userId}", "setAdminLockUser", a.setAdminLockUser),
		route("GET", "/admin/suspend/{userId}", "getAdminSuspendUser", a.getAdminSuspendUser),
		route("PUT", "/admin/suspend/{userId}", "setAdminSuspendUser", a.setAdminSuspendUser),
		{Method: "GET", Path: clientV3 + "/admin/whois/{userId}", Aliases: []string{clientR0 + "/admin/whois/{userId}"},
			OperationID: "getWhoIs", File: file, Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getWhoIs},
	}
}

// lockState and suspendState are the bodies and responses of the operations that lock and suspend accounts.
type (
	lockState struct {
		Locked *bool `json:"locked"`
	}
	suspendState struct {
		Suspended *bool `json:"suspended"`
	}
)

func (a *API) standing(r *httpapi.Request) (accounts.Standing, error) {
	return a.Accounts.Standing(r.Context(), r.Requester, userID(r))
}

// getAdminLockUser reports whether an account is locked.
// Spec: client-server-api#get_matrixclientv1adminlockuserid
func (a *API) getAdminLockUser(r *httpapi.Request) (any, error) {
	st, err := a.standing(r)
	return lockState{&st.Locked}, err
}

// getAdminSuspendUser reports whether an account is suspended.
// Spec: client-server-api#get_matrixclientv1adminsuspenduserid
func (a *API) getAdminSuspendUser(r *httpapi.Request) (any, error) {
	st, err := a.standing(r)
	return suspendState{&st.Suspended}, err
}

// setAdminLockUser locks or unlocks an account.
// Spec: client-server-api#put_matrixclientv1adminlockuserid
func (a *API) setAdminLockUser(r *httpapi.Request) (any, error) {
	var body lockState
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Locked == nil {
		return nil, missing("locked")
	}
	return body, a.Accounts.SetLocked(r.Context(), r.Requester, userID(r), *body.Locked)
}

// setAdminSuspendUser suspends an account or ends its suspension.
// Spec: client-server-api#put_matrixclientv1adminsuspenduserid
func (a *API) setAdminSuspendUser(r *httpapi.Request) (any, error) {
	var body suspendState
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Suspended == nil {
		return nil, missing("suspended")
	}
	return body, a.Accounts.SetSuspended(r.Context(), r.Requester, userID(r), *body.Suspended)
}

// getWhoIs lists the devices of a user, with the time, the IP address and the user agent of their last requests.
// Spec: client-server-api#get_matrixclientv3adminwhoisuserid
func (a *API) getWhoIs(r *httpapi.Request) (any, error) {
	user := userID(r)
	devices, err := a.Accounts.WhoIs(r.Context(), r.Requester, user)
	if err != nil {
		return nil, err
	}
	type connection struct {
		IP        string `json:"ip,omitempty"`
		LastSeen  int64  `json:"last_seen"`
		UserAgent string `json:"user_agent,omitempty"`
	}
	type session struct {
		Connections []connection `json:"connections"`
	}
	type device struct {
		Sessions []session `json:"sessions"`
	}
	all := map[id.DeviceID]device{}
	for _, d := range devices { // a device has one session, and only its last connection is stored
		all[d.ID] = device{[]session{{[]connection{{d.Address, d.LastSeen.UnixMilli(), d.UserAgent}}}}}
	}
	return map[string]any{"user_id": user, "devices": all}, nil
}
