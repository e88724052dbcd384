package e2ee

import (
	"context"
	"encoding/json"
	"strconv"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Backup describes a backup version.
type Backup struct {
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Count     int64           `json:"count"`
	ETag      string          `json:"etag"`
	Version   string          `json:"version"`
}

// BackupSession is one backed-up session.
type BackupSession struct {
	FirstMessageIndex *int64          `json:"first_message_index"`
	ForwardedCount    *int64          `json:"forwarded_count"`
	IsVerified        *bool           `json:"is_verified"`
	SessionData       json.RawMessage `json:"session_data"`
}

// check returns an error for a session with a missing or malformed member, which could break clients that read the
// backup.
func (d *BackupSession) check() error {
	if d.FirstMessageIndex == nil || d.ForwardedCount == nil || d.IsVerified == nil || isNull(d.SessionData) {
		return mxerr.MissingParam("first_message_index, forwarded_count, is_verified and session_data are required")
	}
	if *d.FirstMessageIndex < 0 || *d.ForwardedCount < 0 {
		return mxerr.InvalidParam("first_message_index and forwarded_count must not be negative")
	}
	if err := bounded("session_data", len(d.SessionData), maxBackupSession); err != nil {
		return err
	}
	_, err := object("session_data", d.SessionData)
	return err
}

// BackupRooms maps room → session id → session.
type BackupRooms map[id.RoomID]map[string]BackupSession

// BackupChange is the answer to a change of a backup's keys.
type BackupChange struct {
	Count int64  `json:"count"`
	ETag  string `json:"etag"`
}

func noBackup() error { return mxerr.NotFound("There is no such key backup") }

// CreateBackup begins a new backup version, which becomes the current one.
// Spec: client-server-api#post_matrixclientv3room_keysversion
func (s *Service) CreateBackup(ctx context.Context, user ident.UserNID, algorithm string, authData json.RawMessage) (version string, err error) {
	if err := checkBackup(algorithm, authData); err != nil {
		return "", err
	}
	var v int64
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		v, err = tx.AddBackupVersion(user, algorithm, string(authData))
		return err
	})
	return strconv.FormatInt(v, 10), err
}

func checkBackup(algorithm string, authData json.RawMessage) error {
	if algorithm == "" || len(algorithm) > maxKeyID {
		return mxerr.MissingParam("algorithm is missing")
	}
	if isNull(authData) {
		return mxerr.MissingParam("auth_data is missing")
	}
	if err := bounded("auth_data", len(authData), maxKeyJSON); err != nil {
		return err
	}
	_, err := object("auth_data", authData)
	return err
}

// Backup describes one version, or the current one where version is empty.
//
// Errors: M_NOT_FOUND.
func (s *Service) Backup(ctx context.Context, user ident.UserNID, version string) (b Backup, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		v, err := findBackup(tx, user, version)
		if err != nil {
			return err
		}
		count, err := tx.CountBackupKeys(user, v.Version)
		b = Backup{Algorithm: v.Algorithm, AuthData: json.RawMessage(v.AuthData), Count: count, ETag: etag(v), Version: strconv.FormatInt(v.Version, 10)}
		return err
	})
	return b, err
}

func etag(v storage.BackupVersion) string { return strconv.FormatInt(v.ETag, 10) }

func findBackup(tx *storage.Tx, user ident.UserNID, version string) (v storage.BackupVersion, err error) {
	found := false
	if version == "" {
		v, found, err = tx.LatestBackup(user)
	} else if n, bad := strconv.ParseInt(version, 10, 64); bad == nil {
		v, found, err = tx.Backup(user, n)
	}
	if err == nil && !found {
		err = noBackup()
	}
	return v, err
}

// UpdateBackup replaces the auth data of a version; its algorithm and number stay.
// Spec: client-server-api#put_matrixclientv3room_keysversionversion
func (s *Service) UpdateBackup(ctx context.Context, user ident.UserNID, version, algorithm, bodyVersion string, authData json.RawMessage) error {
	if err := checkBackup(algorithm, authData); err != nil {
		return err
	}
	if bodyVersion != "" && bodyVersion != version {
		return mxerr.InvalidParam("version in the body must match the path")
	}
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		v, err := findBackup(tx, user, version)
		if err != nil {
			return err
		}
		if v.Algorithm != algorithm {
			return mxerr.InvalidParam("The algorithm of a backup cannot be changed")
		}
		return tx.SetBackupAuthData(user, v.Version, string(authData))
	})
}

// DeleteBackup removes a version with its keys.
// Spec: client-server-api#delete_matrixclientv3room_keysversionversion
func (s *Service) DeleteBackup(ctx context.Context, user ident.UserNID, version string) error {
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		v, err := findBackup(tx, user, version)
		if err != nil {
			return err
		}
		return tx.DeleteBackup(user, v.Version)
	})
}

