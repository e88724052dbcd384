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

// check returns an error if a field of the session is missing or malformed, because that could break clients that read
// the backup.
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

// BackupRooms maps room → session ID → session.
type BackupRooms map[id.RoomID]map[string]BackupSession

// BackupChange is the response to a change of the keys in a backup.
type BackupChange struct {
	Count int64  `json:"count"`
	ETag  string `json:"etag"`
}

func noBackup() error { return mxerr.NotFound("There is no such key backup") }

// CreateBackup creates a new backup version and makes it the current one.
// Spec: client-server-api#post_matrixclientv3room_keysversion
func (s *Service) CreateBackup(ctx context.Context, user ident.UserNID, algorithm string, authData json.RawMessage) (version string, err error) {
	if err := checkBackup(algorithm, authData); err != nil {
		return "", err
	}
	var v int64
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		if v, err = tx.AddBackupVersion(user, algorithm, string(authData)); err != nil {
			return err
		}
		return checkBackupSize(tx, user)
	})
	return strconv.FormatInt(v, 10), err
}

// maxBackups bounds the total size of a user's key backups, in bytes. A session takes about 700 bytes, so 300,000
// sessions fit.
const maxBackups = 256 << 20

// checkBackupSize returns an error if a write has made a user's backups too large.
//
// Errors: M_TOO_LARGE.
func checkBackupSize(tx *storage.Tx, user ident.UserNID) error {
	size, err := tx.BackupBytes(user)
	if err == nil && size > maxBackups {
		err = mxerr.TooLarge("Your key backups must not exceed %d bytes in total; delete the ones that you do not use", maxBackups)
	}
	return err
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

// Backup describes a version, or the current one if version is empty.
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

// UpdateBackup replaces the auth data of a version. The algorithm and the version number stay the same.
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
		if err := tx.SetBackupAuthData(user, v.Version, string(authData)); err != nil || len(authData) <= len(v.AuthData) {
			return err
		}
		return checkBackupSize(tx, user)
	})
}

// backupBatch is how many sessions one write stores or deletes: 200 take about 10 ms, and all other writes wait for it.
const backupBatch = 200

// DeleteBackup deletes the keys of a version, and then the version.
// Spec: client-server-api#delete_matrixclientv3room_keysversionversion
func (s *Service) DeleteBackup(ctx context.Context, user ident.UserNID, version string) error {
	return s.deleteKeys(ctx, user, version, "", "", func(tx *storage.Tx, v storage.BackupVersion, _ int64, last bool) error {
		if !last {
			return nil
		}
		return tx.DeleteBackup(user, v.Version)
	})
}

