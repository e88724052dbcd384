package outbox

import (
	"ebb/keyed"
	"ebb/storage"
)

// The pending messages of each user are bounded, so that nobody can fill the disk with messages to servers that do not
// respond, or displace the messages of others. Beyond the bound, the user's own oldest messages are dropped.
const (
	// maxSenderEDUs bounds the messages of one user for one server. maxDurable has room for those of ten users.
	maxSenderEDUs = 2000
	// maxSenderBytes bounds all pending messages of one user. Each counts eduCost more than the length of its JSON.
	maxSenderBytes = 64 << 20
	eduCost        = 4 << 10
	// measureEvery is how much must have been added before the messages of a user are measured again, because measuring
	// reads all of them.
	measureEvery = 1 << 20
	// maxMeasured bounds the users in senders.left. Counting starts again for a user who was displaced.
	maxMeasured = 20_000
)

// senders records how much each user may still add before the pending messages of the user have to be read and
// measured. Only writes use it.
type senders struct{ left *keyed.Map[int64, int64] }

func newSenders() senders { return senders{keyed.NewMap[int64, int64](maxMeasured)} }

// add counts a new message of a sender. It reports whether the pending messages of the sender have to be measured.
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

// surplus returns those messages of a sender that exceed the bounds. rows has the newest messages first.
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
