package storage

import "ebb/ident"

// BackupVersion is one version of a user's server-side key backup.
type BackupVersion struct {
	Version   int64
	Algorithm string
	AuthData  string // JSON
	ETag      int64
}

const addBackupVersionQuery = `INSERT INTO backup_versions (user_nid, version, algorithm, auth_data, etag)
SELECT $1, coalesce(max(version), 0) + 1, $2, $3, 0 FROM backup_versions WHERE user_nid = $1`

// AddBackupVersion creates a backup and returns its version. Version numbers of deleted backups are not used again.
func (tx *Tx) AddBackupVersion(user ident.UserNID, algorithm, authData string) (int64, error) {
	if _, err := tx.exec(addBackupVersionQuery, int64(user), algorithm, authData); err != nil {
		return 0, err
	}
	v, _, err := tx.LatestBackup(user)
	return v.Version, err
}

const backupColumns = `SELECT version, algorithm, auth_data, etag FROM backup_versions WHERE user_nid = $1 AND deleted = 0 `

func scanBackupVersion(r Row) (v BackupVersion, err error) {
	err = r.Scan(&v.Version, &v.Algorithm, &v.AuthData, &v.ETag)
	return v, err
}

// LatestBackup returns a user's current backup.
func (tx *Tx) LatestBackup(user ident.UserNID) (BackupVersion, bool, error) {
	return one(tx, scanBackupVersion, backupColumns+`ORDER BY version DESC LIMIT 1`, int64(user))
}

// Backup returns one backup of a user.
func (tx *Tx) Backup(user ident.UserNID, version int64) (BackupVersion, bool, error) {
	return one(tx, scanBackupVersion, backupColumns+`AND version = $2`, int64(user), version)
}

// SetBackupAuthData replaces the auth_data of a backup.
func (tx *Tx) SetBackupAuthData(user ident.UserNID, version int64, authData string) error {
	_, err := tx.exec(`UPDATE backup_versions SET auth_data = $3 WHERE user_nid = $1 AND version = $2`, int64(user), version, authData)
	return err
}

// Keys and versions count 128 bytes more than their texts, which is about what a row takes.
const backupBytesQuery = `SELECT coalesce(sum(bytes + octet_length(auth_data) + 128), 0) FROM backup_versions WHERE user_nid = $1`

// BackupBytes returns the size of all backups of a user, in bytes. It uses the primary key.
func (tx *Tx) BackupBytes(user ident.UserNID) (n int64, err error) {
	n, _, err = one(tx, scanNumber[int64], backupBytesQuery, int64(user))
	return n, err
}

// addBackupBytes adds change, which may be negative, to the recorded size of a backup.
func (tx *Tx) addBackupBytes(user ident.UserNID, version, change int64) error {
	_, err := tx.exec(`UPDATE backup_versions SET bytes = bytes + $3 WHERE user_nid = $1 AND version = $2`, int64(user), version, change)
	return err
}

// DeleteBackup deletes a backup without keys. The row of the newest backup stays, because its number counts.
func (tx *Tx) DeleteBackup(user ident.UserNID, version int64) error {
	_, err := tx.exec(`UPDATE backup_versions SET deleted = 1, auth_data = '{}' WHERE user_nid = $1 AND version = $2`, int64(user), version)
	if err == nil {
		_, err = tx.exec(`DELETE FROM backup_versions WHERE user_nid = $1 AND deleted = 1
AND version < (SELECT max(version) FROM backup_versions WHERE user_nid = $1)`, int64(user))
	}
	return err
}

// TouchBackup changes the etag of a backup.
func (tx *Tx) TouchBackup(user ident.UserNID, version int64) error {
	_, err := tx.exec(`UPDATE backup_versions SET etag = etag + 1 WHERE user_nid = $1 AND version = $2`, int64(user), version)
	return err
}

// CountBackupKeys returns the number of sessions in a backup.
func (tx *Tx) CountBackupKeys(user ident.UserNID, version int64) (n int64, err error) {
	n, _, err = one(tx, scanNumber[int64], `SELECT count(*) FROM backup_keys WHERE user_nid = $1 AND version = $2`, int64(user), version)
	return n, err
}

// BackupKey is the key of one session in a backup.
type BackupKey struct {
	RoomID, SessionID string
	FirstMessageIndex int64
	ForwardedCount    int64
	IsVerified        bool
	SessionData       string // JSON
}

