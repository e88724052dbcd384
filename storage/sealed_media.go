package storage

import (
	"context"

	"ebb/storage/sealing"
)

// On PostgreSQL, the key of a media file, which is encrypted under a key outside the database (package secrets), is
// sealed once more. Otherwise a deleted file could be decrypted for as long as the row with its key is in the log of
// the database, since the key outside stays.

const mediaFileColumns = `coalesce(f.name, ''), coalesce(f.sealed_key, ''), coalesce(f.nid, 0), coalesce(f.body_key, 0)`

// storedFile receives the columns mediaFileColumns.
type storedFile struct {
	MediaFile
	nid, bodyKey int64
}

func (f *storedFile) dest() []any { return []any{&f.Name, &f.SealedKey, &f.nid, &f.bodyKey} }

// open returns the file, after the columns were scanned from a row.
func (f *storedFile) open(r Row) (MediaFile, error) {
	if f.bodyKey == 0 {
		return f.MediaFile, nil
	}
	err := unsealString(r, sealing.MediaFiles, f.nid, &f.SealedKey)
	return f.MediaFile, err
}

const (
	putMediaFileQuery = `INSERT INTO media_files (blob, name, sealed_key, nid, body_key) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (blob) DO UPDATE SET name = excluded.name, sealed_key = excluded.sealed_key, nid = excluded.nid, body_key = excluded.body_key`
	mediaFileKeyQuery    = `SELECT body_key FROM media_files WHERE blob = $1`
	plainMediaFilesQuery = `SELECT blob, name, sealed_key FROM media_files WHERE blob > $1 AND body_key = 0 ORDER BY blob LIMIT $2`
	// metaSealedMedia is the row of meta with allSealed when the keys of all media files are sealed.
	metaSealedMedia = "sealed_media"
)

// putMediaFile stores the file of a blob. It replaces another one.
func (tx *Tx) putMediaFile(blob string, f MediaFile) error {
	if err := tx.soil(mediaFileKeyQuery, blob); err != nil {
		return err
	}
	var nid int64
	if tx.db.sealer != nil {
		nid = int64(tx.NextPos())
	}
	key, sealed, err := tx.sealKind(sealing.MediaFiles, 0, sealing.MediaKeys, nid, f.SealedKey)
	if err != nil {
		return err
	}
	_, err = tx.exec(putMediaFileQuery, blob, f.Name, key, nid, sealed)
	return err
}

// sealOldMediaKeys seals the keys of media files from before they were sealed.
func (db *DB) sealOldMediaKeys(ctx context.Context) error {
	var done bool
	err := db.Read(ctx, func(tx *Tx) (err error) {
		_, done, err = one(tx, scanNumber[int64], `SELECT value FROM meta WHERE name = $1`, metaSealedMedia)
		return err
	})
	for after := ""; err == nil && !done; {
		err = db.Write(ctx, func(tx *Tx) error {
			page, err := collect(tx, scanMediaKey, plainMediaFilesQuery, after, resealBatch)
			for _, k := range page {
				if err == nil {
					err = tx.putMediaFile(k.Blob, k.MediaFile)
				}
				after = k.Blob
			}
			if err == nil && len(page) < resealBatch {
				done = true
				_, err = tx.exec(setMetaNumberQuery, metaSealedMedia, allSealed)
			}
			return err
		})
	}
	return err
}

func scanMediaKey(r Row) (k MediaKey, err error) {
	err = r.Scan(&k.Blob, &k.Name, &k.SealedKey)
	return k, err
}
