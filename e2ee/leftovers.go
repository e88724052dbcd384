package e2ee

import (
	"context"

	"ebb/storage"
)

// leftoversStep is how many rows of a deleted device one write deletes at most. A device can have left 32 MiB of
// messages and 64 MiB of keys.
const leftoversStep = 500

// deleteLeftovers deletes what deleted devices have left, in small writes.
func (s *Service) deleteLeftovers(ctx context.Context) error {
	at := s.opts.DB.Pace(leftoversStep)
	for {
		limit, n := at.Step(), 0
		err := s.opts.DB.Enqueue(storage.Write{Rests: true, Do: func(tx *storage.Tx) (err error) {
			defer at.Measure()()
			n, err = tx.DeleteLeftovers(limit)
			return err
		}}).Wait(ctx)
		if err != nil || n < limit {
			return err
		}
		at.Rest(ctx, 1, true)
	}
}
