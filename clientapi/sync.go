package clientapi

import (
	"cmp"
	"time"

	"ebb/feed"
	"ebb/httpapi"
)

func (a *API) syncRoutes() []httpapi.Route {
	return []httpapi.Route{{
		Method: "GET", Path: "/_matrix/client/v3/sync", Aliases: []string{"/_matrix/client/r0/sync"},
		OperationID: "sync", File: "sync.yaml", Auth: httpapi.User, Handler: a.sync,
	}}
}

// sync returns what changed since the client's last sync.
// Spec: client-server-api#get_matrixclientv3sync
func (a *API) sync(r *httpapi.Request) (any, error) {
	var q feed.SyncRequest
	if err := readSync(r, &q); err != nil {
		return nil, err
	}
	return a.Feed.PollSync(r.Context(), &q)
}

// readSync parses the parameters of sync. It applies the rate limit for reads unless the sync is incremental: an
// initial sync costs as much as all other reads together. The request does not keep its query while the client waits.
func readSync(r *httpapi.Request, q *feed.SyncRequest) error {
	fullState, err1 := r.QueryBool("full_state", false)
	stateAfter, err2 := r.QueryBool("use_state_after", false)
	unstable, err3 := r.QueryBool("org.matrix.msc4222.use_state_after", false)
	timeout, err4 := r.QueryMillis("timeout", 0, time.Hour)
	if err := cmp.Or(err1, err2, err3, err4); err != nil {
		return err
	}
	*q = feed.SyncRequest{
		Requester: r.Requester, Filter: r.Query("filter"), Since: r.Query("since"), SetPresence: r.Query("set_presence"),
		FullState: fullState, Timeout: timeout, StateAfter: stateAfter, UnstableStateAfter: unstable,
	}
	r.Release()
	if q.Since != "" && !fullState {
		return nil
	}
	return r.Limit(httpapi.Reads, string(r.UserID))
}
