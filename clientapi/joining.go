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

// joinRoomByID joins a room.
// Spec: client-server-api#post_matrixclientv3roomsroomidjoin
func (a *API) joinRoomByID(r *httpapi.Request) (any, error) { return a.join(r, roomID(r), via(r)) }

// via returns the servers through which a client wants to join a room. It reads the current parameter and the
// deprecated one.
func via(r *httpapi.Request) []string { return append(r.QueryAll("via"), r.QueryAll("server_name")...) }

// joinRoom joins a room given by ID or alias.
// Spec: client-server-api#post_matrixclientv3joinroomidoralias
func (a *API) joinRoom(r *httpapi.Request) (any, error) {
	room, servers, err := a.Directory.ResolveRoom(r.Context(), r.Var("roomIdOrAlias"))
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

// decodeReason returns the field reason of the body. It ignores other fields.
func decodeReason(r *httpapi.Request) (string, error) {
	var body struct {
		Reason string `json:"reason"`
	}
	err := r.Decode(&body)
	return body.Reason, err
}
