package history

import (
	"context"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/expiry"
	"ebb/rooms/graph"
	"ebb/rooms/visibility"
	"ebb/storage"
)

// Bounds of one search for the event closest to a time.
const (
	// maxTimeScan bounds the events that are passed over because they are certainly hidden. It takes some 0.3 s.
	maxTimeScan = 200_000
	// minTimeBatch and maxTimeBatch are the numbers of events that are read first and at most, without their JSON.
	minTimeBatch = 16
	maxTimeBatch = 4096
)

// TimestampToEvent returns the event closest to a time among those at or after it, or at or before it when backwards,
// that the requester may see. Of events with the same time it returns the first one in the given direction.
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

// closestEvent is the event closest to the requested time among the events that this server has.
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
		c.uncertain, err = v.gapNear(tx, c.event, at.UnixMilli(), backwards)
		return err
	})
	return c, err
}

// gapNear reports whether events are missing, which other servers may have, between the closest event on one side of a
// time and the one on the other side.
func (v *viewer) gapNear(tx *storage.Tx, closest *rooms.Event, ts int64, backwards bool) (bool, error) {
	from := newTimeWalk(v.room, ts, !backwards).last
	beyond, err := tx.EventsByTime(v.room.NID(), from, !backwards, 1)
	if err != nil {
		return false, err
	}
	w := everything()
	older, newer := closest, closest
	if backwards {
		newer = nil
	} else {
		older = nil
	}
	if older != nil {
		w.after = older.Order
	}
	if newer != nil {
		w.upTo = newer.Order - 1 // gap also checks the event above
	}
	if len(beyond) > 0 && beyond[0].Order > w.after && beyond[0].Order <= w.upTo { // not if a timestamp is out of order
		if backwards {
			w.upTo = beyond[0].Order - 1
		} else {
			w.after = beyond[0].Order
		}
	}
	g, err := v.gap(tx, &w)
	return g.found, err
}

// closestElsewhere asks other servers for the closest event. If one of them has an event that is closer than here, the
// closest event of this server, it fetches the missing events up to that event and searches again. If too many events
// are missing, it fetches only some of them before the new search.
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

// nearer reports whether the time ts is closer to the requested time than other is. Both are on the same side of the
// requested time: before it if backwards is set, and otherwise after it.
func nearer(ts, other int64, backwards bool) bool {
	if backwards {
		return ts > other
	}
	return ts < other
}

// closest returns the closest event that the viewer may see, nil if there is none.
func (v *viewer) closest(tx *storage.Tx, ts int64, backwards bool) (*rooms.Event, error) {
	r := &timeViewer{viewer: v, window: everything(), ignored: map[ident.UserNID]bool{}}
	if err := v.capAtLeave(tx, &r.window); err != nil {
		return nil, err
	}
	walk := newTimeWalk(v.room, ts, backwards)
	return walk.first(tx, r)
}

// timeReader is the user or the server on whose behalf the event closest to a time is searched.
type timeReader interface {
	// likely leaves out events that the reader certainly may not see, as far as it can without their JSON.
	likely(tx *storage.Tx, events []storage.TimedEvent) ([]storage.TimedEvent, error)
	// visible returns the events that the reader may see.
	visible(tx *storage.Tx, events []*rooms.Event) ([]*rooms.Event, error)
}

// timeWalk reads a room's events in the order of their timestamps, whatever their order in the timeline.
type timeWalk struct {
	room      *rooms.Room
	backwards bool
	last      storage.TimePoint // the next batch begins after it
	batch     int               // size of the next batch
	scanned   int               // events read without their JSON
	rows      cursor            // counts the events read with their JSON
	done      bool
}

func newTimeWalk(room *rooms.Room, ts int64, backwards bool) *timeWalk {
	w := &timeWalk{room: room, backwards: backwards, last: storage.TimePoint{OriginTS: ts}, batch: minTimeBatch}
	if backwards {
		w.last.Order = everything().upTo // so that events at ts itself are included
	}
	return w
}

