package clientapi

import (
	"encoding/json"
	"math"
	"strconv"

	"ebb/httpapi"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/pdu"
)

func (a *API) roomSendRoutes() []httpapi.Route {
	return []httpapi.Route{
		roomRoute("PUT", "/rooms/{roomId}/send/{eventType}/{txnId}", "sendMessage", "room_send.yaml", httpapi.Sends, a.sendMessage),
		roomRoute("POST", "/rooms/{roomId}/send/{eventType}", "postMessage", "", httpapi.Sends, a.postMessage),
	}
}

// sendMessage sends a message event to a room.
// Spec: client-server-api#put_matrixclientv3roomsroomidsendeventtypetxnid
func (a *API) sendMessage(r *httpapi.Request) (any, error) {
	return a.send(r, rooms.NewEvent{Txn: txn(r)})
}

// postMessage is like sendMessage, but without a transaction ID: a form from before r0.0.0. A repeated request sends
// another event.
func (a *API) postMessage(r *httpapi.Request) (any, error) {
	return a.send(r, rooms.NewEvent{})
}

// send completes an event with values from the request and sends it to the room.
func (a *API) send(r *httpapi.Request, n rooms.NewEvent) (any, error) {
	if r.Query(delayParam) != "" {
		return a.scheduleSend(r, n)
	}
	if err := r.Decode(&n.Content); err != nil {
		return nil, err
	}
	n.Room, n.Sender, n.Type = roomID(r), r.Requester, r.Var("eventType")
	var err error
	if n.Timestamp, err = timestamp(r); err != nil {
		return nil, err
	}
	if n.StickyMS, err = stickyMS(r); err != nil {
		return nil, err
	}
	sent, err := a.Rooms.Send(r.Context(), n)
	return sentEvent(sent, err)
}

// timestamp returns the timestamp that an application service sets for an event, or 0 for other senders.
// Spec: application-service-api#timestamp-massaging
func timestamp(r *httpapi.Request) (int64, error) {
	if r.AppService == "" {
		return 0, nil
	}
	return r.QueryInt("ts", 0, 0, math.MaxInt64)
}

// stickyParam is the unstable name of the parameter of the query that makes an event sticky.
const stickyParam = "org.matrix.msc4354.sticky_duration_ms"

// stickyMS returns for how many milliseconds an event is to be sticky. It returns nil if the client does not ask for a
// sticky event.
// Spec: MSC4354
func stickyMS(r *httpapi.Request) (*int64, error) {
	text := r.Query(stickyParam)
	if text == "" {
		return nil, nil
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil || ms < 0 || ms > pdu.MaxSticky.Milliseconds() {
		return nil, mxerr.InvalidParam("%s must be an integer from 0 to %d", stickyParam, pdu.MaxSticky.Milliseconds())
	}
	return &ms, nil
}

// sentEvent returns the response of operations that send an event.
func sentEvent[T ~string](sent T, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	// Event IDs need no escaping, so the busiest operation does without an encoder.
	body := append(make([]byte, 0, len(sent)+16), `{"event_id":`...)
	return json.RawMessage(append(appendText(body, string(sent)), '}')), nil
}
