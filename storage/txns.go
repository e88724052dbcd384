package storage

import "ebb/ident"

// TxnRow is the stored response to a client's transaction.
type TxnRow struct {
	Hash   int64  // IDHash of the request path and the transaction ID
	Answer string // the event ID; empty if the response is {}
}

const insertTxnQuery = `INSERT INTO client_txns (device_nid, path_hash, created_ts, answer) VALUES ($1, $2, $3, $4)
ON CONFLICT (device_nid, path_hash) DO NOTHING`

// InsertTxn stores the response to a transaction. It returns false if there is one already.
func (tx *Tx) InsertTxn(device ident.DeviceNID, t TxnRow) (bool, error) {
	n, err := tx.exec(insertTxnQuery, int64(device), t.Hash, tx.Now().UnixMilli(), t.Answer)
	return n == 1, err
}

const txnQuery = `SELECT answer FROM client_txns WHERE device_nid = $1 AND path_hash = $2`

// Txn returns the stored response to a transaction.
func (tx *Tx) Txn(device ident.DeviceNID, hash int64) (string, bool, error) {
	return one(tx, scanString, txnQuery, int64(device), hash)
}

const pruneTxnsQuery = `DELETE FROM client_txns WHERE (device_nid, path_hash) IN
(SELECT device_nid, path_hash FROM client_txns WHERE created_ts < $1 ORDER BY created_ts LIMIT $2)`

// PruneTxns deletes the oldest transactions from before a time (ms), at most limit, and returns their number.
func (tx *Tx) PruneTxns(before int64, limit int) (int64, error) {
	return tx.exec(pruneTxnsQuery, before, limit)
}