// Size returns the number of bytes that the key contributes to the size of its backup.
func (k *BackupKey) Size() int64 {
	return int64(128 + len(k.RoomID) + len(k.SessionID) + len(k.SessionData))
}

func scanBackupKey(r Row) (k BackupKey, err error) {
	var verified int64
	err = r.Scan(&k.RoomID, &k.SessionID, &k.FirstMessageIndex, &k.ForwardedCount, &verified, &k.SessionData)
	k.IsVerified = verified != 0
	return k, err
}

const backupKeysQuery = `SELECT room_id, session_id, first_message_index, forwarded_count, is_verified, session_data FROM backup_keys
WHERE user_nid = $1 AND version = $2 AND ($3 = '' OR room_id = $3) AND ($4 = '' OR session_id = $4) ORDER BY room_id, session_id`

// BackupKeys lists the sessions in a backup. An empty room or session matches all. Callers that do not name a session
// use BackupKeysAfter, because a backup may be large.
func (tx *Tx) BackupKeys(user ident.UserNID, version int64, room, session string) ([]BackupKey, error) {
	return collect(tx, scanBackupKey, backupKeysQuery, int64(user), version, room, session)
}

const backupKeysAfterQuery = `SELECT room_id, session_id, first_message_index, forwarded_count, is_verified, session_data FROM backup_keys
WHERE user_nid = $1 AND version = $2 AND ($3 = '' OR room_id = $3) AND (room_id, session_id) > ($4, $5) ORDER BY room_id, session_id LIMIT $6`

// BackupKeysAfter returns a page of the sessions in a backup, or of one room in it: at most limit of those after a
// session. It uses the primary key.
func (tx *Tx) BackupKeysAfter(user ident.UserNID, version int64, room string, after BackupKey, limit int) ([]BackupKey, error) {
	return collect(tx, scanBackupKey, backupKeysAfterQuery, int64(user), version, room, after.RoomID, after.SessionID, limit)
}

const setBackupKeyQuery = `INSERT INTO backup_keys (user_nid, version, room_id, session_id, first_message_index, forwarded_count, is_verified, session_data)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (user_nid, version, room_id, session_id) DO UPDATE SET first_message_index = excluded.first_message_index,
    forwarded_count = excluded.forwarded_count, is_verified = excluded.is_verified, session_data = excluded.session_data`

// SetBackupKey stores the key of one session in a backup. replaced is the size of the key that it replaces, or 0 if
// there is none.
func (tx *Tx) SetBackupKey(user ident.UserNID, version int64, k BackupKey, replaced int64) error {
	if _, err := tx.exec(setBackupKeyQuery, int64(user), version, k.RoomID, k.SessionID, k.FirstMessageIndex, k.ForwardedCount, k.IsVerified, k.SessionData); err != nil {
		return err
	}
	return tx.addBackupBytes(user, version, k.Size()-replaced)
}

const someBackupKeys = ` FROM backup_keys WHERE user_nid = $1 AND version = $2 AND ($3 = '' OR room_id = $3) AND ($4 = '' OR session_id = $4)
ORDER BY room_id, session_id LIMIT $5)`

const backupKeysSizeQuery = `SELECT coalesce(sum(128 + octet_length(room_id) + octet_length(session_id) + octet_length(session_data)), 0)
FROM (SELECT room_id, session_id, session_data` + someBackupKeys + ` AS matching`

const deleteBackupKeysQuery = `DELETE FROM backup_keys WHERE user_nid = $1 AND version = $2 AND (room_id, session_id) IN (SELECT room_id, session_id` + someBackupKeys

// DeleteBackupKeys deletes up to limit sessions of a backup and returns their number. Empty names match all.
func (tx *Tx) DeleteBackupKeys(user ident.UserNID, version int64, room, session string, limit int) (int64, error) {
	size, _, err := one(tx, scanNumber[int64], backupKeysSizeQuery, int64(user), version, room, session, limit)
	if err != nil {
		return 0, err
	}
	n, err := tx.exec(deleteBackupKeysQuery, int64(user), version, room, session, limit)
	if err != nil || n == 0 {
		return 0, err
	}
	return n, tx.addBackupBytes(user, version, -size)
}
