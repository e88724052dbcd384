package clientapi

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/e2ee"
	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) keyBackupRoutes() []httpapi.Route {
	const version, keys = "/_matrix/client/v3/room_keys/version", "/_matrix/client/v3/room_keys/keys"
	const room, session = keys + "/{roomId}", keys + "/{roomId}/{sessionId}"
	const maxKeys = 16 << 20 // a complete backup in one request
	route := func(method, path, operation string, h func(*httpapi.Request) (any, error)) httpapi.Route {
		return httpapi.Route{Method: method, Path: path, OperationID: operation, File: "key_backup.yaml", Auth: httpapi.User, Rate: httpapi.Sends, MaxBody: maxKeys, Handler: h}
	}
	return []httpapi.Route{
		route("POST", version, "postRoomKeysVersion", a.postRoomKeysVersion),
		route("GET", version, "getRoomKeysVersionCurrent", a.getRoomKeysVersion),
		route("GET", version+"/{version}", "getRoomKeysVersion", a.getRoomKeysVersion),
		route("PUT", version+"/{version}", "putRoomKeysVersion", a.putRoomKeysVersion),
		route("DELETE", version+"/{version}", "deleteRoomKeysVersion", a.deleteRoomKeysVersion),
		route("PUT", session, "putRoomKeyBySessionId", a.putRoomKeyBySessionID),
		route("GET", session, "getRoomKeyBySessionId", a.getRoomKeyBySessionID),
		route("DELETE", session, "deleteRoomKeyBySessionId", a.deleteRoomKeys),
		route("PUT", room, "putRoomKeysByRoomId", a.putRoomKeysByRoomID),
		route("GET", room, "getRoomKeysByRoomId", a.getRoomKeysByRoomID),
		route("DELETE", room, "deleteRoomKeysByRoomId", a.deleteRoomKeys),
		route("PUT", keys, "putRoomKeys", a.putRoomKeys),
		route("GET", keys, "getRoomKeys", a.getRoomKeys),
		route("DELETE", keys, "deleteRoomKeys", a.deleteRoomKeys),
	}
}

type backupBody struct {
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Version   string          `json:"version"`
}

// postRoomKeysVersion creates a backup version.
// Spec: client-server-api#post_matrixclientv3room_keysversion
func (a *API) postRoomKeysVersion(r *httpapi.Request) (any, error) {
	var body backupBody
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	version, err := a.E2EE.CreateBackup(r.Context(), r.UserNID, body.Algorithm, body.AuthData)
	return map[string]string{"version": version}, err
}

// getRoomKeysVersion returns a backup version, or the current one if the path has none.
// Spec: client-server-api#get_matrixclientv3room_keysversion
func (a *API) getRoomKeysVersion(r *httpapi.Request) (any, error) {
	return a.E2EE.Backup(r.Context(), r.UserNID, r.Var("version"))
}

// putRoomKeysVersion replaces the auth data of a backup version.
// Spec: client-server-api#put_matrixclientv3room_keysversionversion
func (a *API) putRoomKeysVersion(r *httpapi.Request) (any, error) {
	var body backupBody
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	return nil, a.E2EE.UpdateBackup(r.Context(), r.UserNID, r.Var("version"), body.Algorithm, body.Version, body.AuthData)
}

// deleteRoomKeysVersion deletes a backup version.
// Spec: client-server-api#delete_matrixclientv3room_keysversionversion
func (a *API) deleteRoomKeysVersion(r *httpapi.Request) (any, error) {
	return nil, a.E2EE.DeleteBackup(r.Context(), r.UserNID, r.Var("version"))
}

// putKeys stores sessions in the version given in the query.
func (a *API) putKeys(r *httpapi.Request, rooms e2ee.BackupRooms) (any, error) {
	if r.Query("version") == "" {
		return nil, missing("version")
	}
	return a.E2EE.PutBackupKeys(r.Context(), r.UserNID, r.Query("version"), rooms)
}

