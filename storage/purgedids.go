package storage

import (
	"encoding/binary"
	"errors"

	"ebb/ident"
	"ebb/storage/values"
)

// The IDs of purged events are remembered for a while, because redactions of these events may still arrive and other
// servers may send them again. A row has many of them: those of one room and one write whose hashes have the same
// remainder, so that little is written for each of them, and looking for one reads little.

// purgedBuckets is the number of buckets into which the IDs of a room are divided.
const purgedBuckets = 16

func purgedBucket(hash int64) int { return int(uint64(hash) % purgedBuckets) }

// purgedID is an entry of purged_ids.
type purgedID struct {
	hash   int64 // IDHash of the event's ID
	sender ident.UserNID
}

// appendPurged appends an entry to the data of a row.
func appendPurged(dst []byte, p purgedID) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(p.hash))
	return binary.AppendUvarint(dst, uint64(p.sender))
}

var errPurgedIDs = errors.New("storage: a row of purged_ids is damaged")

// findPurged returns the sender of the event whose ID has the given hash, 0 if data does not have it.
func findPurged(data []byte, hash int64) (ident.UserNID, error) {
	for len(data) > 0 {
		if len(data) < 8 {
			return 0, errPurgedIDs
		}
		sender, n := binary.Uvarint(data[8:])
		if n <= 0 {
			return 0, errPurgedIDs
		}
		if int64(binary.BigEndian.Uint64(data)) == hash {
			return ident.UserNID(sender), nil
		}
		data = data[8+n:]
	}
	return 0, nil
}

const (
	// Redacted events are not remembered, since they need no second redaction.
	toRememberQuery    = `SELECT room_nid, id_hash, sender_nid FROM events WHERE redacted_by = 0 AND position IN `
	addPurgedIDsQuery  = `INSERT INTO purged_ids (nid, room_nid, bucket, purged_ts, data) VALUES ($1, $2, $3, $4, $5)`
	findPurgedIDsQuery = `SELECT data FROM purged_ids WHERE room_nid = $1 AND bucket = $2`
)

// rememberPurged records the IDs and the senders of events that are about to be deleted, at most maxIn.
func (tx *Tx) rememberPurged(list string, args []any) error {
	type place struct {
		room   ident.RoomNID
		bucket int
	}
	data := map[place][]byte{}
	var places []place
	err := tx.each(func(r Row) error {
		var room ident.RoomNID
		var p purgedID
		if err := r.Scan(&room, &p.hash, &p.sender); err != nil {
			return err
		}
		at := place{room, purgedBucket(p.hash)}
		if data[at] == nil {
			places = append(places, at)
		}
		data[at] = appendPurged(data[at], p)
		return nil
	}, toRememberQuery+list, args...)
	if err != nil {
		return err
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
		sender, err = findPurged(data, hash)
		return err
	}, findPurgedIDsQuery, int64(room), purgedBucket(hash))
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
