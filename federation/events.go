package federation

import (
	"encoding/json"
	"math"

	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
	"ebb/mxerr"
	"ebb/rooms"
)

func (a *API) eventsRoutes() []httpapi.Route {
	const file = "events.yaml"
	return []httpapi.Route{
		route("GET", v1+"/event/{eventId}", "getEvent", file, a.getEvent),
		route("GET", v1+"/state/{roomId}", "getRoomState", file, a.getRoomState),
		route("GET", v1+"/state_ids/{roomId}", "getRoomStateIds", file, a.getRoomStateIDs),
		route("GET", v1+"/timestamp_to_event/{roomId}", "getEventByTimestamp", file, a.getEventByTimestamp),
	}
}

// transaction returns events in the form that responses contain.
func (a *API) transaction(pdus []json.RawMessage) map[string]any {
	if pdus == nil {
		pdus = []json.RawMessage{}
	}
	return map[string]any{"origin": a.Server, "origin_server_ts": a.Now().UnixMilli(), "pdus": pdus}
}

// getEvent returns one event.
// Spec: server-server-api#get_matrixfederationv1eventeventid
func (a *API) getEvent(r *httpapi.Request) (any, error) {
	event, err := a.History.EventForServer(r.Context(), r.Server, eventID(r))
	return a.transaction([]json.RawMessage{event}), err
}

func (a *API) state(r *httpapi.Request) (state, chain []*rooms.Event, err error) {
	at, err := required(r, "event_id")
	if err != nil {
		return nil, nil, err
	}
	return a.History.StateForServer(r.Context(), r.Server, roomID(r), id.EventID(at))
}

// getRoomState returns the state before an event.
// Spec: server-server-api#get_matrixfederationv1stateroomid
func (a *API) getRoomState(r *httpapi.Request) (any, error) {
	state, chain, err := a.state(r)
	return map[string]any{"pdus": bytesOf(state), "auth_chain": bytesOf(chain)}, err
}

// getRoomStateIDs returns the event IDs of the state before an event.
// Spec: server-server-api#get_matrixfederationv1state_idsroomid
func (a *API) getRoomStateIDs(r *httpapi.Request) (any, error) {
	state, chain, err := a.state(r)
	return map[string]any{"pdu_ids": idsOf(state), "auth_chain_ids": idsOf(chain)}, err
}

func bytesOf(events []*rooms.Event) []json.RawMessage {
	out := make([]json.RawMessage, len(events))
	for i, e := range events {
		out[i] = e.JSON()
	}
	return out
}

func idsOf(events []*rooms.Event) []id.EventID {
	out := make([]id.EventID, len(events))
	for i, e := range events {
		out[i] = e.ID()
	}
	return out
}

// getEventByTimestamp finds the event closest to a time.
// Spec: server-server-api#get_matrixfederationv1timestamp_to_eventroomid
func (a *API) getEventByTimestamp(r *httpapi.Request) (any, error) {
	if _, err := required(r, "ts"); err != nil {
		return nil, err
	}
	ts, err := r.QueryInt("ts", 0, 0, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	dir := r.Query("dir")
	if dir != "f" && dir != "b" {
		return nil, mxerr.InvalidParam("dir must be f or b")
	}
	event, at, err := a.History.EventAtTimeForServer(r.Context(), r.Server, roomID(r), ts, dir == "b")
	return map[string]any{"event_id": event, "origin_server_ts": at}, err
}
