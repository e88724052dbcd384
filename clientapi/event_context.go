package clientapi

import (
	"ebb/history"
	"ebb/httpapi"
)

func (a *API) eventContextRoutes() []httpapi.Route {
	return []httpapi.Route{
		roomRoute("GET", "/rooms/{roomId}/context/{eventId}", "getEventContext", "event_context.yaml", httpapi.Reads, a.getEventContext),
	}
}

// getEventContext returns an event and the events around it.
// Spec: client-server-api#get_matrixclientv3roomsroomidcontexteventid
func (a *API) getEventContext(r *httpapi.Request) (any, error) {
	limit, err := r.QueryInt("limit", defaultPage, 0, history.MaxPage)
	if err != nil {
		return nil, err
	}
	filter, err := history.ParseEventFilter(r.Query("filter"))
	if err != nil {
		return nil, err
	}
	around, err := a.History.EventContext(r.Context(), roomID(r), eventID(r), r.Requester, int(limit), filter)
	if err != nil {
		return nil, err
	}
	var o object
	o.text("start", around.Start)
	o.text("end", around.End)
	o.array("events_before", around.EventsBefore)
	o.member("event", around.Event)
	o.array("events_after", around.EventsAfter)
	o.array("state", around.State)
	return o.close(), nil
}
