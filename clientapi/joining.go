package clientapi

import (
	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) joiningRoutes() []httpapi.Route {
	const file = "joining.yaml"
	return []httpapi.Route{
		roomRoute("POST", "/rooms/{roomId}/join", "joinRoomById", file, httpapi.Joins, a.joinRoomByID),
		roomRoute("POST", "/join/{roomIdOrAlias}", "joinRoom", file, httpapi.Joins, a.joinRoom),
	}
}

// joinRoomByID makes the user a member of a room.
// Spec: client-server-api#post_matrixclientv3roomsroomidjoin
func (a *API) joinRoomByID(r *httpapi.Request) (any, error) { return a.join(r, roomID(r)) }

// joinRoom is joinRoomByID by id or alias.
// Spec: client-server-api#post_matrixclientv3joinroomidoralias
func (a *API) joinRoom(r *httpapi.Request) (any, error) {
	room, err := a.Rooms.ResolveRoom(r.Context(), r.Var("roomIdOrAlias"))
	if err != nil {
		return nil, err
	}
	return a.join(r, room)
}

func (a *API) join(r *httpapi.Request, room id.RoomID) (any, error) {
	body, err := members(r)
	if err != nil {
		return nil, err
	}
	switch raw, given := body["reason"]; {
	case string(raw) == "null":
		delete(body, "reason")
	case given && !isText(raw):
		return nil, mxerr.BadJSON("reason is not a string")
	}
	return map[string]id.RoomID{"room_id": room}, a.Rooms.JoinWith(r.Context(), sender(r), room, body)
}

func isText(raw []byte) bool {
	_, ok := canonjson.Unquote(raw)
	return ok
}

// decodeReason reads a body of which only the reason matters.
func decodeReason(r *httpapi.Request) (string, error) {
	var body struct {
		Reason string `json:"reason"`
	}
	err := r.Decode(&body)
	return body.Reason, err
}
