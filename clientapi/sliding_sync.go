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
	q := feed.SlidingRequest{Requester: r.Requester, Merged: true}
	if err := r.Decode(&q.Body); err != nil {
		return nil, err
	}
	if err := limitFirst(r, q.Body.Pos); err != nil {
		return nil, err
	}
	return a.Feed.SlidingSync(r.Context(), q)
}

// slidingSyncUnstable is slidingSync in the form that was deployed before the MSC was merged.
func (a *API) slidingSyncUnstable(r *httpapi.Request) (any, error) {
	timeout, err := r.QueryMillis("timeout", 0, time.Hour)
	if err != nil {
		return nil, err
	}
	q := feed.SlidingRequest{Requester: r.Requester, Pos: r.Query("pos"), Timeout: timeout, SetPresence: r.Query("set_presence")}
	if err := r.Decode(&q.Body); err != nil {
		return nil, err
	}
	if err := limitFirst(r, q.Pos); err != nil {
		return nil, err
	}
	return a.Feed.SlidingSync(r.Context(), q)
}

// limitFirst applies the rate limit for reads to the first request of a sync. Later requests are not limited, because
// their cost is proportional to what changed.
func limitFirst(r *httpapi.Request, pos string) error {
	if pos != "" {
		return nil
	}
	return r.Limit(httpapi.Reads, string(r.UserID))
}
