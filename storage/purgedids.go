package storage

import (
	"ebb/ident"
	"ebb/storage/values"
)

// The IDs of purged events are remembered for a while, because redactions of these events may still arrive and other
// servers may send them again. A row has many of them: those of one room and one write whose hashes have the same
// remainder, so that little is written for each of them, and looking for one reads little.

const (
	addPurgedIDsQuery  = `INSERT INTO purged_ids (nid, room_nid, bucket, purged_ts, data) VALUES ($1, $2, $3, $4, $5)`
	findPurgedIDsQuery = `SELECT data FROM purged_ids WHERE room_nid = $1 AND bucket = $2`
)

// rememberPurged records the IDs and the senders of events that are about to be deleted. Redacted events are left out,
// since they need no second redaction.
func (tx *Tx) rememberPurged(events []PurgeCandidate) error {
	type place struct {
		room   ident.RoomNID
		bucket int
	}
	data := map[place][]byte{}
	var places []place
	for _, e := range events {
		if e.Redacted {
			continue
		}
		hash := tx.IDHash(e.EventID)
		at := place{e.Room, values.PurgedBucket(hash)}
		if data[at] == nil {
			places = append(places, at)
		}
		data[at] = values.AppendPurged(data[at], values.PurgedID{Hash: hash, Sender: e.Sender})
	}
	for _, at := range places {
		if _, err := tx.exec(addPurgedIDsQuery, int64(tx.NextPos()), int64(at.room), at.bucket, tx.Now().UnixMilli(), values.Blob(data[at])); err != nil {
			return err
		}
	}
	return nil
}

// PurgedSender returns the sender of a purged event of a room, if it is still remembered. It uses the index
// purged_ids_by_room.
func (tx *Tx) PurgedSender(room ident.RoomNID, eventID string) (user string, found bool, err error) {
	hash := tx.IDHash(eventID)
	var sender ident.UserNID
	err = tx.each(func(r Row) error {
		var data []byte
		if err := r.Scan(&data); err != nil || sender != 0 {
			return err
		}
		var err error
		sender, err = values.FindPurged(data, hash)
		return err
	}, findPurgedIDsQuery, int64(room), values.PurgedBucket(hash))
	if err != nil || sender == 0 {
		return "", false, err
	}
	return one(tx, scanString, `SELECT user_id FROM users WHERE nid = $1`, int64(sender))
}

const forgetPurgedQuery = `DELETE FROM purged_ids WHERE nid IN (SELECT nid FROM purged_ids WHERE purged_ts < $1 ORDER BY purged_ts LIMIT $2)`

// ForgetPurged deletes at most limit rows about events that were purged before a time (ms), and reports whether there
// may be more. It uses the index purged_ids_by_time.
func (tx *Tx) ForgetPurged(before int64, limit int) (more bool, err error) {
	n, err := tx.exec(forgetPurgedQuery, before, limit)
	return n == int64(limit), err
}
