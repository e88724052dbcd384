package storage

// ServerKey is a signing key of another server.
type ServerKey struct {
	Server, KeyID, PublicKey string
	GoodUntil                int64 // ms
	Expired                  bool  // no longer in use
}

const putServerKeyQuery = `INSERT INTO server_keys (server, key_id, public_key, good_until, expired) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (server, key_id) DO UPDATE SET public_key = excluded.public_key, good_until = excluded.good_until, expired = excluded.expired`

// PutServerKey stores a key of a server.
func (tx *Tx) PutServerKey(k ServerKey) error {
	_, err := tx.exec(putServerKeyQuery, k.Server, k.KeyID, k.PublicKey, k.GoodUntil, k.Expired)
	return err
}

// TrimServerKeys deletes all but the newest keys of a server.
func (tx *Tx) TrimServerKeys(server string, keep int) error {
	_, err := tx.exec(`DELETE FROM server_keys WHERE server = $1 AND key_id NOT IN
(SELECT key_id FROM server_keys WHERE server = $1 ORDER BY good_until DESC, key_id LIMIT $2)`, server, keep)
	return err
}

// ServerKeys lists the stored keys of a server, ordered by key ID.
func (tx *Tx) ServerKeys(server string) ([]ServerKey, error) {
	return collect(tx, func(r Row) (k ServerKey, err error) {
		var expired int64
		k.Server = server
		err = r.Scan(&k.KeyID, &k.PublicKey, &k.GoodUntil, &expired)
		k.Expired = expired != 0
		return k, err
	}, `SELECT key_id, public_key, good_until, expired FROM server_keys WHERE server = $1 ORDER BY key_id`, server)
}

// ServerKeyAnswer is the response of a server that lists its keys.
type ServerKeyAnswer struct {
	JSON      string
	GoodUntil int64 // ms
	FetchedTS int64 // ms
}

const putServerKeyAnswerQuery = `INSERT INTO server_key_answers (server, json, good_until, fetched_ts) VALUES ($1, $2, $3, $4)
ON CONFLICT (server) DO UPDATE SET json = excluded.json, good_until = excluded.good_until, fetched_ts = excluded.fetched_ts`

// PutServerKeyAnswer stores the response of a server that lists its keys.
func (tx *Tx) PutServerKeyAnswer(server string, a ServerKeyAnswer) error {
	_, err := tx.exec(putServerKeyAnswerQuery, server, a.JSON, a.GoodUntil, a.FetchedTS)
	return err
}

// ServerKeyAnswerOf returns the latest stored response of a server that lists its keys.
func (tx *Tx) ServerKeyAnswerOf(server string) (ServerKeyAnswer, bool, error) {
	return one(tx, func(r Row) (a ServerKeyAnswer, err error) {
		err = r.Scan(&a.JSON, &a.GoodUntil, &a.FetchedTS)
		return a, err
	}, `SELECT json, good_until, fetched_ts FROM server_key_answers WHERE server = $1`, server)
}

// PruneServerKeys deletes all but the newest stored key responses. It also deletes the keys of the servers concerned,
// except for servers to which this server has sent something.
func (tx *Tx) PruneServerKeys(keep int) error {
	newest, over, err := one(tx, func(r Row) (ts int64, err error) {
		err = r.Scan(&ts)
		return ts, err
	}, `SELECT fetched_ts FROM server_key_answers ORDER BY fetched_ts DESC LIMIT 1 OFFSET $1`, keep)
	if err != nil || !over {
		return err
	}
	_, err = tx.exec(`DELETE FROM server_keys WHERE server IN (SELECT server FROM server_key_answers WHERE fetched_ts <= $1)
AND NOT EXISTS (SELECT 1 FROM destinations d WHERE d.server = server_keys.server)`, newest)
	if err != nil {
		return err
	}
	_, err = tx.exec(`DELETE FROM server_key_answers WHERE fetched_ts <= $1`, newest)
	return err
}
