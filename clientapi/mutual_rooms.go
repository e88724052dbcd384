package clientapi

import (
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) mutualRoomsRoutes() []httpapi.Route {
	return []httpapi.Route{{
		Method: "GET", Path: clientV1 + "/mutual_rooms", Aliases: []string{"/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"},
		OperationID: "getMutualRooms", File: "mutual_rooms.yaml", Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getMutualRooms,
	}}
}

// getMutualRooms returns the rooms that the user shares with another user. Clients of the unstable path (MSC2666) call
// the tokens batch_token and next_batch_token.
// Spec: client-server-api#get_matrixclientv1mutual_rooms
func (a *API) getMutualRooms(r *httpapi.Request) (any, error) {
	user, from := r.Query("user_id"), r.Query("from")
	if from == "" {
		from = r.Query("batch_token")
	}
	if user == "" {
		return nil, mxerr.InvalidParam("user_id is missing")
	}
	if !strings.HasPrefix(user, "@") || !strings.Contains(user, ":") || len(user) > 255 {
		return nil, mxerr.InvalidParam("user_id is not a user ID")
	}
	page, err := a.History.MutualRooms(r.Context(), r.Requester, id.UserID(user), from)
	if err != nil {
		return nil, err
	}
	answer := map[string]any{"joined": page.Joined, "count": page.Count}
	if page.Next != "" {
		answer["next_batch"] = page.Next
		if strings.Contains(r.URL.Path, "/unstable/") {
			answer["next_batch_token"] = page.Next
		}
	}
	return answer, nil
}