// PutBackupKeys adds sessions to the current version. A session that is already stored is replaced only by a better
// one.
//
// Errors: M_NOT_FOUND; M_WRONG_ROOM_KEYS_VERSION with current_version where version is not the current one.
// Spec: client-server-api#put_matrixclientv3room_keyskeys
func (s *Service) PutBackupKeys(ctx context.Context, user ident.UserNID, version string, rooms BackupRooms) (change BackupChange, err error) {
	if err := checkSessions(rooms); err != nil {
		return change, err
	}
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		v, err := currentBackup(tx, user, version)
		if err != nil {
			return err
		}
		changed := false
		for room, sessions := range rooms {
			for session, data := range sessions {
				stored, err := putSession(tx, user, v.Version, room, session, data)
				if err != nil {
					return err
				}
				changed = changed || stored
			}
		}
		change, err = backupChange(tx, user, v.Version, changed)
		return err
	})
	return change, err
}

func checkSessions(rooms BackupRooms) error {
	for room, sessions := range rooms {
		for session, data := range sessions {
			if len(room) > maxKeyID || len(session) > maxKeyID {
				return mxerr.InvalidParam("Room and session IDs must not be longer than %d bytes", maxKeyID)
			}
			if err := data.check(); err != nil {
				return err
			}
		}
	}
	return nil
}

// currentBackup returns the version to write to, which must be the newest.
func currentBackup(tx *storage.Tx, user ident.UserNID, version string) (storage.BackupVersion, error) {
	v, found, err := tx.LatestBackup(user)
	switch {
	case err != nil:
		return v, err
	case !found:
		return v, noBackup()
	}
	if current := strconv.FormatInt(v.Version, 10); current != version {
		return v, mxerr.New(403, mxerr.CodeWrongRoomKeysVersion, "This is not the current version of the backup").With("current_version", current)
	}
	return v, nil
}

func putSession(tx *storage.Tx, user ident.UserNID, version int64, room id.RoomID, session string, data BackupSession) (stored bool, err error) {
	old, err := tx.BackupKeys(user, version, string(room), session)
	if err != nil {
		return false, err
	}
	k := storage.BackupKey{RoomID: string(room), SessionID: session, FirstMessageIndex: *data.FirstMessageIndex,
		ForwardedCount: *data.ForwardedCount, IsVerified: *data.IsVerified, SessionData: string(data.SessionData)}
	if len(old) > 0 && !better(k, old[0]) {
		return false, nil
	}
	return true, tx.SetBackupKey(user, version, k)
}

// better reports whether a session replaces the stored one: verified before unverified, then the lower first message
// index, then the lower forwarded count; otherwise the stored one stays.
// Spec: client-server-api#backup-algorithm-mmegolm_backupv1curve25519-aes-sha2, "Recovering keys"
func better(k, old storage.BackupKey) bool {
	switch {
	case k.IsVerified != old.IsVerified:
		return k.IsVerified
	case k.FirstMessageIndex != old.FirstMessageIndex:
		return k.FirstMessageIndex < old.FirstMessageIndex
	default:
		return k.ForwardedCount < old.ForwardedCount
	}
}

func backupChange(tx *storage.Tx, user ident.UserNID, version int64, changed bool) (BackupChange, error) {
	if changed {
		if err := tx.TouchBackup(user, version); err != nil {
			return BackupChange{}, err
		}
	}
	v, _, err := tx.Backup(user, version)
	if err != nil {
		return BackupChange{}, err
	}
	count, err := tx.CountBackupKeys(user, version)
	return BackupChange{Count: count, ETag: etag(v)}, err
}

// BackupKeys lists the sessions of a version; an empty room or session means all.
func (s *Service) BackupKeys(ctx context.Context, user ident.UserNID, version string, room id.RoomID, session string) (rooms BackupRooms, err error) {
	rooms = BackupRooms{}
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		v, err := findBackup(tx, user, version)
		if err != nil {
			return err
		}
		rows, err := tx.BackupKeys(user, v.Version, string(room), session)
		for _, k := range rows {
			r := id.RoomID(k.RoomID)
			if rooms[r] == nil {
				rooms[r] = map[string]BackupSession{}
			}
			rooms[r][k.SessionID] = BackupSession{FirstMessageIndex: &k.FirstMessageIndex, ForwardedCount: &k.ForwardedCount,
				IsVerified: &k.IsVerified, SessionData: json.RawMessage(k.SessionData)}
		}
		return err
	})
	return rooms, err
}

// DeleteBackupKeys removes sessions of a version; an empty room or session means all.
func (s *Service) DeleteBackupKeys(ctx context.Context, user ident.UserNID, version string, room id.RoomID, session string) (change BackupChange, err error) {
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		v, err := findBackup(tx, user, version)
		if err != nil {
			return err
		}
		n, err := tx.DeleteBackupKeys(user, v.Version, string(room), session)
		if err != nil {
			return err
		}
		change, err = backupChange(tx, user, v.Version, n > 0)
		return err
	})
	return change, err
}
