package outbox

import (
	"ebb/keyed"
	"ebb/storage"
)

// The messages of one user that wait for other servers are bounded, so that nobody fills the disk with messages to servers that do not
// answer, or displaces messages of others; the user's own oldest are dropped.
const (
	// maxSenderEDUs bounds the messages of one user for one server: maxDurable holds those of ten.
	maxSenderEDUs = 2000
	// maxSenderBytes bounds all messages of one user, each counting eduCost more than its JSON.
	maxSenderBytes = 64 << 20
	eduCost        = 4 << 10
	// measureEvery is how much is added before the messages of a user are counted again, which costs a walk over them.
	measureEvery = 1 << 20
	// maxMeasured bounds the users in senders.left; the counts of others start anew.
	maxMeasured = 20_000
)

// senders remembers how much each user may add before the user's messages are counted. It is used by writes.
type senders struct{ left *keyed.Map[int64, int64] }

func newSenders() senders { return senders{keyed.NewMap[int64, int64](maxMeasured)} }

// add counts a message and reports whether those of its sender are to be counted now.
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

// trim drops what a sender has too much of.
func (s *senders) trim(tx *storage.Tx, sender int64) error {
	rows, err := tx.EDUsOfSender(sender)
	if err != nil {
		return err
	}
	return tx.DeleteEDUs(surplus(rows))
}

// surplus returns which messages of a sender, newest first, are too many.
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
