package clientapi

import (
	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
	"ebb/receipts"
	"ebb/rooms"
)

func (a *API) readMarkersRoutes() []httpapi.Route {
	return []httpapi.Route{
		roomRoute("POST", "/rooms/{roomId}/read_markers", "setReadMarker", "read_markers.yaml", httpapi.Sends, a.setReadMarker),
	}
}

// setReadMarker sets the fully-read marker and read receipts together.
// Spec: client-server-api#post_matrixclientv3roomsroomidread_markers
func (a *API) setReadMarker(r *httpapi.Request) (any, error) {
	var body struct {
		FullyRead id.EventID `json:"m.fully_read"`
		Read      id.EventID `json:"m.read"`
		Private   id.EventID `json:"m.read.private"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	var markers []receipts.Marker
	for _, m := range []receipts.Marker{
		{Type: rooms.FullyRead, Event: body.FullyRead}, {Type: rooms.ReadReceipt, Event: body.Read}, {Type: rooms.PrivateReadReceipt, Event: body.Private},
	} {
		if m.Event != "" {
			markers = append(markers, m)
		}
	}
	return nil, a.Receipts.Set(r.Context(), r.Requester, roomID(r), markers...)
}
