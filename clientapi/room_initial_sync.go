package clientapi

import (
	"encoding/json"

	"ebb/history"
	"ebb/httpapi"
	"ebb/rooms"
)

func (a *API) roomInitialSyncRoutes() []httpapi.Route {
	return []httpapi.Route{
		roomRoute("GET", "/rooms/{roomId}/initialSync", "roomInitialSync", "room_initial_sync.yaml", httpapi.Reads, a.roomInitialSync),
	}
}

// roomInitialSync returns the state and the newest events of one room. Element calls it to show a room that the user
// has not joined.
// Spec: client-server-api#get_matrixclientv3roomsroomidinitialsync
func (a *API) roomInitialSync(r *httpapi.Request) (any, error) {
	limit, err := r.QueryInt("limit", defaultPage, 0, history.MaxPage)
	if err != nil {
		return nil, err
	}
	info, err := a.History.RoomInitialSync(r.Context(), roomID(r), r.Requester, int(limit))
	if err != nil {
		return nil, err
	}
	var messages object
	messages.text("start", info.Messages.End)
	messages.text("end", info.Messages.Start)
	messages.array("chunk", info.Messages.Chunk)
	var o object
	o.text("room_id", r.Var("roomId"))
	if info.Membership != rooms.Knock { // this operation is older than knocking and has no such membership
		o.text("membership", info.Membership)
	}
	o.text("visibility", visibility(info.Published))
	o.member("messages", messages.close())
	o.array("state", info.State)
	data := make([]json.RawMessage, len(info.AccountData))
	for i, d := range info.AccountData {
		var event object
		event.text("type", d.Type)
		event.member("content", []byte(d.Content))
		data[i] = event.close()
	}
	o.array("account_data", data)
	return o.close(), nil
}
