package clientapi

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) presenceRoutes() []httpapi.Route {
	const path = "/_matrix/client/v3/presence/{userId}/status"
	aliases := []string{"/_matrix/client/r0/presence/{userId}/status"}
	return []httpapi.Route{{
		Method: "PUT", Path: path, Aliases: aliases, OperationID: "setPresence", File: "presence.yaml",
		Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.setPresence,
	}, {
		Method: "GET", Path: path, Aliases: aliases, OperationID: "getPresence", File: "presence.yaml",
		Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getPresence,
	}}
}

// setPresence sets the user's presence.
// Spec: client-server-api#put_matrixclientv3presenceuseridstatus
func (a *API) setPresence(r *httpapi.Request) (any, error) {
	var body struct {
		Presence string  `json:"presence"`
		Status   *string `json:"status_msg"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Presence == "" {
		return nil, mxerr.MissingParam("presence is missing")
	}
	if id.UserID(r.Var("userId")) != r.UserID {
		return nil, mxerr.Forbidden("You can only set your own presence")
	}
	return nil, a.Feed.SetPresence(r.Context(), r.Requester, body.Presence, body.Status)
}

// getPresence returns the presence of a user who shares a room with the requesting user.
// Spec: client-server-api#get_matrixclientv3presenceuseridstatus
func (a *API) getPresence(r *httpapi.Request) (any, error) {
	content, err := a.Feed.Presence(r.Context(), r.Requester, id.UserID(r.Var("userId")))
	return json.RawMessage(content), err
}
