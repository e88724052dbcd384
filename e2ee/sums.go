package e2ee

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"ebb/keyed"
	"ebb/storage"
)

// The messages of one sender that wait in the queues of all devices are bounded too, since a sender who fills the queue
// of each device would fill the disk.
const (
	// maxUserBacklog bounds the messages of a local user. A room key for 10,000 devices counts about 25 MiB.
	maxUserBacklog = 256 << 20
	// maxAppServiceBacklog bounds the messages of all users of an application service. It is large, because a bridge
	// shares keys with everybody.
	maxAppServiceBacklog = 1 << 30
	// maxServerBacklog bounds the messages of all users of another server, and maxServerStrangers those to users who
	// share no room with the sender.
	maxServerBacklog   = 1 << 30
	maxServerStrangers = 64 << 20
	// sumSteps is the part of its bound that a sender must have added before the messages are counted again.
	sumSteps = 16
	// maxSums bounds the senders in sums.left. Counting starts again for one that was displaced.
	maxSums = 20_000
	// dropStep is how many messages one write drops at most.
	dropStep = 500
)

// sender identifies those whose messages have a bound in common: a local user, an application service, another server,
// or those users of another server who share no room with the recipients.
type sender struct {
	origin   int64 // storage.ToDeviceFrom.Origin
	stranger bool
}

// sums records how much each sender may still add before the messages of the sender have to be counted.
type sums struct {
	left *keyed.Map[sender, int64]
	// trimming admits one count per sender at a time.
	trimming *keyed.Semaphore[sender]
	// user, appservice, server and strangers are the bounds.
	user, appservice, server, strangers int64
}

func newSums() sums {
	return sums{
		left: keyed.NewMap[sender, int64](maxSums), trimming: keyed.NewSemaphore[sender](1, 0),
		user: maxUserBacklog, appservice: maxAppServiceBacklog, server: maxServerBacklog, strangers: maxServerStrangers,
	}
}

// add adds the cost of new messages of a sender. It reports whether the messages of the sender have to be counted now.
func (s *sums) add(of sender, cost, bound int64) (count bool) {
	s.left.Update(of, func(left int64, known bool) int64 {
		if !known {
			left = bound / sumSteps
		}
		left -= cost
		if count = left < 0; count {
			left = bound / sumSteps
		}
		return left
	})
	return count
}

// boundSender drops messages of a sender from the queues of devices if they exceed a bound. It is called after messages
// of the given cost were queued and before the request is answered, so that whoever sends a flood waits for this.
func (s *Service) boundSender(ctx context.Context, of sender, cost, bound int64) {
	if cost == 0 || !s.sums.add(of, cost, bound) {
		return
	}
	ctx = context.WithoutCancel(ctx)
	done, err := s.sums.trimming.Acquire(ctx, of)
	if err == nil {
		defer done()
		err = s.trimSender(ctx, of, bound)
	}
	if err != nil {
		s.opts.Log.ErrorContext(ctx, "Cannot drop the messages to devices that exceed the bound of their sender; trying again when more arrive", "error", err)
	}
}

func (s *Service) trimSender(ctx context.Context, of sender, bound int64) error {
	var all []storage.ToDeviceSum
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		all, err = tx.ToDeviceSums(of.origin, of.stranger)
		return err
	})
	if err != nil {
		return err
	}
	at := s.opts.DB.Pace(dropStep)
	list, total := excesses(all, bound)
	for _, x := range list {
		from := storage.ToDeviceFrom{Origin: of.origin, Sender: x.Sender, Stranger: of.stranger}
		for excess := min(x.excess, total); excess > 0; {
			limit, n, freed := at.Step(), 0, int64(0)
			err := s.opts.DB.Enqueue(storage.Write{Rests: true, Do: func(tx *storage.Tx) error {
				defer at.Measure()()
				rows, err := tx.OldestToDevice(from, x.Device, limit)
				if err != nil {
					return err
				}
				var drop []storage.Pos
				for ; n < len(rows) && freed < excess; n++ {
					drop, freed = append(drop, rows[n].Position), freed+costOf(rows[n])
				}
				return tx.DropToDevice(drop)
			}}).Wait(ctx)
			if err != nil {
				return err
			}
			excess, total = excess-freed, total-freed
			if n < limit { // that was enough, or the rest was delivered meanwhile
				break
			}
			at.Rest(ctx, 1, true)
		}
	}
	return nil
}

// excess is how much of what a sender has in the queue of a device is to be dropped.
type excess struct {
	storage.ToDeviceSum
	excess int64
}

// excesses returns what to drop so that the sums, if they exceed a bound, are an eighth below it, and the total of
// that. It takes from the users who have sent the most, and of their messages from the devices for which there are the
// most. Whoever drops whole messages must stop at the total: otherwise a message would be dropped for each device.
func excesses(all []storage.ToDeviceSum, bound int64) (out []excess, total int64) {
	bySender := map[int64][]storage.ToDeviceSum{}
	costs := map[int64]int64{}
	for _, sum := range all {
		bySender[sum.Sender] = append(bySender[sum.Sender], sum)
		costs[sum.Sender] += costOfSum(sum)
		total += costOfSum(sum)
	}
	target := bound - bound/8
	if total <= bound {
		return nil, 0
	}
	each := waterLevel(slices.Collect(maps.Values(costs)), target)
	for sender, sums := range bySender {
		if costs[sender] <= each {
			continue
		}
		var devices []int64
		for _, sum := range sums {
			devices = append(devices, costOfSum(sum))
		}
		level := waterLevel(devices, each)
		for i, sum := range sums {
			if devices[i] > level {
				out = append(out, excess{sum, devices[i] - level})
			}
		}
	}
	slices.SortFunc(out, func(a, b excess) int { return cmp.Compare(b.excess, a.excess) })
	return out, total - target
}

func costOfSum(s storage.ToDeviceSum) int64 { return s.Size + s.Messages*messageCost }
