package clientapi

import (
	"encoding/json"
	"errors"
	"net/http"

	"maunium.net/go/mautrix/id"

	"ebb/accounts"
	"ebb/httpapi"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
)

func (a *API) appserviceRoutes() []httpapi.Route {
	const ping, list = "/appservice/{appserviceId}/ping", "/directory/list/appservice/{networkId}/{roomId}"
	return []httpapi.Route{
		{Method: "POST", Path: clientV1 + ping, Aliases: []string{"/_matrix/client/unstable/fi.mau.msc2659" + ping}, OperationID: "pingAppservice",
			File: "appservice_ping.yaml", Auth: httpapi.AppService, Rate: httpapi.Sends, Handler: a.pingAppservice},
		{Method: "PUT", Path: clientV3 + list, Aliases: []string{clientR0 + list}, OperationID: "updateAppserviceRoomDirectoryVisibility",
			File: "appservice_room_directory.yaml", Auth: httpapi.AppService, Rate: httpapi.Sends, Handler: a.updateAppserviceRoomDirectoryVisibility},
	}
}

// pingAppservice sends a ping to an application service when the service requests one.
// Spec: client-server-api#post_matrixclientv1appserviceappserviceidping
func (a *API) pingAppservice(r *httpapi.Request) (any, error) {
	var body struct {
		TransactionID string `json:"transaction_id"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if r.Var("appserviceId") != r.AppService {
		return nil, mxerr.Forbidden("The access token belongs to another application service")
	}
	took, err := a.Services.Ping(r.Context(), r.AppService, body.TransactionID)
	return map[string]int64{"duration_ms": took.Milliseconds()}, err
}

// updateAppserviceRoomDirectoryVisibility adds a room to the directory of a third-party network, or removes it.
// Spec: client-server-api#put_matrixclientv3directorylistappservicenetworkidroomid
func (a *API) updateAppserviceRoomDirectoryVisibility(r *httpapi.Request) (any, error) {
	public, err := wantsPublic(r, "")
	if err != nil {
		return nil, err
	}
	return nil, a.Directory.ListInNetwork(r.Context(), r.AppService, r.Var("networkId"), roomID(r), public)
}

// memberFor returns the requester. If the requester is a user of an application service and not in the room, memberFor
// returns another user of the service who is in the room, if there is one.
// Spec: client-server-api#get_matrixclientv3roomsroomidjoined_members
func (a *API) memberFor(r *httpapi.Request) (ident.Requester, error) {
	who := r.Requester
	if r.AppService == "" {
		return who, nil
	}
	room, err := a.Rooms.Room(r.Context(), roomID(r))
	if errors.Is(err, rooms.ErrNoRoom) || err == nil && room.Membership(who.UserID) == rooms.Join {
		return who, nil // the caller checks the membership
	}
	if err != nil {
		return who, err
	}
	if other := a.Services.MemberIn(r.AppService, room); other != "" {
		who.UserID = other
		who.UserNID, err = a.Rooms.UserNID(r.Context(), other)
	}
	return who, err
}

// requireService returns an error unless the request has the token of an application service.
//
// Errors: M_MISSING_TOKEN, M_UNKNOWN_TOKEN.
func requireService(r *httpapi.Request) error {
	switch {
	case r.AppService != "":
		return nil
	case r.Token() == "":
		return mxerr.MissingToken()
	}
	return mxerr.UnknownToken(false)
}

// mayLoginService returns an error unless the request comes from an application service that may log in.
//
// Errors: M_MISSING_TOKEN, M_UNKNOWN_TOKEN, M_APPSERVICE_LOGIN_UNSUPPORTED.
func (a *API) mayLoginService(r *httpapi.Request) error {
	if err := requireService(r); err != nil {
		return err
	}
	if a.Services.CannotSignIn(r.AppService) {
		return mxerr.New(http.StatusBadRequest, mxerr.CodeAppserviceLogin, "The registration of the application service has io.element.msc4190: use PUT /devices instead of signing in, and inhibit_login to register")
	}
	return nil
}

// registerService creates an account for an application service.
// Spec: application-service-api#server-admin-style-permissions
func (a *API) registerService(r *httpapi.Request) (any, error) {
	var body struct {
		Username     string      `json:"username"`
		User         string      `json:"user"` // an older name of username
		DeviceID     id.DeviceID `json:"device_id"`
		DisplayName  string      `json:"initial_device_display_name"`
		InhibitLogin bool        `json:"inhibit_login"`
		Refresh      bool        `json:"refresh_token"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if err := requireService(r); err != nil {
		return nil, err
	}
	if body.Username == "" {
		body.Username = body.User
	}
	if body.Username == "" {
		return nil, missing("username")
	}
	n := accounts.NewAccount{Username: body.Username, AppService: r.AppService}
	if !body.InhibitLogin {
		if err := a.mayLoginService(r); err != nil {
			return nil, err
		}
		n.SignIn = &accounts.NewSession{Device: body.DeviceID, DisplayName: body.DisplayName, Refresh: body.Refresh}
	}
	out, err := a.Accounts.Create(r.Context(), n)
	if err != nil {
		return nil, err
	}
	return signedInOf(out), nil
}

// isServiceRegistration reports whether the body of a registration has the type for application services.
func isServiceRegistration(body map[string]json.RawMessage) bool {
	return string(body["type"]) == `"`+loginAppService+`"`
}

// requireDevice returns an error if the request has no device, which can happen for application services.
//
// Errors: M_MISSING_PARAM.
func requireDevice(r *httpapi.Request) error {
	if r.DeviceNID != 0 {
		return nil
	}
	return mxerr.MissingParam("This operation needs a device: name one of the user's devices in the query parameter device_id")
}
