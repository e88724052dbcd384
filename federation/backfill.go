package federation

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/history"
	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) backfillRoutes() []httpapi.Route {
	const file = "backfill.yaml"
	return []httpapi.Route{
		route("GET", v1+"/backfill/{roomId}", "backfillRoom", file, a.backfillRoom),
		route("POST", v1+"/get_missing_events/{roomId}", "getMissingPreviousEvents", file, a.getMissingPreviousEvents),
	}
}

// backfillRoom returns events and their predecessors.
// Spec: server-server-api#get_matrixfederationv1backfillroomid
func (a *API) backfillRoom(r *httpapi.Request) (any, error) {
	var from []id.EventID
	for _, v := range r.QueryAll("v") {
		from = append(from, id.EventID(v))
	}
	if len(from) == 0 {
		return nil, mxerr.MissingParam("v is missing")
	}
	limit, err := r.QueryInt("limit", 10, 0, 1000)
	if err != nil {
		return nil, err
	}
	pdus, err := a.History.BackfillForServer(r.Context(), r.Server, roomID(r), from, int(limit))
	return a.transaction(pdus), err
}

// getMissingPreviousEvents returns the events between those that the other server already has and those that it
// received without their predecessors.
// Spec: server-server-api#post_matrixfederationv1get_missing_eventsroomid
func (a *API) getMissingPreviousEvents(r *httpapi.Request) (any, error) {
	var body struct {
		Earliest []id.EventID `json:"earliest_events"`
		Latest   []id.EventID `json:"latest_events"`
		Limit    int          `json:"limit"`
		MinDepth int64        `json:"min_depth"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	events, err := a.History.MissingEventsForServer(r.Context(), r.Server, history.MissingEvents{
		Room: roomID(r), Earliest: body.Earliest, Latest: body.Latest, Limit: body.Limit, MinDepth: body.MinDepth,
	})
	if events == nil {
		events = []json.RawMessage{}
	}
	return map[string]any{"events": events}, err
}
