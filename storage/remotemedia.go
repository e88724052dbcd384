package storage

// RemoteMedia is a cached file of another server.
type RemoteMedia struct {
	Server      string
	ID          string
	Blob        string // name of the file
	ContentType string
	Filename    string
	Size        int64 // bytes
	Fetched     int64 // ms
	Used        int64 // ms; time of the last request, accurate to an hour
	File        MediaFile
}

const remoteMediaColumns = `m.server, m.media_id, m.blob, m.content_type, m.filename, m.size, m.fetched_ts, m.used_ts, ` + mediaFileColumns + `
FROM remote_media m LEFT JOIN media_files f ON f.blob = m.blob`

const setRemoteMediaQuery = `INSERT INTO remote_media (server, media_id, blob, content_type, filename, size, fetched_ts, used_ts) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (server, media_id) DO UPDATE SET blob = excluded.blob, content_type = excluded.content_type, filename = excluded.filename,
size = excluded.size, fetched_ts = excluded.fetched_ts, used_ts = excluded.used_ts`

// SetRemoteMedia stores the row of a file that was fetched.
func (tx *Tx) SetRemoteMedia(m RemoteMedia) error {
	former, _, err := tx.RemoteMedia(m.Server, m.ID)
	if err != nil {
		return err
	}
	_, err = tx.exec(setRemoteMediaQuery, m.Server, m.ID, m.Blob, m.ContentType, m.Filename, m.Size, m.Fetched, m.Used)
	if err != nil || former.Blob == m.Blob {
		return err
	}
	return tx.releaseBlob(former.Blob)
}

const remoteMediaQuery = `SELECT ` + remoteMediaColumns + ` WHERE m.server = $1 AND m.media_id = $2`

// RemoteMedia returns the row of a cached file of another server.
func (tx *Tx) RemoteMedia(server, mediaID string) (RemoteMedia, bool, error) {
	return one(tx, scanRemoteMedia, remoteMediaQuery, server, mediaID)
}

func scanRemoteMedia(r Row) (m RemoteMedia, err error) {
	var f storedFile
	err = r.Scan(append([]any{&m.Server, &m.ID, &m.Blob, &m.ContentType, &m.Filename, &m.Size, &m.Fetched, &m.Used}, f.dest()...)...)
	if err == nil {
		m.File, err = f.open(r)
	}
	return m, err
}

// UseRemoteMedia records when a file was requested.
func (tx *Tx) UseRemoteMedia(server, mediaID string, at int64) error {
	_, err := tx.exec(`UPDATE remote_media SET used_ts = $3 WHERE server = $1 AND media_id = $2`, server, mediaID, at)
	return err
}

const oldestRemoteMediaQuery = `SELECT ` + remoteMediaColumns + `
WHERE NOT EXISTS (SELECT 1 FROM media_quarantine q WHERE q.server = m.server AND q.media_id = m.media_id)
AND NOT EXISTS (SELECT 1 FROM ` + heldMediaRefs + ` AND r.media_id = m.media_id AND r.server = m.server) ORDER BY m.used_ts LIMIT $1`

// OldestRemoteMedia lists the files whose last request is longest ago, without those in quarantine or under a legal
// hold. It uses the index remote_media_by_use.
func (tx *Tx) OldestRemoteMedia(limit int) ([]RemoteMedia, error) {
	return collect(tx, scanRemoteMedia, oldestRemoteMediaQuery, limit)
}

// RemoteMediaSize returns the total size of the cached files of other servers, in bytes. It scans the whole table.
func (tx *Tx) RemoteMediaSize() (size int64, err error) {
	_, _, err = one(tx, func(r Row) (struct{}, error) { return struct{}{}, r.Scan(&size) }, `SELECT coalesce(sum(size), 0) FROM remote_media`)
	return size, err
}

// DeleteRemoteMedia deletes the row of a cached file, and the file if no other row has the same content.
func (tx *Tx) DeleteRemoteMedia(server, mediaID string) error {
	blob, found, err := one(tx, scanString, `DELETE FROM remote_media WHERE server = $1 AND media_id = $2 RETURNING blob`, server, mediaID)
	if err != nil || !found {
		return err
	}
	return tx.releaseBlob(blob)
}
