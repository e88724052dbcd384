package clientapi

import (
	"math"
	"time"

	"ebb/history"
	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) roomEventByTimestampRoutes() []httpapi.Route {
	const path = "/rooms/{roomId}/timestamp_to_event"
	return []httpapi.Route{{
		Method: "GET", Path: clientV1 + path, Aliases: []string{"/_matrix/client/unstable/org.matrix.msc3030" + path},
		OperationID: "getEventByTimestamp", File: "room_event_by_timestamp.yaml", Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getEventByTimestamp,
	}}
}

// getEventByTimestamp finds the event closest to a time.
// Spec: client-server-api#get_matrixclientv1roomsroomidtimestamp_to_event
func (a *API) getEventByTimestamp(r *httpapi.Request) (any, error) {
	if r.Query("ts") == "" {
		return nil, mxerr.MissingParam("ts is missing")
	}
	ts, err := r.QueryInt("ts", 0, 0, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	backwards, err := history.ParseDir(r.Query("dir"), "f")
	if err != nil {
		return nil, err
	}
	found, at, err := a.History.TimestampToEvent(r.Context(), roomID(r), r.Requester, time.UnixMilli(ts), backwards)
	return map[string]any{"event_id": found, "origin_server_ts": at}, err
}
