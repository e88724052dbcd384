package clientapi

import (
	"cmp"
	"strconv"

	"ebb/history"
	"ebb/httpapi"
)

func (a *API) relationsRoutes() []httpapi.Route {
	const base = "/rooms/{roomId}/relations/{eventId}"
	route := func(path, operation string) httpapi.Route {
		return httpapi.Route{
			Method: "GET", Path: clientV1 + path, Aliases: []string{"/_matrix/client/unstable" + path}, OperationID: operation,
			File: "relations.yaml", Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getRelatingEvents,
		}
	}
	return []httpapi.Route{
		route(base, "getRelatingEvents"),
		route(base+"/{relType}", "getRelatingEventsWithRelType"),
		route(base+"/{relType}/{eventType}", "getRelatingEventsWithRelTypeAndEventType"),
	}
}

const (
	defaultRelations = 50
	maxRelations     = 500 // reading the aggregations takes queries for each event
)

// getRelatingEvents returns the events that relate to an event, optionally restricted to the relation and event type in
// the path.
// Spec: client-server-api#get_matrixclientv1roomsroomidrelationseventid
func (a *API) getRelatingEvents(r *httpapi.Request) (any, error) {
	backwards, err := history.ParseDir(cmp.Or(r.Query("dir"), r.Query("org.matrix.msc3715.dir")), "b")
	if err != nil {
		return nil, err
	}
	limit, err := r.QueryInt("limit", defaultRelations, 1, maxRelations)
	if err != nil {
		return nil, err
	}
	recurse, err := r.QueryBool("recurse", false)
	if err == nil && !recurse {
		recurse, err = r.QueryBool("org.matrix.msc3981.recurse", false)
	}
	if err != nil {
		return nil, err
	}
	page, err := a.History.Relations(r.Context(), roomID(r), eventID(r), r.Requester, history.RelationsRequest{
		RelType: r.Var("relType"), EventType: r.Var("eventType"), From: r.Query("from"), To: r.Query("to"),
		Forwards: !backwards, Limit: int(limit), Recurse: recurse,
	})
	if err != nil {
		return nil, err
	}
	var o object
	o.array("chunk", page.Chunk)
	o.text("next_batch", page.NextBatch)
	o.text("prev_batch", page.PrevBatch)
	if recurse {
		o.member("recursion_depth", strconv.AppendInt(nil, int64(page.RecursionDepth), 10))
	}
	return o.close(), nil
}
