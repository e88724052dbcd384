package clientapi

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) tagsRoutes() []httpapi.Route {
	const file, path = "tags.yaml", "/user/{userId}/rooms/{roomId}/tags"
	return []httpapi.Route{
		roomRoute("GET", path, "getRoomTags", file, httpapi.Reads, own(a.getRoomTags)),
		roomRoute("PUT", path+"/{tag}", "setRoomTag", file, httpapi.Sends, own(a.setRoomTag)),
		roomRoute("DELETE", path+"/{tag}", "deleteRoomTag", file, httpapi.Sends, own(a.deleteRoomTag)),
	}
}

// own returns a handler that serves requests only if the path names the requesting user.
func own(h func(*httpapi.Request) (any, error)) func(*httpapi.Request) (any, error) {
	return func(r *httpapi.Request) (any, error) {
		if id.UserID(r.Var("userId")) != r.UserID {
			return nil, mxerr.Forbidden("You can only access your own data")
		}
		return h(r)
	}
}

// getRoomTags lists the user's tags of a room.
// Spec: client-server-api#get_matrixclientv3useruseridroomsroomidtags
func (a *API) getRoomTags(r *httpapi.Request) (any, error) {
	tags, err := a.AccountData.Tags(r.Context(), r.UserNID, roomID(r))
	return map[string]any{"tags": tags}, err
}

// setRoomTag tags a room.
// Spec: client-server-api#put_matrixclientv3useruseridroomsroomidtagstag
func (a *API) setRoomTag(r *httpapi.Request) (any, error) {
	var content json.RawMessage
	if err := r.Decode(&content); err != nil {
		return nil, err
	}
	return nil, a.AccountData.PutTag(r.Context(), r.UserNID, roomID(r), r.Var("tag"), content)
}

// deleteRoomTag removes a tag from a room.
// Spec: client-server-api#delete_matrixclientv3useruseridroomsroomidtagstag
func (a *API) deleteRoomTag(r *httpapi.Request) (any, error) {
	return nil, a.AccountData.DeleteTag(r.Context(), r.UserNID, roomID(r), r.Var("tag"))
}
