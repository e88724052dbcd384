package clientapi

import (
	"ebb/httpapi"
	"ebb/rooms/txns"
)

func (a *API) redactionRoutes() []httpapi.Route {
	return []httpapi.Route{
		roomRoute("PUT", "/rooms/{roomId}/redact/{eventId}/{txnId}", "redactEvent", "redaction.yaml", httpapi.Sends, a.redactEvent),
		roomRoute("POST", "/rooms/{roomId}/redact/{eventId}", "postRedaction", "", httpapi.Sends, a.postRedaction),
	}
}

// redactEvent redacts an event.
// Spec: client-server-api#put_matrixclientv3roomsroomidredacteventidtxnid
func (a *API) redactEvent(r *httpapi.Request) (any, error) {
	return a.redact(r, txn(r))
}

// postRedaction is like redactEvent, but without a transaction ID: a form from before r0.0.0.
func (a *API) postRedaction(r *httpapi.Request) (any, error) {
	return a.redact(r, nil)
}

func (a *API) redact(r *httpapi.Request, txn *txns.Txn) (any, error) {
	var body struct {
		Reason           string   `json:"reason"`
		WithRelTypes     []string `json:"with_rel_types"` // MSC3912
		OldWithRelations []string `json:"org.matrix.msc3912.with_relations"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	relTypes := append(body.WithRelTypes, body.OldWithRelations...)
	sent, err := a.Redactions.Redact(r.Context(), r.Requester, roomID(r), eventID(r), body.Reason, txn, relTypes)
	return sentEvent(sent, err)
}
