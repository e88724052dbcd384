package clientapi

import (
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"

	"ebb/feed"
	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) syncRoutes() []httpapi.Route {
	return []httpapi.Route{{
		Method: "GET", Path: "/_matrix/client/v3/sync", Aliases: []string{"/_matrix/client/r0/sync"},
		OperationID: "sync", File: "sync.yaml", Auth: httpapi.User, Handler: a.sync,
	}}
}

// sync tells the client what is new to it.
// Spec: client-server-api#get_matrixclientv3sync
func (a *API) sync(r *httpapi.Request) (any, error) {
	q := syncQuery{Values: r.URL.Query()}
	request := feed.SyncRequest{
		Viewer: viewer(r), Filter: q.Get("filter"), Since: q.Get("since"), SetPresence: q.Get("set_presence"),
		FullState: q.boolean("full_state"), Timeout: q.milliseconds("timeout"),
		StateAfter: q.boolean("use_state_after"), UnstableStateAfter: q.boolean("org.matrix.msc4222.use_state_after"),
	}
	if q.err != nil {
		return nil, q.err
	}
	return a.Feed.Sync(r.Context(), request)
}

// viewer is who asks, for the feed.
func viewer(r *httpapi.Request) feed.Viewer {
	return feed.Viewer{NID: r.UserNID, ID: r.UserID, Device: r.DeviceNID}
}

// syncQuery reads the parameters of /sync, parsed once, and keeps the first mistake.
type syncQuery struct {
	url.Values
	err error
}

func (q *syncQuery) boolean(name string) bool {
	switch q.Get(name) {
	case "", "false":
		return false
	case "true":
		return true
	}
	q.err = mxerr.InvalidParam("%s must be true or false", name)
	return false
}

// milliseconds reads a duration; one too large for a number is as good as the longest.
func (q *syncQuery) milliseconds(name string) time.Duration {
	text := q.Get(name)
	if text == "" {
		return 0
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	if errors.Is(err, strconv.ErrRange) && !strings.HasPrefix(text, "-") {
		return time.Hour
	}
	if err != nil || ms < 0 {
		q.err = mxerr.InvalidParam("%s must be a number of milliseconds", name)
		return 0
	}
	return time.Duration(min(ms, time.Hour.Milliseconds())) * time.Millisecond
}
