package clientapi

import (
	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
	"ebb/rooms"
)

func (a *API) roomSummaryRoutes() []httpapi.Route {
	const unstable = "/_matrix/client/unstable/im.nheko.summary"
	return []httpapi.Route{{
		Method: "GET", Path: "/_matrix/client/v1/room_summary/{roomIdOrAlias}",
		Aliases:     []string{unstable + "/summary/{roomIdOrAlias}", unstable + "/rooms/{roomIdOrAlias}/summary"},
		OperationID: "getRoomSummary", File: "room_summary.yaml", Auth: httpapi.Optional, Rate: httpapi.Reads, Handler: a.getRoomSummary,
	}}
}

// getRoomSummary tells what a room shows of itself to those who may join or read it.
// Spec: client-server-api#get_matrixclientv1room_summaryroomidoralias
func (a *API) getRoomSummary(r *httpapi.Request) (any, error) {
	room, membership, err := a.Rooms.Summary(r.Context(), r.UserID, r.Var("roomIdOrAlias"), via(r))
	if err != nil {
		return nil, err
	}
	answer := struct {
		rooms.RoomSummary
		Membership rooms.Membership `json:"membership,omitempty"`
		// The names of MSC3266, by which clients of before Matrix v1.15 know two members.
		OldEncryption  string         `json:"im.nheko.summary.encryption,omitempty"`
		OldRoomVersion id.RoomVersion `json:"im.nheko.summary.room_version,omitempty"`
	}{RoomSummary: *room, OldEncryption: room.Encryption, OldRoomVersion: room.RoomVersion}
	if r.UserID != "" {
		answer.Membership = membership
	}
	return answer, nil
}
