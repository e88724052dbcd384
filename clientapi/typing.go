package clientapi

import (
	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) typingRoutes() []httpapi.Route {
	return []httpapi.Route{{
		Method: "PUT", Path: "/_matrix/client/v3/rooms/{roomId}/typing/{userId}", Aliases: []string{"/_matrix/client/r0/rooms/{roomId}/typing/{userId}"},
		OperationID: "setTyping", File: "typing.yaml", Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.setTyping,
	}}
}

// setTyping sets whether the user is typing in a room.
// Spec: client-server-api#put_matrixclientv3roomsroomidtypinguserid
func (a *API) setTyping(r *httpapi.Request) (any, error) {
	var body struct {
		Typing  *bool `json:"typing"`
		Timeout int64 `json:"timeout"` // milliseconds
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Typing == nil {
		return nil, mxerr.MissingParam("typing is missing")
	}
	if id.UserID(r.Var("userId")) != r.UserID {
		return nil, mxerr.Forbidden("You can only set your own typing state")
	}
	return nil, a.Feed.SetTyping(r.Context(), r.Requester, id.RoomID(r.Var("roomId")), *body.Typing, milliseconds(body.Timeout))
}
