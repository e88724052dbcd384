package storage

import "ebb/storage/sealing"

// URLPreview is the cached preview of a web page.
type URLPreview struct {
	URLHash   string
	FetchedTS int64  // ms
	ExpiresTS int64  // ms
	JSON      string // "" if the page has no preview
}

const (
	urlPreviewQuery = `SELECT url_hash, fetched_ts, expires_ts, json, nid, body_key FROM url_previews
WHERE url_hash = $1 AND fetched_ts <= $2 AND expires_ts > $2 ORDER BY fetched_ts DESC LIMIT 1`
	putURLPreviewQuery = `INSERT INTO url_previews (url_hash, fetched_ts, expires_ts, json, nid, body_key) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (url_hash, fetched_ts) DO UPDATE SET expires_ts = excluded.expires_ts, json = excluded.json, nid = excluded.nid, body_key = excluded.body_key`
	urlPreviewKeyQuery         = `SELECT body_key FROM url_previews WHERE url_hash = $1 AND fetched_ts = $2`
	expiredURLPreviewKeysQuery = `SELECT body_key FROM url_previews WHERE expires_ts <= $1`
)

// URLPreview returns the newest preview of a URL that was valid at a time (ms).
func (tx *Tx) URLPreview(urlHash string, at int64) (URLPreview, bool, error) {
	return one(tx, func(r Row) (p URLPreview, err error) {
		var nid, sealed int64
		err = r.Scan(&p.URLHash, &p.FetchedTS, &p.ExpiresTS, &p.JSON, &nid, &sealed)
		if err == nil && sealed != 0 {
			err = unsealString(r, sealing.URLPreviews, nid, &p.JSON)
		}
		return p, err
	}, urlPreviewQuery, urlHash, at)
}

// PutURLPreview stores a preview.
func (tx *Tx) PutURLPreview(p URLPreview) error {
	if err := tx.soil(urlPreviewKeyQuery, p.URLHash, p.FetchedTS); err != nil {
		return err
	}
	nid := int64(tx.NextPos())
	text, sealed, err := tx.sealKind(sealing.URLPreviews, 0, sealing.Previews, nid, p.JSON)
	if err != nil {
		return err
	}
	_, err = tx.exec(putURLPreviewQuery, p.URLHash, p.FetchedTS, p.ExpiresTS, text, nid, sealed)
	return err
}

// DeleteExpiredURLPreviews deletes the previews that expired at or before a time (ms). It uses the index
// url_previews_by_expiry.
func (tx *Tx) DeleteExpiredURLPreviews(now int64) error {
	if err := tx.soil(expiredURLPreviewKeysQuery, now); err != nil {
		return err
	}
	_, err := tx.exec(`DELETE FROM url_previews WHERE expires_ts <= $1`, now)
	return err
}
