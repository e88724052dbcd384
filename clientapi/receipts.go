package clientapi

import (
	"ebb/httpapi"
	"ebb/mxerr"
	"ebb/receipts"
)

func (a *API) receiptsRoutes() []httpapi.Route {
	return []httpapi.Route{
		roomRoute("POST", "/rooms/{roomId}/receipt/{receiptType}/{eventId}", "postReceipt", "receipts.yaml", httpapi.Sends, a.postReceipt),
	}
}

// postReceipt sets a read receipt of the user.
// Spec: client-server-api#post_matrixclientv3roomsroomidreceiptreceipttypeeventid
func (a *API) postReceipt(r *httpapi.Request) (any, error) {
	var body struct {
		ThreadID *string `json:"thread_id"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	m := receipts.Marker{Type: r.Var("receiptType"), Event: eventID(r)}
	if body.ThreadID != nil {
		if m.Thread = *body.ThreadID; m.Thread == "" {
			return nil, mxerr.InvalidParam("thread_id must not be empty")
		}
	}
	return nil, a.Receipts.Set(r.Context(), r.Requester, roomID(r), m)
}
