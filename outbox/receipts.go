package outbox

import (
	"context"

	"ebb/receipts"
	"ebb/rooms"
)

// maxReceipts bounds the commits whose receipts have not been queued yet. It is exceeded only when receipts are sent in
// several rooms with thousands of servers each.
const maxReceipts = 1000

// noteReceipts schedules the receipts of a commit for the servers in the room. Receipts may be lost.
func (s *Service) noteReceipts(c *rooms.Commit) {
	for i := range c.Receipts {
		if !c.Receipts[i].Public() || !c.Room.Shared() {
			continue
		}
		select {
		case s.receipts <- c:
		default:
			sentItems.WithLabelValues("edu", "dropped").Inc()
		}
		return
	}
}

// queueReceipts queues scheduled receipts until ctx ends. noteReceipts does not do this itself because a room may have
// thousands of servers, and the committer waits for a rooms.Listener.
func (s *Service) queueReceipts(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-s.receipts:
			for i := range c.Receipts {
				if r := &c.Receipts[i]; r.Public() {
					s.queueReceipt(c.Room, r)
				}
			}
		}
	}
}

func (s *Service) queueReceipt(room *rooms.Room, r *rooms.CommittedReceipt) {
	key, edu, err := receipts.EDU(room.ID(), r)
	if err != nil {
		s.opts.Log.Error("Cannot encode a receipt", "room", room.ID(), "err", err)
		return
	}
	for _, server := range room.OtherServers() {
		s.Queue(server, key, edu)
	}
}
