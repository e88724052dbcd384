package clientapi

import (
	"encoding/json"

	"ebb/feed"
	"ebb/history"
	"ebb/httpapi"
)

func (a *API) oldSyncRoutes() []httpapi.Route {
	const file = "old_sync.yaml"
	return []httpapi.Route{
		roomRoute("GET", "/events/{eventId}", "getOneEvent", file, httpapi.Reads, a.getOneEvent),
		roomRoute("GET", "/initialSync", "initialSync", file, httpapi.Reads, a.initialSync),
	}
}

// getEvents returns the new events of all rooms.
// Spec: client-server-api#get_matrixclientv3events
func (a *API) getEvents(r *httpapi.Request) (any, error) {
	timeout, err := r.QueryMillis("timeout", defaultPeek, longestWait)
	if err != nil {
		return nil, err
	}
	return peeked(a.Feed.PollEvents(r.Context(), feed.EventsRequest{Requester: r.Requester, From: r.Query("from"), Timeout: timeout}))
}

// getOneEvent returns one event of any room.
// Spec: client-server-api#get_matrixclientv3eventseventid
func (a *API) getOneEvent(r *httpapi.Request) (any, error) {
	return orError(a.History.FindEvent(r.Context(), eventID(r), r.Requester))
}

// defaultInitial is the default number of messages for each room in initialSync.
const defaultInitial = 10

// initialSync returns all rooms of the user.
// Spec: client-server-api#get_matrixclientv3initialsync
func (a *API) initialSync(r *httpapi.Request) (any, error) {
	limit, err := r.QueryInt("limit", defaultInitial, 0, history.MaxPage)
	if err != nil {
		return nil, err
	}
	archived, err := r.QueryBool("archived", false)
	if err != nil {
		return nil, err
	}
	all, err := a.Feed.InitialSync(r.Context(), r.Requester, int(limit), archived)
	if err != nil {
		return nil, err
	}
	rooms := make([]json.RawMessage, len(all.Rooms))
	for i := range all.Rooms {
		rooms[i] = initialRoom(&all.Rooms[i])
	}
	var o object
	o.text("end", all.End)
	o.array("presence", all.Presence)
	o.array("account_data", all.AccountData)
	o.array("rooms", rooms)
	return o.close(), nil
}

func initialRoom(room *feed.InitialRoom) json.RawMessage {
	var o object
	o.text("room_id", string(room.Room))
	o.text("membership", room.Membership)
	o.text("visibility", visibility(room.Published))
	if room.Invite != nil {
		o.member("invite", room.Invite)
	}
	if room.End != "" {
		var messages object
		messages.text("start", room.Start)
		messages.text("end", room.End)
		messages.array("chunk", room.Messages)
		o.member("messages", messages.close())
		o.array("state", room.State)
		o.array("account_data", room.AccountData)
	}
	return o.close()
}
