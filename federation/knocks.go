package federation

import (
	"ebb/httpapi"
	"ebb/rooms"
)

func (a *API) knocksRoutes() []httpapi.Route {
	return []httpapi.Route{
		route("GET", v1+"/make_knock/{roomId}/{userId}", "makeKnock", "knocks.yaml", a.makeKnock),
		route("PUT", v1+"/send_knock/{roomId}/{eventId}", "sendKnock", "knocks.yaml", a.sendKnock),
	}
}

// makeKnock returns the template of a knock event.
// Spec: server-server-api#get_matrixfederationv1make_knockroomiduserid
func (a *API) makeKnock(r *httpapi.Request) (any, error) {
	return a.template(r, rooms.Knock, versions(r))
}

// sendKnock receives a knock.
// Spec: server-server-api#put_matrixfederationv1send_knockroomideventid
func (a *API) sendKnock(r *httpapi.Request) (any, error) {
	h, err := handshake(r)
	if err != nil {
		return nil, err
	}
	stripped, err := a.Rooms.AcceptKnock(r.Context(), h)
	if err != nil {
		return nil, err
	}
	return map[string]any{"knock_room_state": stripped}, r.ReserveAnswer(knockAnswer)
}

// knockAnswer is the number of bytes reserved for the response to a knock, which has seven state events.
const knockAnswer = 512 << 10
