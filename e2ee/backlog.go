package e2ee

import (
	"math"
	"slices"
	"sync"
	"time"

	"ebb/ident"
	"ebb/storage"
)

// The to-device queue of a device that does not sync is bounded in bytes. Each message counts messageCost more than the
// length of its JSON. When the queue exceeds its bound, messages of the senders with the most queued messages are
// dropped first, so that a flood displaces only itself.
const (
	// maxToDeviceBacklog bounds the queue of a device. It has room for about 10,000 room keys.
	maxToDeviceBacklog = 32 << 20
	// maxStrangerBacklog bounds the part of a queue that comes from senders who share no room with the receiver. It is
	// enough for verification requests.
	maxStrangerBacklog = 1 << 20
	messageCost        = 1 << 10
	// measureEvery is how much must have been added to a queue before it is measured again, because measuring reads the
	// whole queue.
	measureEvery = maxToDeviceBacklog / 64
	// strangersCount is the factor by which messages from strangers count more towards measureEvery. Their bound is
	// lower, so a queue with such messages has to be measured more often.
	strangersCount = 4
)

// backlogs records, for the queue of each device, how much may still be added before the queue has to be read and
// measured. Only writes use it.
type backlogs struct {
	// mu guards left; a leaf lock.
	mu   sync.Mutex
	left map[ident.DeviceNID]int64 // device → cost
}

// add counts a message for a device and reports whether the queue of the device has to be measured now.
func (b *backlogs) add(device ident.DeviceNID, cost int64, stranger bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	left, known := b.left[device]
	if !known {
		if b.left == nil || len(b.left) >= maxDeviceNames {
			b.left = map[ident.DeviceNID]int64{}
		}
		left = measureEvery
	}
	if stranger {
		cost *= strangersCount
	}
	b.left[device] = left - cost
	return left < cost
}

func (b *backlogs) measured(device ident.DeviceNID, left int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left[device] = max(left, measureEvery)
}

// trim drops messages from a device's queue until the queue is within its bounds.
func (b *backlogs) trim(tx *storage.Tx, device ident.DeviceNID) error {
	rows, err := tx.ToDeviceBacklog(device)
	if err != nil {
		return err
	}
	drop, left := overflow(rows)
	b.measured(device, left)
	return tx.DropToDevice(drop)
}

// overflow returns the messages to drop from a queue, and how much may be added to the rest before it exceeds its
// bound.
func overflow(rows []storage.BacklogRow) (drop []storage.Pos, left int64) {
	var strangers, others []storage.BacklogRow
	var fromStrangers, total int64
	for _, r := range rows {
		total += costOf(r)
		if r.Stranger {
			strangers, fromStrangers = append(strangers, r), fromStrangers+costOf(r)
		} else {
			others = append(others, r)
		}
	}
	// An eighth more than necessary is dropped, so that the queue need not be read again soon.
	if fromStrangers > maxStrangerBacklog {
		cut, freed := cutToFit(strangers, maxStrangerBacklog-maxStrangerBacklog/8)
		drop, total, fromStrangers = cut, total-freed, fromStrangers-freed
	}
	if total > maxToDeviceBacklog {
		cut, freed := cutToFit(others, maxToDeviceBacklog-maxToDeviceBacklog/8-fromStrangers)
		drop, total = append(drop, cut...), total-freed
	}
	return drop, min(maxToDeviceBacklog-total, strangersCount*(maxStrangerBacklog-fromStrangers))
}

func costOf(r storage.BacklogRow) int64 { return r.Size + messageCost }

// cutToFit returns the rows to drop so that the others cost at most target. It takes rows from the servers that sent
// the most, and of such a server from the users who sent the most. Of a user's rows it drops the oldest first.
func cutToFit(rows []storage.BacklogRow, target int64) (drop []storage.Pos, freed int64) {
	byOrigin := group(rows, func(r storage.BacklogRow) int64 { return r.Origin })
	level := waterLevel(costsOf(byOrigin), target)
	for _, origin := range byOrigin {
		if origin.cost <= level {
			continue
		}
		bySender := group(origin.rows, func(r storage.BacklogRow) int64 { return r.Sender })
		each := waterLevel(costsOf(bySender), level)
		for _, sender := range bySender {
			for cost, i := sender.cost, 0; cost > each; i++ {
				row := sender.rows[i]
				cost -= costOf(row)
				drop, freed = append(drop, row.Position), freed+costOf(row)
			}
		}
	}
	return drop, freed
}

// rowGroup is a set of rows of one origin or sender, in their original order.
type rowGroup struct {
	rows []storage.BacklogRow
	cost int64
}

func group(rows []storage.BacklogRow, by func(storage.BacklogRow) int64) []*rowGroup {
	known := map[int64]*rowGroup{}
	var out []*rowGroup
	for _, r := range rows {
		g := known[by(r)]
		if g == nil {
			g = &rowGroup{}
			known[by(r)] = g
			out = append(out, g)
		}
		g.rows, g.cost = append(g.rows, r), g.cost+costOf(r)
	}
	return out
}

func costsOf(groups []*rowGroup) (costs []int64) {
	for _, g := range groups {
		costs = append(costs, g.cost)
	}
	return costs
}

// waterLevel returns the largest bound on each cost for which all together are at most target.
func waterLevel(costs []int64, target int64) int64 {
	sorted := slices.Sorted(slices.Values(costs))
	for i, cost := range sorted {
		if share := target / int64(len(sorted)-i); cost > share {
			return max(share, 0)
		}
		target -= cost
	}
	return math.MaxInt64 // everything fits
}

// Each message to a user who shares no room with the sender leaves a record, which ensures that it is delivered only
// once.
const (
	// maxStrangerMessages bounds these messages for one server in a strangerWindow. maxAllStrangerMessages bounds them
	// for all servers together.
	maxStrangerMessages    = 1000
	maxAllStrangerMessages = 50_000
	strangerWindow         = time.Hour
)

// strangers counts, for each server, the messages to users who share no room with the sender.
type strangers struct {
	// mu guards the fields below; a leaf lock.
	mu    sync.Mutex
	since time.Time
	all   int
	by    map[string]int
}

// allow counts a message from a server and reports whether to accept it.
func (s *strangers) allow(server string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil || now.Sub(s.since) >= strangerWindow {
		s.since, s.all, s.by = now, 0, map[string]int{}
	}
	if s.all >= maxAllStrangerMessages || s.by[server] >= maxStrangerMessages {
		return false
	}
	s.all++
	s.by[server]++
	return true
}