// deleteKeys deletes sessions of a version, in several writes. Each of them calls also with the number of sessions that
// it has deleted and whether it is the last one.
func (s *Service) deleteKeys(ctx context.Context, user ident.UserNID, version string, room id.RoomID, session string, also func(tx *storage.Tx, v storage.BackupVersion, n int64, last bool) error) error {
	for last := false; !last; {
		err := s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
			v, err := findBackup(tx, user, version)
			if err != nil {
				return err
			}
			n, err := tx.DeleteBackupKeys(user, v.Version, string(room), session, backupBatch)
			if err != nil {
				return err
			}
			last = n < backupBatch
			return also(tx, v, n, last)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// PutBackupKeys adds sessions to the current version, in several writes if there are many. It replaces a session that
// is already stored only by a better one.
//
// Errors: M_TOO_LARGE; M_NOT_FOUND; M_WRONG_ROOM_KEYS_VERSION with current_version if version is not the current one.
// Spec: client-server-api#put_matrixclientv3room_keyskeys
func (s *Service) PutBackupKeys(ctx context.Context, user ident.UserNID, version string, rooms BackupRooms) (change BackupChange, err error) {
	if err := checkSessions(rooms); err != nil {
		return change, err
	}
	var all []StoredSession
	for room, sessions := range rooms {
		for session, data := range sessions {
			all = append(all, StoredSession{Room: room, Session: session, BackupSession: data})
		}
	}
	for first := true; first || len(all) > 0; first = false {
		batch := all[:min(len(all), backupBatch)]
		all = all[len(batch):]
		err := s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
			v, err := currentBackup(tx, user, version)
			if err != nil {
				return err
			}
			return putSessions(tx, user, v.Version, batch)
		})
		if err != nil {
			return change, err
		}
	}
	return s.backupChange(ctx, user, version)
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

// currentBackup returns the version to write to. It returns an error unless that is the newest version.
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

// putSessions stores those of the sessions that are new or better than the stored ones.
func putSessions(tx *storage.Tx, user ident.UserNID, version int64, sessions []StoredSession) error {
	changed := false
	for _, one := range sessions {
		stored, err := putSession(tx, user, version, one.Room, one.Session, one.BackupSession)
		if err != nil {
			return err
		}
		changed = changed || stored
	}
	if !changed {
		return nil
	}
	if err := checkBackupSize(tx, user); err != nil {
		return err
	}
	return tx.TouchBackup(user, version)
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
	replaced := int64(0)
	if len(old) > 0 {
		replaced = old[0].Size()
	}
	return true, tx.SetBackupKey(user, version, k, replaced)
}

// better reports whether a session replaces the stored one. A verified session is better than an unverified one, then
// the lower first message index wins, then the lower forwarded count. If all are equal, the stored session stays.
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

// backupChange returns the response to a change. The sessions are counted outside of the write, since there may be
// many.
func (s *Service) backupChange(ctx context.Context, user ident.UserNID, version string) (BackupChange, error) {
	b, err := s.Backup(ctx, user, version)
	return BackupChange{Count: b.Count, ETag: b.ETag}, err
}

// BackupSession returns one session of a version.
//
// Errors: M_NOT_FOUND.
func (s *Service) BackupSession(ctx context.Context, user ident.UserNID, version string, room id.RoomID, session string) (found BackupSession, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		v, err := findBackup(tx, user, version)
		if err != nil {
			return err
		}
		rows, err := tx.BackupKeys(user, v.Version, string(room), session)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return mxerr.NotFound("The key backup does not have this session")
		}
		found = sessionOf(&rows[0])
		return nil
	})
	return found, err
}

func sessionOf(k *storage.BackupKey) BackupSession {
	return BackupSession{FirstMessageIndex: &k.FirstMessageIndex, ForwardedCount: &k.ForwardedCount,
		IsVerified: &k.IsVerified, SessionData: json.RawMessage(k.SessionData)}
}

// BackupReader reads the sessions of a backup page by page, because a backup may not fit into memory.
type BackupReader struct {
	svc     *Service
	user    ident.UserNID
	version int64
	room    id.RoomID // empty means all rooms
	after   storage.BackupKey
}

// backupPage is the number of sessions that are read at a time. A page has about 350 KiB, and 32 MiB at most.
const backupPage = 500

// ReadBackup returns a reader of the sessions of a version, or of one room in that version.
//
// Errors: M_NOT_FOUND.
func (s *Service) ReadBackup(ctx context.Context, user ident.UserNID, version string, room id.RoomID) (*BackupReader, error) {
	var v storage.BackupVersion
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		v, err = findBackup(tx, user, version)
		return err
	})
	return &BackupReader{svc: s, user: user, version: v.Version, room: room}, err
}

// StoredSession is a session together with its room and session ID.
type StoredSession struct {
	Room    id.RoomID
	Session string
	BackupSession
}

// Next returns the next sessions, ordered by room. It returns none at the end.
func (r *BackupReader) Next(ctx context.Context) ([]StoredSession, error) {
	var rows []storage.BackupKey
	err := r.svc.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.BackupKeysAfter(r.user, r.version, string(r.room), r.after, backupPage)
		return err
	})
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	r.after = storage.BackupKey{RoomID: rows[len(rows)-1].RoomID, SessionID: rows[len(rows)-1].SessionID}
	out := make([]StoredSession, len(rows))
	for i := range rows {
		out[i] = StoredSession{Room: id.RoomID(rows[i].RoomID), Session: rows[i].SessionID, BackupSession: sessionOf(&rows[i])}
	}
	return out, nil
}

// DeleteBackupKeys deletes sessions of a version. An empty room or session means all.
func (s *Service) DeleteBackupKeys(ctx context.Context, user ident.UserNID, version string, room id.RoomID, session string) (BackupChange, error) {
	err := s.deleteKeys(ctx, user, version, room, session, func(tx *storage.Tx, v storage.BackupVersion, n int64, _ bool) error {
		if n == 0 {
			return nil
		}
		return tx.TouchBackup(user, v.Version)
	})
	if err != nil {
		return BackupChange{}, err
	}
	return s.backupChange(ctx, user, version)
}
