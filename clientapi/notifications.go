package clientapi

import (
	"ebb/httpapi"
	"ebb/push"
)

func (a *API) notificationsRoutes() []httpapi.Route {
	return []httpapi.Route{roomRoute("GET", "/notifications", "getNotifications", "notifications.yaml", httpapi.Reads, a.getNotifications)}
}

// defaultNotifications is the default number of notifications on a page.
const defaultNotifications = 20

// getNotifications lists the events that the user was notified of.
// Spec: client-server-api#get_matrixclientv3notifications
func (a *API) getNotifications(r *httpapi.Request) (any, error) {
	limit, err := r.QueryInt("limit", defaultNotifications, 1, push.MaxNotifications)
	if err != nil {
		return nil, err
	}
	return a.Pushers.Notifications(r.Context(), r.Requester, r.Query("from"), int(limit), r.Query("only") == "highlight")
}