// keys reads sessions of the version given in the query.
func (a *API) keys(r *httpapi.Request) (e2ee.BackupRooms, error) {
	if r.Query("version") == "" {
		return nil, missing("version")
	}
	return a.E2EE.BackupKeys(r.Context(), r.UserNID, r.Query("version"), id.RoomID(r.Var("roomId")), r.Var("sessionId"))
}

// putRoomKeyBySessionID backs up one session.
// Spec: client-server-api#put_matrixclientv3room_keyskeysroomidsessionid
func (a *API) putRoomKeyBySessionID(r *httpapi.Request) (any, error) {
	var body e2ee.BackupSession
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	return a.putKeys(r, e2ee.BackupRooms{id.RoomID(r.Var("roomId")): {r.Var("sessionId"): body}})
}

type roomSessions struct {
	Sessions map[string]e2ee.BackupSession `json:"sessions"`
}

// putRoomKeysByRoomID backs up sessions of one room.
// Spec: client-server-api#put_matrixclientv3room_keyskeysroomid
func (a *API) putRoomKeysByRoomID(r *httpapi.Request) (any, error) {
	var body roomSessions
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Sessions == nil {
		return nil, missing("sessions")
	}
	return a.putKeys(r, e2ee.BackupRooms{id.RoomID(r.Var("roomId")): body.Sessions})
}

// putRoomKeys backs up sessions of many rooms.
// Spec: client-server-api#put_matrixclientv3room_keyskeys
func (a *API) putRoomKeys(r *httpapi.Request) (any, error) {
	var body struct {
		Rooms map[id.RoomID]roomSessions `json:"rooms"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Rooms == nil {
		return nil, missing("rooms")
	}
	rooms := e2ee.BackupRooms{}
	for room, sessions := range body.Rooms {
		if sessions.Sessions == nil {
			return nil, missing("sessions")
		}
		rooms[room] = sessions.Sessions
	}
	return a.putKeys(r, rooms)
}

// getRoomKeyBySessionID returns one session.
// Spec: client-server-api#get_matrixclientv3room_keyskeysroomidsessionid
func (a *API) getRoomKeyBySessionID(r *httpapi.Request) (any, error) {
	rooms, err := a.keys(r)
	if err != nil {
		return nil, err
	}
	session, found := rooms[id.RoomID(r.Var("roomId"))][r.Var("sessionId")]
	if !found {
		return nil, mxerr.NotFound("The backup has no such session")
	}
	return session, nil
}

// getRoomKeysByRoomID returns the sessions of one room.
// Spec: client-server-api#get_matrixclientv3room_keyskeysroomid
func (a *API) getRoomKeysByRoomID(r *httpapi.Request) (any, error) {
	rooms, err := a.keys(r)
	return roomSessions{orEmpty(rooms[id.RoomID(r.Var("roomId"))])}, err
}

func orEmpty(m map[string]e2ee.BackupSession) map[string]e2ee.BackupSession {
	if m == nil {
		return map[string]e2ee.BackupSession{}
	}
	return m
}

// getRoomKeys returns all sessions.
// Spec: client-server-api#get_matrixclientv3room_keyskeys
func (a *API) getRoomKeys(r *httpapi.Request) (any, error) {
	rooms, err := a.keys(r)
	out := map[id.RoomID]roomSessions{}
	for room, sessions := range rooms {
		out[room] = roomSessions{sessions}
	}
	return map[string]any{"rooms": out}, err
}

// deleteRoomKeys deletes one session, those of a room, or all.
// Spec: client-server-api#delete_matrixclientv3room_keyskeys
func (a *API) deleteRoomKeys(r *httpapi.Request) (any, error) {
	if r.Query("version") == "" {
		return nil, missing("version")
	}
	return a.E2EE.DeleteBackupKeys(r.Context(), r.UserNID, r.Query("version"), id.RoomID(r.Var("roomId")), r.Var("sessionId"))
}
