package storage

// URLPreview is the cached preview of a web page.
type URLPreview struct {
	URLHash   string
	FetchedTS int64  // ms
	ExpiresTS int64  // ms
	JSON      string // "" if the page has no preview
}

const (
	urlPreviewQuery = `SELECT url_hash, fetched_ts, expires_ts, json FROM url_previews
WHERE url_hash = $1 AND fetched_ts <= $2 AND expires_ts > $2 ORDER BY fetched_ts DESC LIMIT 1`
	putURLPreviewQuery = `INSERT INTO url_previews (url_hash, fetched_ts, expires_ts, json) VALUES ($1, $2, $3, $4)
ON CONFLICT (url_hash, fetched_ts) DO UPDATE SET expires_ts = excluded.expires_ts, json = excluded.json`
)

// URLPreview returns the newest preview of a URL that was valid at a time (ms).
func (tx *Tx) URLPreview(urlHash string, at int64) (URLPreview, bool, error) {
	return one(tx, func(r Row) (p URLPreview, err error) {
		err = r.Scan(&p.URLHash, &p.FetchedTS, &p.ExpiresTS, &p.JSON)
		return p, err
	}, urlPreviewQuery, urlHash, at)
}

// PutURLPreview stores a preview.
func (tx *Tx) PutURLPreview(p URLPreview) error {
	_, err := tx.exec(putURLPreviewQuery, p.URLHash, p.FetchedTS, p.ExpiresTS, p.JSON)
	return err
}

// DeleteExpiredURLPreviews deletes the previews that expired at or before a time (ms). It uses the index
// url_previews_by_expiry.
func (tx *Tx) DeleteExpiredURLPreviews(now int64) error {
	_, err := tx.exec(`DELETE FROM url_previews WHERE expires_ts <= $1`, now)
	return err
}