// first returns the first event that the reader may see. It returns nil if there is none among the events that one
// request may examine.
func (w *timeWalk) first(tx *storage.Tx, r timeReader) (*rooms.Event, error) {
	for !w.done {
		batch, err := w.next(tx)
		if err != nil {
			return nil, err
		}
		if batch, err = r.likely(tx, batch); err != nil {
			return nil, err
		}
		for part := range slices.Chunk(batch, scanBatch) {
			events, err := w.load(tx, part)
			if err != nil {
				return nil, err
			}
			if events, err = r.visible(tx, events); err != nil || len(events) > 0 {
				return firstOf(events), err
			}
			if w.rows.atLimit() {
				return nil, nil
			}
		}
	}
	return nil, nil
}

func firstOf(events []*rooms.Event) *rooms.Event {
	if len(events) == 0 {
		return nil
	}
	return events[0]
}

func (w *timeWalk) next(tx *storage.Tx) ([]storage.TimedEvent, error) {
	events, err := tx.EventsByTime(w.room.NID(), w.last, w.backwards, w.batch)
	if n := len(events); n > 0 {
		w.last = events[n-1].TimePoint
	}
	w.scanned += len(events)
	w.done = len(events) < w.batch || w.scanned >= maxTimeScan
	w.batch = min(4*w.batch, maxTimeBatch)
	return events, err
}

// load reads events in the order of part.
func (w *timeWalk) load(tx *storage.Tx, part []storage.TimedEvent) ([]*rooms.Event, error) {
	positions := make([]storage.Pos, len(part))
	for i := range part {
		positions[i] = part[i].Position
	}
	found, err := w.room.EventsAt(tx, positions)
	events := make([]*rooms.Event, 0, len(part))
	for _, p := range positions {
		if e := found[p]; e != nil {
			events = append(events, e)
			w.rows.bytes += len(e.JSON())
		}
	}
	w.rows.rows += len(events)
	return events, err
}

// timeViewer is the timeReader for a user.
type timeViewer struct {
	*viewer
	window  window
	ignored map[ident.UserNID]bool // senders of events that turned out to be hidden since the viewer ignores them
}

// likely implements timeReader. It can decide much without the JSON of the events: the history visibility of a message
// depends only on the state before it, which many messages share.
func (v *timeViewer) likely(tx *storage.Tx, events []storage.TimedEvent) ([]storage.TimedEvent, error) {
	events = slices.DeleteFunc(events, func(e storage.TimedEvent) bool {
		return e.Flags&storage.HiddenEvent != 0 || e.Order > v.window.upTo ||
			!e.IsState && (v.ignored[e.Sender] || expiry.Expired(v.policy, e.OriginTS, e.ReceivedTS, v.now))
	})
	var snapshots []int64
	for i := range events {
		if v.dependsOnState(&events[i]) {
			snapshots = append(snapshots, events[i].Snapshot)
		}
	}
	pasts, err := v.pastsOf(tx, snapshots)
	if err != nil {
		return nil, err
	}
	likely := events[:0]
	for i := range events {
		sees := true
		if v.dependsOnState(&events[i]) {
			view, err := v.view(tx, events[i].Order, pasts[events[i].Snapshot])
			if err != nil {
				return nil, err
			}
			sees = visibility.CanSee(view)
		}
		if sees {
			likely = append(likely, events[i])
		}
	}
	return likely, nil
}

// dependsOnState reports whether likely needs the state before an event to find out whether the viewer may see the
// event. It does not for an event sent since the viewer joined, which is nearly always visible. It also does not for a
// state event, which may itself change what visibility depends on.
func (v *timeViewer) dependsOnState(e *storage.TimedEvent) bool {
	return !e.IsState && !(v.joined && v.joinedPos != 0 && e.Order >= ident.Order(v.joinedPos)*graph.OrderStep)
}

// visible implements timeReader.
func (v *timeViewer) visible(tx *storage.Tx, events []*rooms.Event) ([]*rooms.Event, error) {
	for _, e := range events {
		if _, ignored := v.viewer.ignored[e.Sender()]; ignored {
			v.ignored[e.SenderNID] = true
		}
	}
	found, _, err := v.filter(tx, events)
	return found, err
}
