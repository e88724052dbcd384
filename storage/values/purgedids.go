package values

import (
	"encoding/binary"
	"errors"

	"ebb/ident"
)

// purgedBuckets is the number of buckets into which the IDs of a room are divided.
const purgedBuckets = 16

// PurgedBucket returns the bucket of the event whose ID has the given hash.
func PurgedBucket(hash int64) int { return int(uint64(hash) % purgedBuckets) }

// PurgedID is an entry of purged_ids.
type PurgedID struct {
	Hash   int64 // IDHash of the event's ID
	Sender ident.UserNID
}

// AppendPurged appends an entry to the data of a row.
func AppendPurged(dst []byte, p PurgedID) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(p.Hash))
	return binary.AppendUvarint(dst, uint64(p.Sender))
}

var errPurgedIDs = errors.New("storage: a row of purged_ids is damaged")

// FindPurged returns the sender of the event whose ID has the given hash, 0 if data does not have it.
func FindPurged(data []byte, hash int64) (ident.UserNID, error) {
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
