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
}

const remoteMediaColumns = `server, media_id, blob, content_type, filename, size, fetched_ts, used_ts`

const setRemoteMediaQuery = `INSERT INTO remote_media (` + remoteMediaColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (server, media_id) DO UPDATE SET blob = excluded.blob, content_type = excluded.content_type, filename = excluded.filename,
size = excluded.size, fetched_ts = excluded.fetched_ts, used_ts = excluded.used_ts`

// SetRemoteMedia stores the row of a file that was fetched.
func (tx *Tx) SetRemoteMedia(m RemoteMedia) error {
	_, err := tx.exec(setRemoteMediaQuery, m.Server, m.ID, m.Blob, m.ContentType, m.Filename, m.Size, m.Fetched, m.Used)
	return err
}

const remoteMediaQuery = `SELECT ` + remoteMediaColumns + ` FROM remote_media WHERE server = $1 AND media_id = $2`

// RemoteMedia returns the row of a cached file of another server.
func (tx *Tx) RemoteMedia(server, mediaID string) (RemoteMedia, bool, error) {
	return one(tx, scanRemoteMedia, remoteMediaQuery, server, mediaID)
}

func scanRemoteMedia(r Row) (m RemoteMedia, err error) {
	err = r.Scan(&m.Server, &m.ID, &m.Blob, &m.ContentType, &m.Filename, &m.Size, &m.Fetched, &m.Used)
	return m, err
}

// UseRemoteMedia records when a file was requested.
func (tx *Tx) UseRemoteMedia(server, mediaID string, at int64) error {
	_, err := tx.exec(`UPDATE remote_media SET used_ts = $3 WHERE server = $1 AND media_id = $2`, server, mediaID, at)
	return err
}

const oldestRemoteMediaQuery = `SELECT ` + remoteMediaColumns + ` FROM remote_media ORDER BY used_ts LIMIT $1`

// OldestRemoteMedia lists the files whose last request is longest ago. It uses the index remote_media_by_use.
func (tx *Tx) OldestRemoteMedia(limit int) ([]RemoteMedia, error) {
	return collect(tx, scanRemoteMedia, oldestRemoteMediaQuery, limit)
}

// RemoteMediaSize returns the total size of the cached files of other servers, in bytes. It scans the whole table.
func (tx *Tx) RemoteMediaSize() (size int64, err error) {
	_, _, err = one(tx, func(r Row) (struct{}, error) { return struct{}{}, r.Scan(&size) }, `SELECT coalesce(sum(size), 0) FROM remote_media`)
	return size, err
}

// DeleteRemoteMedia deletes the row of a cached file. The caller deletes the file.
func (tx *Tx) DeleteRemoteMedia(server, mediaID string) error {
	_, err := tx.exec(`DELETE FROM remote_media WHERE server = $1 AND media_id = $2`, server, mediaID)
	return err
}
