package clientapi

import (
	"ebb/history"
	"ebb/httpapi"
)

func (a *API) messagePaginationRoutes() []httpapi.Route {
	return []httpapi.Route{
		roomRoute("GET", "/rooms/{roomId}/messages", "getRoomEvents", "message_pagination.yaml", httpapi.Reads, a.getRoomEvents),
	}
}

// defaultPage is the default number of events in a page.
const defaultPage = 10

// getRoomEvents returns a page of a room's timeline.
// Spec: client-server-api#get_matrixclientv3roomsroomidmessages
func (a *API) getRoomEvents(r *httpapi.Request) (any, error) {
	// Permission to read the room is checked before the parameters.
	if err := a.History.MayRead(r.Context(), roomID(r), r.Requester); err != nil {
		return nil, err
	}
	backwards, err := history.ParseDir(r.Query("dir"), "")
	if err != nil {
		return nil, err
	}
	limit, err := r.QueryInt("limit", defaultPage, 0, history.MaxPage)
	if err != nil {
		return nil, err
	}
	filter, err := history.ParseEventFilter(r.Query("filter"))
	if err != nil {
		return nil, err
	}
	if filter.Limit > 0 && r.Query("limit") == "" {
		limit = min(int64(filter.Limit), history.MaxPage)
	}
	page, err := a.History.Messages(r.Context(), roomID(r), r.Requester, history.PageRequest{
		From: r.Query("from"), To: r.Query("to"), Backwards: backwards, Limit: int(limit), Filter: filter,
	})
	if err != nil {
		return nil, err
	}
	var o object
	o.text("start", page.Start)
	o.text("end", page.End)
	o.array("chunk", page.Chunk)
	if len(page.State) > 0 {
		o.array("state", page.State)
	}
	return o.close(), nil
}
