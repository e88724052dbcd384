package storage

import "ebb/ident"

// Media is a row of the content repository.
type Media struct {
	ID          string
	User        ident.UserNID
	Blob        string // name of the file; empty until the upload is complete
	ContentType string
	Filename    string
	Size        int64 // bytes
	Created     int64 // ms
	Expires     int64 // ms; end of a reservation, or of a file that this server keeps for a while; 0 once uploaded
}

const insertMediaQuery = `INSERT INTO media (media_id, user_nid, blob, content_type, filename, size, created_ts, expires_ts)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`

// InsertMedia adds an upload or a reserved media ID.
func (tx *Tx) InsertMedia(m Media) error {
	_, err := tx.exec(insertMediaQuery, m.ID, int64(m.User), m.Blob, m.ContentType, m.Filename, m.Size, m.Created, m.Expires)
	return err
}

const fillMediaQuery = `UPDATE media SET blob = $2, content_type = $3, filename = $4, size = $5, created_ts = $6, expires_ts = 0
WHERE media_id = $1 AND blob = ''`

// FillMedia stores an upload under a reserved media ID. It returns false if the ID has an upload already.
func (tx *Tx) FillMedia(m Media) (bool, error) {
	n, err := tx.exec(fillMediaQuery, m.ID, m.Blob, m.ContentType, m.Filename, m.Size, m.Created)
	return n == 1, err
}

const mediaQuery = `SELECT media_id, user_nid, blob, content_type, filename, size, created_ts, expires_ts FROM media WHERE media_id = $1`

// Media returns the row of a media ID.
func (tx *Tx) Media(mediaID string) (Media, bool, error) {
	return one(tx, scanMedia, mediaQuery, mediaID)
}

func scanMedia(r Row) (m Media, err error) {
	err = r.Scan(&m.ID, &m.User, &m.Blob, &m.ContentType, &m.Filename, &m.Size, &m.Created, &m.Expires)
	return m, err
}

const mediaUsageQuery = `SELECT coalesce(sum(size), 0), coalesce(sum(CASE WHEN blob = '' THEN 1 ELSE 0 END), 0) FROM media WHERE user_nid = $1`

// MediaUsage returns the number of bytes that a user has uploaded and the number of the user's reservations without an
// upload. It uses the index media_by_user.
func (tx *Tx) MediaUsage(user ident.UserNID) (size, pending int64, err error) {
	_, _, err = one(tx, func(r Row) (struct{}, error) { return struct{}{}, r.Scan(&size, &pending) }, mediaUsageQuery, int64(user))
	return size, pending, err
}

// DeleteExpiredMedia deletes reservations that expired at or before now (ms).
func (tx *Tx) DeleteExpiredMedia(now int64) error {
	_, err := tx.exec(`DELETE FROM media WHERE blob = '' AND expires_ts <= $1`, now)
	return err
}

const soonestExpiringQuery = `SELECT media_id, user_nid, blob, content_type, filename, size, created_ts, expires_ts FROM media
WHERE expires_ts > 0 AND blob <> '' ORDER BY expires_ts LIMIT $1`

// SoonestExpiringMedia lists the files that expire, those that expire first at the beginning. It uses the index
// media_by_expiry.
func (tx *Tx) SoonestExpiringMedia(limit int) ([]Media, error) {
	return collect(tx, scanMedia, soonestExpiringQuery, limit)
}

// ExpiringMediaSize returns the total size of the files that expire, in bytes. It uses the index media_by_expiry.
func (tx *Tx) ExpiringMediaSize() (size int64, err error) {
	_, _, err = one(tx, func(r Row) (struct{}, error) { return struct{}{}, r.Scan(&size) }, `SELECT coalesce(sum(size), 0) FROM media WHERE expires_ts > 0`)
	return size, err
}

// DeleteMedia deletes a row. The caller deletes the file.
func (tx *Tx) DeleteMedia(mediaID string) error {
	_, err := tx.exec(`DELETE FROM media WHERE media_id = $1`, mediaID)
	return err
}

const blobNamedQuery = `SELECT 1 FROM media WHERE blob = $1 UNION ALL SELECT 1 FROM remote_media WHERE blob = $1 LIMIT 1`

// BlobNamed reports whether a row refers to the blob. It uses the indexes media_by_blob and remote_media_by_blob.
func (tx *Tx) BlobNamed(blob string) (bool, error) {
	var n int64
	_, found, err := one(tx, func(r Row) (int64, error) { return n, r.Scan(&n) }, blobNamedQuery, blob)
	return found, err
}
