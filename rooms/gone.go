package rooms

import (
	"context"

	"ebb/rooms/expiry"
	"ebb/storage"
)

// GoneEvents returns those of the given events that are messages that have expired or were purged. Receipts, markers
// and subscriptions that name such an event must not be shown. Rooms in which nothing expires cost no query.
func (s *Service) GoneEvents(ctx context.Context, tx *storage.Tx, refs []storage.EventRef) (map[storage.EventRef]bool, error) {
	var doubtful []storage.EventRef
	for _, ref := range refs {
		r, err := s.RoomByNID(ctx, ref.Room)
		if err != nil {
			return nil, err
		}
		if r.Retention().Max != nil || r.PurgedBefore() != 0 {
			doubtful = append(doubtful, ref)
		}
	}
	if len(doubtful) == 0 {
		return nil, nil
	}
	ages, err := tx.EventAges(doubtful)
	if err != nil {
		return nil, err
	}
	gone := make(map[storage.EventRef]bool, len(doubtful))
	for _, ref := range doubtful {
		gone[ref] = true // unless it is found to be there
	}
	now := s.opts.Now()
	for _, a := range ages {
		r, err := s.RoomByNID(ctx, a.Room)
		if err != nil {
			return nil, err
		}
		if a.IsState || a.Flags&storage.GoneEvent == 0 && !expiry.Expired(r.Retention(), a.OriginTS, a.ReceivedTS, now) {
			delete(gone, a.EventRef)
		}
	}
	return gone, nil
}
