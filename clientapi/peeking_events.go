package clientapi

import (
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/feed"
	"ebb/httpapi"
)

func (a *API) peekingEventsRoutes() []httpapi.Route {
	return []httpapi.Route{roomRoute("GET", "/events", "peekEvents", "peeking_events.yaml", httpapi.Reads, a.peekEvents)}
}

// defaultPeek is the default waiting time.
const defaultPeek = 30 * time.Second

// peekEvents returns the new events of a room, which the user need not have joined.
// Spec: client-server-api#get_matrixclientv3events (peeking_events)
func (a *API) peekEvents(r *httpapi.Request) (any, error) {
	room := r.Query("room_id")
	// Partial: without a room, the specification returns the events of all rooms, as before /sync existed.
	if room == "" {
		return nil, missing("room_id")
	}
	timeout, err := r.QueryMillis("timeout", defaultPeek, time.Hour)
	if err != nil {
		return nil, err
	}
	p, err := a.Feed.Peek(r.Context(), feed.PeekRequest{Requester: r.Requester, Room: id.RoomID(room), From: r.Query("from"), Timeout: timeout})
	if err != nil {
		return nil, err
	}
	var o object
	o.text("start", p.Start)
	o.text("end", p.End)
	o.array("chunk", p.Chunk)
	return o.close(), nil
}
