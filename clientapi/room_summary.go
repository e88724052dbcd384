package clientapi

import (
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/directory"
	"ebb/httpapi"
	"ebb/rooms"
)

// unstableSummary is the path that clients used for summaries before Matrix v1.15.
const unstableSummary = "/_matrix/client/unstable/im.nheko.summary"

func (a *API) roomSummaryRoutes() []httpapi.Route {
	return []httpapi.Route{{
		Method: "GET", Path: "/_matrix/client/v1/room_summary/{roomIdOrAlias}",
		Aliases:     []string{unstableSummary + "/summary/{roomIdOrAlias}", unstableSummary + "/rooms/{roomIdOrAlias}/summary"},
		OperationID: "getRoomSummary", File: "room_summary.yaml", Auth: httpapi.Optional, Rate: httpapi.Reads, Handler: a.getRoomSummary,
	}}
}

// getRoomSummary returns a summary of a room to users who may join or read it.
// Spec: client-server-api#get_matrixclientv1room_summaryroomidoralias
func (a *API) getRoomSummary(r *httpapi.Request) (any, error) {
	room, membership, err := a.Directory.Summary(r.Context(), r.UserID, r.Var("roomIdOrAlias"), via(r))
	if err != nil {
		return nil, err
	}
	answer := struct {
		directory.RoomSummary
		Membership rooms.Membership `json:"membership,omitempty"`
		// The names that MSC3266 uses for two members, sent only at the MSC's path. A response must not contain both
		// names: parsers that treat them as aliases of one member reject it.
		OldEncryption  string         `json:"im.nheko.summary.encryption,omitempty"`
		OldRoomVersion id.RoomVersion `json:"im.nheko.summary.room_version,omitempty"`
	}{RoomSummary: *room}
	if strings.HasPrefix(r.URL.Path, unstableSummary) {
		answer.OldEncryption, answer.OldRoomVersion = room.Encryption, room.RoomVersion
		answer.Encryption, answer.RoomVersion = "", ""
	}
	if r.UserID != "" {
		answer.Membership = membership
	}
	return answer, nil
}
