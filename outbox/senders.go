package outbox

import (
	"sync"

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
	// maxMeasured bounds the users in senders.left; beyond it the counts start anew.
	maxMeasured = 20_000
)

// senders remembers of users how much they may add before their messages are counted. It is used by writes.
type senders struct {
	// mu guards left; a leaf.
	mu   sync.Mutex
	left map[int64]int64
}

// add counts a message and reports whether those of its sender are to be counted now.
func (s *senders) add(sender int64, size int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	left, known := s.left[sender]
	if !known {
		if s.left == nil || len(s.left) >= maxMeasured {
			s.left = map[int64]int64{}
		}
		left = measureEvery
	}
	if left -= int64(size) + eduCost; left < 0 {
		s.left[sender] = measureEvery
		return true
	}
	s.left[sender] = left
	return false
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
