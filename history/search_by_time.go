package history

import (
	"context"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
)

// timeWindow is the number of events around a time that are compared, because the clocks of senders differ.
const timeWindow = 64

// TimestampToEvent returns the event closest to a time among those at or after it, or at or before it when backwards.
// Partial: timestamps are assumed to grow along the timeline; if a sender's clock is wrong by more than timeWindow
// events, its events are not found.
// Spec: client-server-api#get_matrixclientv1roomsroomidtimestamp_to_event
func (s *Service) TimestampToEvent(ctx context.Context, roomID id.RoomID, to ident.Requester, at time.Time, backwards bool) (eventID id.EventID, ts int64, err error) {
	here, err := s.closestHere(ctx, roomID, to, at, backwards)
	if err != nil {
		return "", 0, err
	}
	if here.uncertain {
		if here, err = s.closestElsewhere(ctx, roomID, to, at, backwards, here); err != nil {
			return "", 0, err
		}
	}
	if here.event == nil {
		return "", 0, mxerr.NotFound("There is no event in that direction from the given time")
	}
	return here.event.ID(), here.event.OriginServerTS(), nil
}

// closestEvent is the event closest to a time among those of this server.
type closestEvent struct {
	room      *rooms.Room
	event     *rooms.Event // nil: not found
	uncertain bool         // a closer one may be missing here
}

func (s *Service) closestHere(ctx context.Context, roomID id.RoomID, to ident.Requester, at time.Time, backwards bool) (c closestEvent, err error) {
	err = s.reading(ctx, roomID, to, func(tx *storage.Tx, v *viewer) (err error) {
		c.room = v.room
		if c.event, err = v.closest(tx, at.UnixMilli(), backwards); err != nil {
			return err
		}
		w := everything()
		if c.event != nil && backwards {
			w.after = c.event.Order
		}
		if c.event != nil && !backwards {
			w.upTo = c.event.Order - 1 // gap also checks the event above
		}
		g, err := v.gap(tx, &w)
		c.uncertain = g.found
		return err
	})
	return c, err
}

// closestElsewhere asks other servers, and fetches the events down to the one they return. If these are too many, it
// returns the local result.
func (s *Service) closestElsewhere(ctx context.Context, roomID id.RoomID, to ident.Requester, at time.Time, backwards bool, here closestEvent) (closestEvent, error) {
	eventID, ts, ok := s.rooms.AskTimestampToEvent(ctx, here.room, at.UnixMilli(), backwards)
	if !ok || here.event != nil && !nearer(ts, here.event.OriginServerTS(), backwards) {
		return here, nil
	}
	err := s.filling(ctx, roomID, to, func(tx *storage.Tx, v *viewer) (g gap, err error) {
		row, found, err := tx.EventByID(v.room.NID(), string(eventID))
		if err != nil || found && row.Order > 0 {
			return g, err
		}
		w := everything()
		return v.gap(tx, &w)
	})
	if err != nil {
		return here, err
	}
	return s.closestHere(ctx, roomID, to, at, backwards)
}

// closest walks from the position of a time to the first visible event in the given direction, and compares it with
// events nearby.
func (v *viewer) closest(tx *storage.Tx, ts int64, backwards bool) (*rooms.Event, error) {
	place, err := placeOf(tx, v.room, ts)
	if err != nil {
		return nil, err
	}
	c := cursor{window: window{after: 0, upTo: place}, backwards: true}
	if !backwards {
		c = cursor{window: window{after: place, upTo: everything().upTo}}
	}
	if c, err = widen(tx, v.room, c); err != nil {
		return nil, err
	}
	var best *rooms.Event
	for !c.done && !c.tired() {
		events, _, err := v.walk(tx, &c, 2*timeWindow, &EventFilter{}, v.timeline)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			if onSide(e, ts, backwards) && (best == nil || closer(e, best, backwards)) {
				best = e
			}
		}
		if best != nil {
			return best, nil
		}
	}
	return best, nil
}

func onSide(e *rooms.Event, ts int64, backwards bool) bool {
	if backwards {
		return e.OriginServerTS() <= ts
	}
	return e.OriginServerTS() >= ts
}

func closer(e, than *rooms.Event, backwards bool) bool {
	return nearer(e.OriginServerTS(), than.OriginServerTS(), backwards)
}

func nearer(ts, than int64, backwards bool) bool {
	if backwards {
		return ts > than
	}
	return ts < than
}

// widen moves the start of a walk back by timeWindow events.
func widen(tx *storage.Tx, r *rooms.Room, c cursor) (cursor, error) {
	if c.backwards {
		rows, err := tx.Timeline(r.NID(), c.upTo, everything().upTo, false, timeWindow)
		if n := len(rows); n > 0 {
			c.upTo = rows[n-1].Order
		}
		return c, err
	}
	rows, err := tx.Timeline(r.NID(), 0, c.after, true, timeWindow)
	if n := len(rows); n > 0 {
		c.after = rows[n-1].Order - 1
	}
	return c, err
}

// placeOf finds the order of the last event from before a time by binary search, 0 if there is none. An index by time
// would make every send slower, and this operation is rare.
func placeOf(tx *storage.Tx, r *rooms.Room, ts int64) (ident.Order, error) {
	low, high := ident.Order(0), r.LastOrder() // the event at low is from before ts, the one after high is not
	for low < high {
		middle := low + (high-low+1)/2
		p, found, err := tx.TimePointAt(r.NID(), middle)
		if err != nil {
			return 0, err
		}
		switch {
		case !found || p.Order <= low: // there is no event in (low, middle]
			next, found, err := tx.TimePointAfter(r.NID(), middle)
			if err != nil || !found || next.Order > high || next.OriginTS >= ts {
				return low, err
			}
			low = next.Order
		case p.OriginTS < ts:
			low = middle
		default:
			high = p.Order - 1
		}
	}
	return low, nil
}
