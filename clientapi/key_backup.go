package clientapi

import (
	"encoding/json"
	"net/http"

	"maunium.net/go/mautrix/id"

	"ebb/e2ee"
	"ebb/httpapi"
)

func (a *API) keyBackupRoutes() []httpapi.Route {
	const version, keys = "/_matrix/client/v3/room_keys/version", "/_matrix/client/v3/room_keys/keys"
	const room, session = keys + "/{roomId}", keys + "/{roomId}/{sessionId}"
	const maxKeys = 16 << 20 // a complete backup in one request
	route := func(method, path, operation string, h func(*httpapi.Request) (any, error)) httpapi.Route {
		return httpapi.Route{Method: method, Path: path, OperationID: operation, File: "key_backup.yaml", Auth: httpapi.User, Rate: rateOf(method), MaxBody: maxKeys, Handler: h}
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

// putKeys stores sessions in the backup version that the query parameter version names.
func (a *API) putKeys(r *httpapi.Request, rooms e2ee.BackupRooms) (any, error) {
	if r.Query("version") == "" {
		return nil, missing("version")
	}
	return a.E2EE.PutBackupKeys(r.Context(), r.UserNID, r.Query("version"), rooms)
}

// readKeys returns a reader of the backup version that the query parameter version names. If the path has a room, the
// reader returns only the sessions of that room.
func (a *API) readKeys(r *httpapi.Request) (*e2ee.BackupReader, error) {
	if r.Query("version") == "" {
		return nil, missing("version")
	}
	return a.E2EE.ReadBackup(r.Context(), r.UserNID, r.Query("version"), id.RoomID(r.Var("roomId")))
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
	if r.Query("version") == "" {
		return nil, missing("version")
	}
	return a.E2EE.BackupSession(r.Context(), r.UserNID, r.Query("version"), id.RoomID(r.Var("roomId")), r.Var("sessionId"))
}

// getRoomKeysByRoomID returns the sessions of one room.
// Spec: client-server-api#get_matrixclientv3room_keyskeysroomid
func (a *API) getRoomKeysByRoomID(r *httpapi.Request) (any, error) {
	return a.streamKeys(r, false)
}

// getRoomKeys returns all sessions.
// Spec: client-server-api#get_matrixclientv3room_keyskeys
func (a *API) getRoomKeys(r *httpapi.Request) (any, error) {
	return a.streamKeys(r, true)
}

// streamKeys sends sessions page by page: those of one room as {"sessions":…}, or those of all rooms as
// {"rooms":{room:{"sessions":…}}}.
func (a *API) streamKeys(r *httpapi.Request, byRoom bool) (any, error) {
	reader, err := a.readKeys(r)
	if err != nil {
		return nil, err
	}
	page, err := reader.Next(r.Context()) // nothing has been written yet, so an error can still be returned
	if err != nil {
		return nil, err
	}
	return httpapi.Stream(func(w http.ResponseWriter, hr *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		out := keyWriter{byRoom: byRoom}
		out.begin()
		for len(page) > 0 {
			if out.add(page) != nil || out.flush(w) != nil {
				panic(http.ErrAbortHandler) // aborts the response, so that the client notices that it is incomplete
			}
			if page, err = reader.Next(hr.Context()); err != nil {
				panic(http.ErrAbortHandler)
			}
		}
		out.end()
		if out.flush(w) != nil {
			panic(http.ErrAbortHandler)
		}
	}), nil
}

// keyWriter builds the JSON of streamKeys.
type keyWriter struct {
	byRoom bool
	room   id.RoomID // the room whose sessions are being written
	opened bool      // whether the sessions object has members already
	buf    []byte
}

func (k *keyWriter) begin() {
	if k.byRoom {
		k.buf = append(k.buf, `{"rooms":{`...)
		return
	}
	k.buf = append(k.buf, `{"sessions":{`...)
}

func (k *keyWriter) add(page []e2ee.StoredSession) error {
	for i := range page {
		s := &page[i]
		if k.byRoom && s.Room != k.room {
			if k.room != "" {
				k.buf = append(k.buf, `}},`...)
			}
			k.buf = append(appendText(k.buf, string(s.Room)), `:{"sessions":{`...)
			k.room, k.opened = s.Room, false
		}
		if k.opened {
			k.buf = append(k.buf, ',')
		}
		k.opened = true
		raw, err := json.Marshal(s.BackupSession)
		if err != nil {
			return err
		}
		k.buf = append(append(appendText(k.buf, s.Session), ':'), raw...)
	}
	return nil
}

func (k *keyWriter) end() {
	if k.byRoom && k.room != "" {
		k.buf = append(k.buf, `}}`...)
	}
	k.buf = append(k.buf, `}}`...)
}

func (k *keyWriter) flush(w http.ResponseWriter) error {
	_, err := w.Write(k.buf)
	k.buf = k.buf[:0]
	return err
}

// deleteRoomKeys deletes one session, those of a room, or all.
// Spec: client-server-api#delete_matrixclientv3room_keyskeys
func (a *API) deleteRoomKeys(r *httpapi.Request) (any, error) {
	if r.Query("version") == "" {
		return nil, missing("version")
	}
	return a.E2EE.DeleteBackupKeys(r.Context(), r.UserNID, r.Query("version"), id.RoomID(r.Var("roomId")), r.Var("sessionId"))
}
