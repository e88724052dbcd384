package outbox

import (
	"ebb/keyed"
	"ebb/storage"
)

// The pending messages of one user are bounded, so that nobody can fill the disk with messages to servers that do not
// respond, or displace messages of others; the user's own oldest messages are dropped.
const (
	// maxSenderEDUs bounds the messages of one user for one server: maxDurable holds those of ten.
	maxSenderEDUs = 2000
	// maxSenderBytes bounds all pending messages of one user; each counts eduCost more than its JSON.
	maxSenderBytes = 64 << 20
	eduCost        = 4 << 10
	// measureEvery is how much is added before the messages of a user are measured again, which reads all of them.
	measureEvery = 1 << 20
	// maxMeasured bounds the users in senders.left; the counts of other users start again.
	maxMeasured = 20_000
)

// senders records how much each user may add before the user's messages are measured. It is used within writes.
type senders struct{ left *keyed.Map[int64, int64] }

func newSenders() senders { return senders{keyed.NewMap[int64, int64](maxMeasured)} }

// add counts a new message of a sender. It reports whether the messages of that sender that wait have to be added up
// again.
func (s *senders) add(sender int64, size int) (measure bool) {
	s.left.Update(sender, func(left int64, known bool) int64 {
		if !known {
			left = measureEvery
		}
		left -= int64(size) + eduCost
		if measure = left < 0; measure {
			left = measureEvery
		}
		return left
	})
	return measure
}

// trim drops the excess messages of a sender.
func (s *senders) trim(tx *storage.Tx, sender int64) error {
	rows, err := tx.EDUsOfSender(sender)
	if err != nil {
		return err
	}
	return tx.DeleteEDUs(surplus(rows))
}

// surplus returns the excess messages among those of a sender, given newest first.
func surplus(rows []storage.SentEDU) (drop []int64) {
	each, total := map[string]int{}, int64(0)
	for _, r := range rows {
		if each[r.Server] == maxSenderEDUs || total+r.Size+eduCost > maxSenderBytes {
			drop = append(drop, r.NID)
			continue
		}
		each[r.Server]++
		total += r.Size + eduCost
	}
	return drop
}
