package clientapi

import (
	"encoding/json"

	"ebb/history"
	"ebb/httpapi"
	"ebb/mxerr"
	"ebb/rooms"
)

func (a *API) roomsRoutes() []httpapi.Route {
	const file = "rooms.yaml"
	entry := roomRoute("GET", "/rooms/{roomId}/state/{eventType}/{stateKey}", "getRoomStateWithKey", file, httpapi.Reads, a.getRoomStateWithKey)
	entry.Aliases = append(entry.Aliases, emptyStateKey...)
	return []httpapi.Route{
		roomRoute("GET", "/rooms/{roomId}/event/{eventId}", "getOneRoomEvent", file, httpapi.Reads, a.getOneRoomEvent),
		entry,
		roomRoute("GET", "/rooms/{roomId}/state", "getRoomState", file, httpapi.Reads, a.getRoomState),
		roomRoute("GET", "/rooms/{roomId}/members", "getMembersByRoom", file, httpapi.Reads, a.getMembersByRoom),
		roomRoute("GET", "/rooms/{roomId}/joined_members", "getJoinedMembersByRoom", file, httpapi.Reads, a.getJoinedMembersByRoom),
	}
}

// emptyStateKey lists the paths of a state event with an empty state key. The slash before the key is optional.
var emptyStateKey = []string{
	clientV3 + "/rooms/{roomId}/state/{eventType}", clientV3 + "/rooms/{roomId}/state/{eventType}/",
	clientR0 + "/rooms/{roomId}/state/{eventType}", clientR0 + "/rooms/{roomId}/state/{eventType}/",
}

// getOneRoomEvent returns one event. With retention.redacted, moderators can ask for the content of a redacted one.
// Spec: client-server-api#get_matrixclientv3roomsroomideventeventid, MSC2815
func (a *API) getOneRoomEvent(r *httpapi.Request) (any, error) {
	if a.Config.Retention.Redacted > 0 {
		switch r.Query("fi.mau.msc2815.include_unredacted_content") {
		case "", "false":
		case "true":
			return a.getUnredactedEvent(r)
		default:
			return nil, mxerr.InvalidParam("fi.mau.msc2815.include_unredacted_content must be true or false")
		}
	}
	return orError(a.History.GetEvent(r.Context(), roomID(r), eventID(r), r.Requester))
}

// getUnredactedEvent returns one event with the content that it had before it was redacted. It counts as a request that
// sends something, since it adds a record to the audit log.
func (a *API) getUnredactedEvent(r *httpapi.Request) (any, error) {
	if err := r.Limit(httpapi.Sends, string(r.UserID)); err != nil {
		return nil, err
	}
	return orError(a.Moderation.Unredacted(r.Context(), r.Requester, roomID(r), eventID(r)))
}

// orError returns body, or an untyped nil if there is an error. A nil json.RawMessage is not equal to a nil any, and
// would hide the error.
func orError(body json.RawMessage, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return body, nil
}

// getRoomStateWithKey returns one state event of a room, or its content.
// Spec: client-server-api#get_matrixclientv3roomsroomidstateeventtypestatekey
func (a *API) getRoomStateWithKey(r *httpapi.Request) (any, error) {
	format := r.Query("format")
	if format != "" && format != "content" && format != "event" {
		return nil, mxerr.InvalidParam("format must be content or event")
	}
	return orError(a.History.StateEvent(r.Context(), roomID(r), r.Var("eventType"), r.Var("stateKey"), r.Requester, format == "event"))
}

// getRoomState returns all state events of a room.
// Spec: client-server-api#get_matrixclientv3roomsroomidstate
func (a *API) getRoomState(r *httpapi.Request) (any, error) {
	state, err := a.History.RoomState(r.Context(), roomID(r), r.Requester)
	if err != nil {
		return nil, err
	}
	return json.RawMessage(appendArray(nil, state)), nil
}

// appendArray appends a JSON array whose elements are JSON already.
func appendArray(dst []byte, list []json.RawMessage) []byte {
	dst = append(dst, '[')
	for i, value := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, value...)
	}
	return append(dst, ']')
}

// getMembersByRoom returns the member events of a room.
// Spec: client-server-api#get_matrixclientv3roomsroomidmembers
func (a *API) getMembersByRoom(r *httpapi.Request) (any, error) {
	req := history.MembersRequest{At: r.Query("at"), Membership: r.Query("membership"), NotMembership: r.Query("not_membership")}
	for _, m := range []string{req.Membership, req.NotMembership} {
		switch m {
		case "", rooms.Join, rooms.Invite, rooms.Knock, rooms.Leave, rooms.Ban:
		default:
			return nil, mxerr.InvalidParam("%q is not a membership", m[:min(len(m), 40)])
		}
	}
	members, err := a.History.GetMembers(r.Context(), roomID(r), r.Requester, req)
	if err != nil {
		return nil, err
	}
	var o object
	o.array("chunk", members)
	return o.close(), nil
}

// getJoinedMembersByRoom returns the profiles of the joined members of a room.
// Spec: client-server-api#get_matrixclientv3roomsroomidjoined_members
func (a *API) getJoinedMembersByRoom(r *httpapi.Request) (any, error) {
	who, err := a.memberFor(r)
	if err != nil {
		return nil, err
	}
	joined, err := a.History.JoinedMembers(r.Context(), roomID(r), who)
	if err != nil {
		return nil, err
	}
	var o object
	o.member("joined", joined)
	return o.close(), nil
}
