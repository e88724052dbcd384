package clientapi

import (
	"ebb/history"
	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) threadsListRoutes() []httpapi.Route {
	const path = "/rooms/{roomId}/threads"
	return []httpapi.Route{{
		Method: "GET", Path: clientV1 + path, Aliases: []string{"/_matrix/client/unstable/org.matrix.msc3856" + path},
		OperationID: "getThreadRoots", File: "threads_list.yaml", Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getThreadRoots,
	}}
}

const (
	defaultThreads = 20
	maxThreads     = 100 // reading the aggregations takes several queries for each thread
)

// getThreadRoots returns the thread roots of a room, those with the latest replies first.
// Spec: client-server-api#get_matrixclientv1roomsroomidthreads
func (a *API) getThreadRoots(r *httpapi.Request) (any, error) {
	include := r.Query("include")
	if include != "" && include != "all" && include != "participated" {
		return nil, mxerr.InvalidParam("include must be all or participated")
	}
	limit, err := r.QueryInt("limit", defaultThreads, 1, maxThreads)
	if err != nil {
		return nil, err
	}
	page, err := a.History.Threads(r.Context(), roomID(r), r.Requester, history.ThreadsRequest{
		From: r.Query("from"), Participated: include == "participated", Limit: int(limit),
	})
	if err != nil {
		return nil, err
	}
	var o object
	o.array("chunk", page.Chunk)
	o.text("next_batch", page.NextBatch)
	return o.close(), nil
}
