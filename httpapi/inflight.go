package httpapi

import (
	"hash/maphash"
	"sync/atomic"
)

// maxUserRequests bounds the requests of one user that are being answered, long polls included.
const maxUserRequests = 500

// inFlight counts requests that are being answered by who asks, without a lock: by a hash, so that now and then two who ask
// count together.
type inFlight struct {
	seed  maphash.Seed
	slots [1 << 13]atomic.Int32
}

// enter counts a request unless there are as many as most. Leave the slot when it is answered.
func (f *inFlight) enter(who string, most int) (slot *atomic.Int32, ok bool) {
	slot = &f.slots[maphash.String(f.seed, who)%uint64(len(f.slots))]
	if int(slot.Add(1)) > most {
		slot.Add(-1)
		return nil, false
	}
	return slot, true
}
