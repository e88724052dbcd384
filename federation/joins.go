package federation

import (
	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
	"ebb/rooms"
)

func (a *API) joinsRoutes() []httpapi.Route {
	return []httpapi.Route{
		route("GET", v1+"/make_join/{roomId}/{userId}", "makeJoin", "joins-v1.yaml", a.makeJoin),
		route("PUT", v2+"/send_join/{roomId}/{eventId}", "sendJoinV2", "joins-v2.yaml", a.sendJoinV2),
		route("PUT", v1+"/send_join/{roomId}/{eventId}", "sendJoinV1", "", a.sendJoinV1),
	}
}

// makeJoin returns the template of a join event.
// Spec: server-server-api#get_matrixfederationv1make_joinroomiduserid
func (a *API) makeJoin(r *httpapi.Request) (any, error) {
	return a.template(r, rooms.Join, versions(r))
}

// versions returns the room versions that the other server supports. The default is version 1.
func versions(r *httpapi.Request) []id.RoomVersion {
	var out []id.RoomVersion
	for _, v := range r.QueryAll("ver") {
		out = append(out, id.RoomVersion(v))
	}
	if out == nil {
		out = []id.RoomVersion{id.RoomV1}
	}
	return out
}

func (a *API) template(r *httpapi.Request, membership rooms.Membership, versions []id.RoomVersion) (any, error) {
	return answer(a.Rooms.Template(r.Context(), r.Server, roomID(r), id.UserID(r.Var("userId")), membership, versions))
}

// answer returns v, or a nil response if there is an error, so that handlers need not check for one.
func answer[T any](v T, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return v, nil
}

// handshake parses the membership event in a request.
func handshake(r *httpapi.Request) (h rooms.Handshake, err error) {
	h = rooms.Handshake{Origin: r.Server, Room: roomID(r), Event: eventID(r)}
	if err := r.DecodeEvents(&h.PDU); err != nil {
		return h, err
	}
	h.OmitMembers, err = r.QueryBool("omit_members", false)
	return h, err
}

// sendJoinV2 receives a join and returns the state of the room.
// Spec: server-server-api#put_matrixfederationv2send_joinroomideventid
func (a *API) sendJoinV2(r *httpapi.Request) (any, error) {
	h, err := handshake(r)
	if err != nil {
		return nil, err
	}
	join, err := a.Rooms.AcceptJoin(r.Context(), h)
	if err != nil {
		return nil, err
	}
	if err := r.ReserveAnswer(joinAnswer); err != nil {
		return nil, err
	}
	return answer(a.History.JoinAnswer(r.Context(), join))
}

// joinAnswer is the number of bytes reserved for the response to a join before its size is known. It is more than a
// room with 5,000 members needs.
const joinAnswer = 8 << 20

// sendJoinV1 is the earlier form of sendJoinV2, which some servers still try first.
func (a *API) sendJoinV1(r *httpapi.Request) (any, error) {
	joined, err := a.sendJoinV2(r)
	return []any{200, joined}, err
}
