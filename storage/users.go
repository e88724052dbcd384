package storage

import (
	"slices"

	"ebb/ident"
)

const lookupUserQuery = `SELECT nid FROM users WHERE user_id = $1`

// LookupUser finds the short name of a user id; false when nothing has named that user yet.
func (tx *Tx) LookupUser(userID string) (ident.UserNID, bool, error) {
	return one(tx, scanNumber[ident.UserNID], lookupUserQuery, userID)
}

const insertUserQuery = `INSERT INTO users (nid, user_id) VALUES ($1, $2) ON CONFLICT (user_id) DO NOTHING`

// UserNID finds the short name of a user id, and allots one to a user who is new. Only in a write.
func (tx *Tx) UserNID(userID string) (ident.UserNID, error) {
	nid, found, err := tx.LookupUser(userID)
	if err != nil || found {
		return nid, err
	}
	nid = ident.UserNID(tx.NextPos())
	_, err = tx.exec(insertUserQuery, int64(nid), userID)
	return nid, err
}

// LookupUsers finds the short names of user ids; those that nothing has named yet are left out.
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

// UserIDs finds the full ids of users by their short names, in no particular order.
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

// UserID is the full id of a user; "" when there is none with this short name.
func (tx *Tx) UserID(nid ident.UserNID) (string, error) {
	s, _, err := one(tx, scanString, `SELECT user_id FROM users WHERE nid = $1`, int64(nid))
	return s, err
}
