package clientapi

import (
	"time"

	"ebb/feed"
	"ebb/httpapi"
)

func (a *API) slidingSyncRoutes() []httpapi.Route {
	return []httpapi.Route{{
		Method: "POST", Path: "/_matrix/client/v4/sync", OperationID: "slidingSync", Auth: httpapi.User, Handler: a.slidingSync,
	}, {
		Method: "POST", Path: "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", OperationID: "slidingSyncUnstable",
		Auth: httpapi.User, Handler: a.slidingSyncUnstable,
	}}
}

// slidingSync returns what changed in the rooms that the client requests.
// Spec: MSC4186
func (a *API) slidingSync(r *httpapi.Request) (any, error) {
	q := &feed.SlidingRequest{Requester: r.Requester, Merged: true}
	if err := a.readSliding(r, q); err != nil {
		return nil, err
	}
	return a.Feed.PollSliding(r.Context(), q)
}

// slidingSyncUnstable is like slidingSync, but in the form that was deployed before the MSC was merged.
func (a *API) slidingSyncUnstable(r *httpapi.Request) (any, error) {
	timeout, err := r.QueryMillis("timeout", 0, time.Hour)
	if err != nil {
		return nil, err
	}
	q := &feed.SlidingRequest{Requester: r.Requester, Pos: r.Query("pos"), Timeout: timeout, SetPresence: r.Query("set_presence")}
	if err := a.readSliding(r, q); err != nil {
		return nil, err
	}
	return a.Feed.PollSliding(r.Context(), q)
}

// readSliding decodes the body, unless it is the same as before. The request keeps neither the body nor the query while
// the client waits. readSliding applies the rate limit for reads to the first request of a connection. Later requests
// are not limited, because their cost is proportional to what changed.
func (a *API) readSliding(r *httpapi.Request, q *feed.SlidingRequest) error {
	body, err := r.Body()
	if err != nil {
		return err
	}
	if !a.Feed.RecallSliding(q, body) {
		if err := r.Decode(&q.Body); err != nil {
			return err
		}
	}
	r.Release()
	if q.Pos != "" || q.Merged && q.Body.Pos != "" {
		return nil
	}
	return r.Limit(httpapi.Reads, string(r.UserID))
}
