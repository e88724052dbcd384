package clientapi

import (
	"maunium.net/go/mautrix/id"

	"ebb/audit"
	"ebb/httpapi"
	"ebb/mxerr"
	"ebb/redactions"
)

// Paths of an extension by which users choose after what time the messages that they have sent are redacted.
const (
	messageLifetimePath     = "/_matrix/client/unstable/dev.ebb.message_lifetime"
	roomMessageLifetimePath = messageLifetimePath + "/rooms/{roomId}"
)

func (a *API) messageLifetimeRoutes() []httpapi.Route {
	return []httpapi.Route{
		{Method: "GET", Path: messageLifetimePath, OperationID: "getMessageLifetimes", Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getMessageLifetimes},
		{Method: "PUT", Path: messageLifetimePath, OperationID: setMessageLifetime, Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.setMessageLifetime},
		{Method: "DELETE", Path: messageLifetimePath, OperationID: "deleteMessageLifetime", Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.deleteMessageLifetime},
		{Method: "GET", Path: roomMessageLifetimePath, OperationID: "getRoomMessageLifetime", Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getRoomMessageLifetime},
		{Method: "PUT", Path: roomMessageLifetimePath, OperationID: setRoomMessageLifetime, Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.setMessageLifetime},
		{Method: "DELETE", Path: roomMessageLifetimePath, OperationID: "deleteRoomMessageLifetime", Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.deleteMessageLifetime},
	}
}

// The operations that need user-interactive authentication.
const (
	setMessageLifetime     = "setMessageLifetime"
	setRoomMessageLifetime = "setRoomMessageLifetime"
)

// getMessageLifetimes returns the lifetimes that the user has chosen, and the bounds of what can be chosen.
func (a *API) getMessageLifetimes(r *httpapi.Request) (any, error) {
	chosen, err := a.Redactions.Lifetimes(r.Context(), r.UserNID)
	if err != nil {
		return nil, err
	}
	least, most := redactions.LifetimeBounds()
	out := struct {
		lifetimes
		Rooms  map[id.RoomID]lifetimes  `json:"rooms"`
		Limits map[string]lifetimeRange `json:"limits"`
	}{Rooms: map[id.RoomID]lifetimes{}, Limits: map[string]lifetimeRange{"max_lifetime": {Min: millis(&least), Max: millis(&most)}}}
	if chosen.All != 0 {
		out.Max = millis(&chosen.All)
	}
	for room, d := range chosen.Rooms {
		out.Rooms[room] = lifetimes{Max: millis(&d)}
	}
	return out, nil
}

// getRoomMessageLifetime returns the lifetime that the user has chosen for a room.
func (a *API) getRoomMessageLifetime(r *httpapi.Request) (any, error) {
	chosen, err := a.Redactions.Lifetimes(r.Context(), r.UserNID)
	if err != nil {
		return nil, err
	}
	d, found := chosen.Rooms[roomID(r)]
	if !found {
		return nil, mxerr.NotFound("You have not chosen a lifetime for your messages in this room")
	}
	return lifetimes{Max: millis(&d)}, nil
}

// setMessageLifetime chooses after what time the user's messages are redacted, in a room or in all others. Because this
// cannot be undone, the user has to confirm it.
func (a *API) setMessageLifetime(r *httpapi.Request) (any, error) {
	var body struct {
		Max *int64 `json:"max_lifetime"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Max == nil {
		return nil, missing("max_lifetime")
	}
	d, err := redactions.CheckLifetime(*body.Max)
	if err != nil {
		return nil, err
	}
	operation := setMessageLifetime
	if r.Var("roomId") != "" {
		operation = setRoomMessageLifetime
	}
	if err := a.interactiveAuth(r, operation); err != nil {
		return nil, err
	}
	return struct{}{}, a.Redactions.SetLifetime(audit.WithNetwork(r.Context(), r.Network()), r.UserNID, roomID(r), d)
}

// deleteMessageLifetime ends what setMessageLifetime has begun.
func (a *API) deleteMessageLifetime(r *httpapi.Request) (any, error) {
	_, err := a.Redactions.DropLifetime(audit.WithNetwork(r.Context(), r.Network()), r.UserNID, roomID(r))
	return struct{}{}, err
}
