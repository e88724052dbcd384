package clientapi

import (
	"ebb/httpapi"
)

func (a *API) redactionRoutes() []httpapi.Route {
	return []httpapi.Route{
		roomRoute("PUT", "/rooms/{roomId}/redact/{eventId}/{txnId}", "redactEvent", "redaction.yaml", httpapi.Sends, a.redactEvent),
	}
}

// redactEvent removes an event's content.
// Spec: client-server-api#put_matrixclientv3roomsroomidredacteventidtxnid
func (a *API) redactEvent(r *httpapi.Request) (any, error) {
	var body struct {
		Reason string `json:"reason"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	sent, err := a.Rooms.Redact(r.Context(), sender(r), roomID(r), eventID(r), body.Reason, txn(r))
	return sentEvent(sent, err)
}
