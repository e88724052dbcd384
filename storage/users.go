package storage

import (
	"slices"

	"ebb/ident"
)

const lookupUserQuery = `SELECT nid FROM users WHERE user_id = $1`

// LookupUser returns the number of a user ID, false if it has none yet.
func (tx *Tx) LookupUser(userID string) (ident.UserNID, bool, error) {
	return one(tx, scanNumber[ident.UserNID], lookupUserQuery, userID)
}

const insertUserQuery = `INSERT INTO users (nid, user_id) VALUES ($1, $2) ON CONFLICT (user_id) DO NOTHING`

// UserNID returns the number of a user ID and allots one if it has none. It can be called in a write only.
func (tx *Tx) UserNID(userID string) (ident.UserNID, error) {
	nid, found, err := tx.LookupUser(userID)
	if err != nil || found {
		return nid, err
	}
	nid = ident.UserNID(tx.NextPos())
	_, err = tx.exec(insertUserQuery, int64(nid), userID)
	return nid, err
}

// LookupUsers returns the numbers of user IDs. It omits those that have none yet.
func (tx *Tx) LookupUsers(userIDs []string) (map[string]ident.UserNID, error) {
	out := make(map[string]ident.UserNID, len(userIDs))
	for part := range slices.Chunk(userIDs, maxIn) {
		list, args := In(1, part)
		err := tx.each(func(r Row) error {
			var userID string
			var nid ident.UserNID
			err := r.Scan(&userID, &nid)
			out[userID] = nid
			return err
		}, `SELECT user_id, nid FROM users WHERE user_id IN `+list, args...)
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// UserIDs returns the IDs of users, in no particular order.
func (tx *Tx) UserIDs(nids []ident.UserNID) ([]string, error) {
	out := make([]string, 0, len(nids))
	for part := range slices.Chunk(nids, maxIn) {
		list, args := In(1, part)
		ids, err := collect(tx, scanString, `SELECT user_id FROM users WHERE nid IN `+list, args...)
		if err != nil {
			return nil, err
		}
		out = append(out, ids...)
	}
	return out, nil
}

// UserID returns the ID of a user, "" if there is no user with this number.
func (tx *Tx) UserID(nid ident.UserNID) (string, error) {
	s, _, err := one(tx, scanString, `SELECT user_id FROM users WHERE nid = $1`, int64(nid))
	return s, err
}
