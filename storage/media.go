package storage

import (
	"fmt"

	"ebb/ident"
)

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
	Unused      int64 // ms; since when an upload to which nothing refers waits for its deletion; 0: it does not
	File        MediaFile
}

// MediaFile is the encrypted file with the content of media. It is zero for a file from before files were encrypted.
type MediaFile struct {
	Name      string // random
	SealedKey string // encrypted by package secrets
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

const (
	mediaColumns = `m.media_id, m.user_nid, m.blob, m.content_type, m.filename, m.size, m.created_ts, m.expires_ts, m.unused_ts, ` + mediaFileColumns
	mediaQuery   = `SELECT ` + mediaColumns + ` FROM media m LEFT JOIN media_files f ON f.blob = m.blob WHERE m.media_id = $1`
)

// Media returns the row of a media ID.
func (tx *Tx) Media(mediaID string) (Media, bool, error) {
	return one(tx, scanMedia, mediaQuery, mediaID)
}

func scanMedia(r Row) (m Media, err error) {
	err = scanMediaAnd(r, &m)
	return m, err
}

// scanMediaAnd scans mediaColumns and the columns after them.
func scanMediaAnd(r Row, m *Media, others ...any) error {
	var f storedFile
	dest := append([]any{&m.ID, &m.User, &m.Blob, &m.ContentType, &m.Filename, &m.Size, &m.Created, &m.Expires, &m.Unused}, f.dest()...)
	err := r.Scan(append(dest, others...)...)
	if err == nil {
		m.File, err = f.open(r)
	}
	return err
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

const soonestExpiringQuery = `SELECT ` + mediaColumns + ` FROM media m LEFT JOIN media_files f ON f.blob = m.blob
WHERE m.expires_ts > 0 AND m.blob <> '' ORDER BY m.expires_ts LIMIT $1`

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

// DeleteMedia deletes an upload or a reserved media ID, and its file if no other row has the same content. It returns
// false if there is none.
func (tx *Tx) DeleteMedia(mediaID string) (bool, error) {
	blob, found, err := one(tx, scanString, `DELETE FROM media WHERE media_id = $1 RETURNING blob`, mediaID)
	if err != nil || !found {
		return false, err
	}
	if err := tx.Note(LedgerMedia, 0, 0, mediaID); err != nil {
		return false, err
	}
	return true, tx.releaseBlob(blob)
}

const (
	blobNamedQuery     = `SELECT 1 FROM media WHERE blob = $1 UNION ALL SELECT 1 FROM remote_media WHERE blob = $1 LIMIT 1`
	queueUnlinkQuery   = `INSERT INTO media_unlinks (name) VALUES ($1) ON CONFLICT DO NOTHING`
	mediaFileNameQuery = `SELECT name FROM media_files WHERE blob = $1`
)

// BlobNamed reports whether a row refers to the blob. It uses the indexes media_by_blob and remote_media_by_blob.
func (tx *Tx) BlobNamed(blob string) (bool, error) {
	_, found, err := one(tx, scanNumber[int64], blobNamedQuery, blob)
	return found, err
}

// releaseBlob is called after a row that refers to a blob was deleted. If no other row refers to it, releaseBlob
// deletes the key of its file, and queues the file for removal (MediaUnlinks).
func (tx *Tx) releaseBlob(blob string) error {
	if blob == "" {
		return nil
	}
	named, err := tx.BlobNamed(blob)
	if err != nil || named {
		return err
	}
	if err := tx.soil(mediaFileKeyQuery, blob); err != nil {
		return err
	}
	name, found, err := one(tx, scanString, `DELETE FROM media_files WHERE blob = $1 RETURNING name`, blob)
	if err != nil {
		return err
	}
	if !found { // the file is from before files were encrypted
		name = blob
	}
	return tx.QueueMediaUnlink(name)
}

// QueueMediaUnlink queues a file for removal from disk. No row may refer to it.
func (tx *Tx) QueueMediaUnlink(name string) error {
	_, err := tx.exec(queueUnlinkQuery, name)
	return err
}

// MediaFile returns the encrypted file of a blob.
func (tx *Tx) MediaFile(blob string) (MediaFile, bool, error) {
	return one(tx, func(r Row) (MediaFile, error) {
		var f storedFile
		if err := r.Scan(f.dest()...); err != nil {
			return f.MediaFile, err
		}
		return f.open(r)
	}, `SELECT `+mediaFileColumns+` FROM media_files f WHERE f.blob = $1`, blob)
}

// PutMediaFile records the file of a blob. If the blob has one already, that is queued for removal.
func (tx *Tx) PutMediaFile(blob string, f MediaFile) error {
	former, found, err := one(tx, scanString, mediaFileNameQuery, blob)
	if err != nil {
		return err
	}
	if found {
		if err := tx.QueueMediaUnlink(former); err != nil {
			return err
		}
	}
	return tx.putMediaFile(blob, f)
}

// ReplacePlainMedia records the encrypted file of a blob that had an unencrypted one, and queues that for removal. It
// returns false if there is no such blob any more.
func (tx *Tx) ReplacePlainMedia(blob string, f MediaFile) (bool, error) {
	named, err := tx.BlobNamed(blob)
	if err != nil || !named {
		return false, err
	}
	_, found, err := one(tx, scanString, mediaFileNameQuery, blob)
	if err != nil || found {
		return false, err
	}
	if err := tx.QueueMediaUnlink(blob); err != nil {
		return false, err
	}
	return true, tx.PutMediaFile(blob, f)
}

const plainBlobsQuery = `SELECT b.blob, b.size FROM (
    SELECT blob, size FROM media WHERE blob > $1 UNION SELECT blob, size FROM remote_media WHERE blob > $1) b
WHERE NOT EXISTS (SELECT 1 FROM media_files f WHERE f.blob = b.blob) ORDER BY b.blob LIMIT $2`

// PlainBlob is a blob whose file is not encrypted.
type PlainBlob struct {
	Blob string
	Size int64
}

// PlainBlobs returns a page of the blobs whose files are not encrypted: at most limit of those after the given one.
func (tx *Tx) PlainBlobs(after string, limit int) ([]PlainBlob, error) {
	return collect(tx, func(r Row) (b PlainBlob, err error) { err = r.Scan(&b.Blob, &b.Size); return b, err }, plainBlobsQuery, after, limit)
}

const mediaKeysQuery = `SELECT f.blob, ` + mediaFileColumns + ` FROM media_files f WHERE f.blob > $1 ORDER BY f.blob LIMIT $2`

// MediaKey is the file of a blob.
type MediaKey struct {
	Blob string
	MediaFile
}

// MediaKeys returns a page of the keys of files: at most limit of those of the blobs after the given one.
func (tx *Tx) MediaKeys(after string, limit int) ([]MediaKey, error) {
	return collect(tx, func(r Row) (k MediaKey, err error) {
		var f storedFile
		if err = r.Scan(append([]any{&k.Blob}, f.dest()...)...); err == nil {
			k.MediaFile, err = f.open(r)
		}
		return k, err
	}, mediaKeysQuery, after, limit)
}

// ResealMediaKey stores the key of a file that was encrypted again.
func (tx *Tx) ResealMediaKey(blob, sealed string) error {
	name, found, err := one(tx, scanString, mediaFileNameQuery, blob)
	if err != nil || !found {
		return err
	}
	return tx.putMediaFile(blob, MediaFile{Name: name, SealedKey: sealed})
}

// MediaUnlinks returns a page of the files that are to be removed from disk: at most limit of those after the given
// one.
func (tx *Tx) MediaUnlinks(after string, limit int) ([]string, error) {
	return collect(tx, scanString, `SELECT name FROM media_unlinks WHERE name > $1 ORDER BY name LIMIT $2`, after, limit)
}

// MediaUnlinked records that files were removed from disk. There are at most maxIn of them.
func (tx *Tx) MediaUnlinked(names []string) error {
	list, args := In(1, names)
	_, err := tx.exec(`DELETE FROM media_unlinks WHERE name IN `+list, args...)
	return err
}

const mediaFileNamedQuery = `SELECT name FROM media_files WHERE name IN %[1]s
UNION SELECT blob FROM media m WHERE blob IN %[1]s AND NOT EXISTS (SELECT 1 FROM media_files f WHERE f.blob = m.blob)
UNION SELECT blob FROM remote_media m WHERE blob IN %[1]s AND NOT EXISTS (SELECT 1 FROM media_files f WHERE f.blob = m.blob)`

// NamedMediaFiles returns those of the given names of files, at most maxIn, to which a row refers. It uses the indexes
// media_files_by_name, media_by_blob and remote_media_by_blob.
func (tx *Tx) NamedMediaFiles(names []string) (map[string]bool, error) {
	list, args := In(1, names)
	named := map[string]bool{}
	err := tx.each(func(r Row) error {
		var name string
		err := r.Scan(&name)
		named[name] = true
		return err
	}, fmt.Sprintf(mediaFileNamedQuery, list), args...)
	return named, err
}
