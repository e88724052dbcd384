package storage

// OAuthKey is a key that signs ID tokens.
type OAuthKey struct {
	ID         string
	Private    string // sealed; "" after the key was replaced
	Public     string // DER, base64
	ReplacedTS int64  // ms; 0: the current key
}

const oauthKeysQuery = `SELECT id, private, public, replaced_ts FROM oauth_keys ORDER BY CASE WHEN replaced_ts = 0 THEN 0 ELSE 1 END, created_ts DESC, id LIMIT $1`

// OAuthKeys returns at most limit keys, the current one first.
func (tx *Tx) OAuthKeys(limit int) ([]OAuthKey, error) {
	return collect(tx, func(r Row) (k OAuthKey, err error) {
		err = r.Scan(&k.ID, &k.Private, &k.Public, &k.ReplacedTS)
		return k, err
	}, oauthKeysQuery, limit)
}

const addOAuthKeyQuery = `INSERT INTO oauth_keys (id, private, public, created_ts)
SELECT $1, $2, $3, $4 WHERE NOT EXISTS (SELECT 1 FROM oauth_keys WHERE replaced_ts = 0)`

// AddOAuthKey stores a key, unless there is a current one.
func (tx *Tx) AddOAuthKey(k OAuthKey) error {
	_, err := tx.exec(addOAuthKeyQuery, k.ID, k.Private, k.Public, tx.now.UnixMilli())
	return err
}

// RetireOAuthKey deletes the private part of a current key, which no longer signs anything.
func (tx *Tx) RetireOAuthKey(id string) error {
	_, err := tx.exec(`UPDATE oauth_keys SET private = '', replaced_ts = $2 WHERE id = $1 AND replaced_ts = 0`, id, tx.now.UnixMilli())
	return err
}

// DropOAuthKeys deletes the keys that were replaced by a time (ms).
func (tx *Tx) DropOAuthKeys(by int64) error {
	_, err := tx.exec(`DELETE FROM oauth_keys WHERE replaced_ts <> 0 AND replaced_ts <= $1`, by)
	return err
}
