package storage

const lookupUserQuery = `SELECT nid FROM users WHERE user_id = $1`

// LookupUser finds the short name of a user id; false when nothing has named that user yet.
func (tx *Tx) LookupUser(userID string) (int64, bool, error) {
	return one(tx, scanInt64, lookupUserQuery, userID)
}

const insertUserQuery = `INSERT INTO users (nid, user_id) VALUES ($1, $2) ON CONFLICT (user_id) DO NOTHING`

// UserNID finds the short name of a user id, and allots one to a user who is new. Only in a write.
func (tx *Tx) UserNID(userID string) (int64, error) {
	nid, found, err := tx.LookupUser(userID)
	if err != nil || found {
		return nid, err
	}
	nid = int64(tx.NextPos())
	_, err = tx.exec(insertUserQuery, nid, userID)
	return nid, err
}

// UserID is the full id of a user; "" when there is none with this short name.
func (tx *Tx) UserID(nid int64) (string, error) {
	s, _, err := one(tx, scanString, `SELECT user_id FROM users WHERE nid = $1`, nid)
	return s, err
}
