package clientapi

import (
	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) roomUpgradesRoutes() []httpapi.Route {
	return []httpapi.Route{roomRoute("POST", "/rooms/{roomId}/upgrade", "upgradeRoom", "room_upgrades.yaml", httpapi.Joins, a.upgradeRoom)}
}

// upgradeRoom replaces a room by a new one of another version.
// Spec: client-server-api#post_matrixclientv3roomsroomidupgrade
func (a *API) upgradeRoom(r *httpapi.Request) (any, error) {
	var body struct {
		NewVersion         id.RoomVersion `json:"new_version"`
		AdditionalCreators []id.UserID    `json:"additional_creators"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.NewVersion == "" {
		return nil, mxerr.MissingParam("new_version is missing")
	}
	room, err := a.Rooms.Upgrade(r.Context(), r.Requester, roomID(r), body.NewVersion, body.AdditionalCreators)
	return map[string]id.RoomID{"replacement_room": room}, err
}
