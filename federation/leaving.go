package federation

import (
	"ebb/httpapi"
	"ebb/rooms"
)

func (a *API) leavingRoutes() []httpapi.Route {
	return []httpapi.Route{
		route("GET", v1+"/make_leave/{roomId}/{userId}", "makeLeave", "leaving-v1.yaml", a.makeLeave),
		route("PUT", v2+"/send_leave/{roomId}/{eventId}", "sendLeaveV2", "leaving-v2.yaml", a.sendLeaveV2),
		route("PUT", v1+"/send_leave/{roomId}/{eventId}", "sendLeaveV1", "", a.sendLeaveV1),
	}
}

// makeLeave returns the template of a leave event.
// Spec: server-server-api#get_matrixfederationv1make_leaveroomiduserid
func (a *API) makeLeave(r *httpapi.Request) (any, error) { return a.template(r, rooms.Leave, nil) }

// sendLeaveV2 receives a leave.
// Spec: server-server-api#put_matrixfederationv2send_leaveroomideventid
func (a *API) sendLeaveV2(r *httpapi.Request) (any, error) {
	h, err := handshake(r)
	if err != nil {
		return nil, err
	}
	return nil, a.Rooms.AcceptLeave(r.Context(), h)
}

// sendLeaveV1 is the earlier form of sendLeaveV2.
func (a *API) sendLeaveV1(r *httpapi.Request) (any, error) {
	_, err := a.sendLeaveV2(r)
	return []any{200, map[string]any{}}, err
}
