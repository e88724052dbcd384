package httpapi

import (
	"hash/maphash"
	"sync/atomic"
)

// maxUserRequests bounds the concurrent requests of one user, including long polls.
const maxUserRequests = 500

// inFlight counts the requests in progress per requester, without a lock. The counts are in a fixed number of slots. A
// requester's slot is determined by a hash, so two requesters occasionally share a count.
type inFlight struct {
	seed  maphash.Seed
	slots [1 << 13]atomic.Int32
}

// enter counts a request of the given requester. It returns false if the requester already has limit requests in
// progress. The caller decrements the slot when the request is done.
func (f *inFlight) enter(requester string, limit int) (slot *atomic.Int32, ok bool) {
	slot = &f.slots[maphash.String(f.seed, requester)%uint64(len(f.slots))]
	if int(slot.Add(1)) > limit {
		slot.Add(-1)
		return nil, false
	}
	return slot, true
}
