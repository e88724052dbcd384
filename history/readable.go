package history

import (
	"context"
	"errors"

	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

// Readable returns events of a room that a user may see, the oldest first: at most limit after an order in the
// timeline. It leaves out those that are hidden by history visibility, have expired, or were sent by an ignored user;
// none is left if the user may not read the room. next is the order after which the following call continues, and more
// reports whether there may be more events. It does not ask other servers for events that are not stored.
func (s *Service) Readable(ctx context.Context, room *rooms.Room, to ident.Requester, after ident.Order, limit int) (events []*rooms.Event, next ident.Order, more bool, err error) {
	err = s.reading(ctx, room.ID(), to, func(tx *storage.Tx, v *viewer) error {
		c := cursor{window: window{after: after, upTo: v.room.LastOrder()}}
		if err := v.capAtLeave(tx, &c.window); err != nil {
			return err
		}
		found, sights, err := v.walk(tx, &c, limit, &EventFilter{}, v.timeline)
		if err != nil {
			return err
		}
		events, next, more = make([]*rooms.Event, len(found)), c.after, !c.done
		for i, e := range found {
			if events[i], err = v.shown(e, sights[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, errNotReadable) {
		return nil, after, false, nil
	}
	return events, next, more, err
}
