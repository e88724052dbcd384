package clientapi

import (
	"context"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/feed"
	"ebb/httpapi"
)

func (a *API) peekingEventsRoutes() []httpapi.Route {
	return []httpapi.Route{roomRoute("GET", "/events", "peekEvents", "peeking_events.yaml", httpapi.Reads, a.peekEvents)}
}

// defaultPeek is the default timeout.
const defaultPeek = 30 * time.Second

// longestWait is the longest timeout that a client can request. Package feed may end the wait earlier.
const longestWait = time.Hour

// peekEvents returns the new events of a room that the user need not have joined. Without a room it behaves like
// getEvents.
// Spec: client-server-api#get_matrixclientv3events (peeking_events)
func (a *API) peekEvents(r *httpapi.Request) (any, error) {
	room := r.Query("room_id")
	if room == "" {
		return a.getEvents(r)
	}
	timeout, err := r.QueryMillis("timeout", defaultPeek, longestWait)
	if err != nil {
		return nil, err
	}
	return peeked(a.Feed.PollRoom(r.Context(), feed.PeekRequest{Requester: r.Requester, Room: id.RoomID(room), From: r.Query("from"), Timeout: timeout}))
}

// peeked returns the poll of getEvents and peekEvents.
func peeked(p *feed.Poll, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return peek{p}, nil
}

// peek is a poll whose answer is a feed.Peeked.
type peek struct{ *feed.Poll }

// Answer implements httpapi.Poll.
func (p peek) Answer(ctx context.Context) (any, error) {
	answer, err := p.Poll.Answer(ctx)
	if answer == nil || err != nil {
		return nil, err
	}
	got := answer.(feed.Peeked)
	var o object
	o.text("start", got.Start)
	o.text("end", got.End)
	o.array("chunk", got.Chunk)
	return o.close(), nil
}
