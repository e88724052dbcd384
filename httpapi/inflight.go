package httpapi

import (
	"hash/maphash"
	"sync/atomic"
)

// maxUserRequests bounds the concurrent requests of one user, including long polls.
const maxUserRequests = 500

// inFlight counts the requests in progress per requester, without a lock. Requesters are hashed to slots, so two
// requesters occasionally share a count.
type inFlight struct {
	seed  maphash.Seed
	slots [1 << 13]atomic.Int32
}

// enter counts a request, unless its requester already has most requests in progress. The caller decrements the slot
// when the request is done.
func (f *inFlight) enter(who string, most int) (slot *atomic.Int32, ok bool) {
	slot = &f.slots[maphash.String(f.seed, who)%uint64(len(f.slots))]
	if int(slot.Add(1)) > most {
		slot.Add(-1)
		return nil, false
	}
	return slot, true
}
