package history

import (
	"context"
	"encoding/json"
	"errors"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/expiry"
	"ebb/storage"
)

// Reported returns the event that the requester wants to report. The requester must be in the room and able to see the
// event. Otherwise the error is the same as if the event did not exist.
func (s *Service) Reported(ctx context.Context, room id.RoomID, eventID id.EventID, by ident.Requester) (reported *rooms.Event, err error) {
	err = s.readingEvent(ctx, room, eventID, by, func(_ *storage.Tx, v *viewer, e *rooms.Event, _ sight) error {
		if !v.joined {
			return errNoEvent
		}
		reported = e
		return nil
	})
	return reported, err
}

// Unexpired returns the client forms of events for administrators, to whom visibility does not apply. Events that were
// purged or have expired are missing; redacted ones have no content.
func (s *Service) Unexpired(ctx context.Context, positions []storage.Pos) (map[storage.Pos]json.RawMessage, error) {
	var rows []storage.EventRow
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.EventsAt(positions)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := map[storage.Pos]json.RawMessage{}
	for i := range rows {
		room, err := s.rooms.RoomByNID(ctx, rows[i].Room)
		if errors.Is(err, rooms.ErrNoRoom) {
			continue
		}
		if err != nil {
			return nil, err
		}
		e, err := room.LoadEvent(&rows[i])
		if err != nil {
			return nil, err
		}
		gone := e.Flags&storage.GoneEvent != 0 || !e.IsState() && expiry.Expired(room.Retention(), e.OriginServerTS(), e.ReceivedTS, s.now())
		if !gone {
			out[e.Pos] = e.Form(true)
		}
	}
	return out, nil
}

// MessageExpired reports whether a message of a room has expired that was sent and received at the given times (ms). A
// message of an unknown room counts as expired.
func (s *Service) MessageExpired(ctx context.Context, room ident.RoomNID, originTS, receivedTS int64) (bool, error) {
	r, err := s.rooms.RoomByNID(ctx, room)
	if errors.Is(err, rooms.ErrNoRoom) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return expiry.Expired(r.Retention(), originTS, receivedTS, s.now()), nil
}
