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
func (a *API) joinRoomByID(r *httpapi.Request) (any, error) { return a.join(r, roomID(r), via(r)) }

// via lists the servers that a client names to reach a room through, by the parameter's name of today and by the former one.
func via(r *httpapi.Request) []string { return append(r.QueryAll("via"), r.QueryAll("server_name")...) }

// joinRoom is joinRoomByID by id or alias.
// Spec: client-server-api#post_matrixclientv3joinroomidoralias
func (a *API) joinRoom(r *httpapi.Request) (any, error) {
	room, servers, err := a.Rooms.ResolveRoom(r.Context(), r.Var("roomIdOrAlias"))
	if err != nil {
		return nil, err
	}
	return a.join(r, room, append(via(r), servers...))
}

func (a *API) join(r *httpapi.Request, room id.RoomID, via []string) (any, error) {
	body, err := members(r)
	if err != nil {
		return nil, err
	}
	switch raw, given := body["reason"]; {
	case string(raw) == "null":
		delete(body, "reason")
	case given && !isText(raw):
		return nil, mxerr.BadJSON("reason must be a string")
	}
	return map[string]id.RoomID{"room_id": room}, a.Rooms.JoinWith(r.Context(), r.Requester, room, via, body)
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
