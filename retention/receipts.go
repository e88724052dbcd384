package retention

import (
	"context"
	"errors"

	"ebb/deletions"
	"ebb/ident"
	"ebb/rooms"
)

// signReceipts makes receipts of what was deleted, now that the files have been overwritten.
func (j *Job) signReceipts(ctx context.Context) error {
	err := j.opts.Deletions.CloseOpen(ctx, func(ctx context.Context, nid ident.RoomNID) (deletions.Room, error) {
		r, err := j.opts.Rooms.RoomByNID(ctx, nid)
		if errors.Is(err, rooms.ErrNoRoom) {
			return deletions.Room{}, nil
		}
		if err != nil {
			return deletions.Room{}, err
		}
		return deletions.Room{ID: r.ID(), Servers: r.OtherServers()}, nil
	})
	return errors.Join(err, j.opts.Deletions.Sign(ctx))
}
