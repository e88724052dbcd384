package feed

import (
	"context"
	"slices"

	"ebb/history"
	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

const (
	// orderStep is the distance in timeline order of two live events: an event's order is its position times this.
	orderStep = 1 << 16
	// timelinePage is how many stored events are read at a time, and maxTimelinePages how often for one room: a filter
	// that matches next to nothing ends the walk, and the timeline is limited there.
	timelinePage     = 100
	maxTimelinePages = 20
)

// window holds the events of a room between some position and the position of the answer, as far as they are in memory.
type window struct {
	events []*rooms.Event // oldest first, without hidden ones
	whole  bool           // all events between the positions are in memory
}

// timeline holds the events of a room that go into an answer as its timeline.
type timeline struct {
	events  []*rooms.Event // oldest first
	limited bool
	last    storage.Pos // the timeline ends here
	prev    ident.Order // order for prev_batch: older events come before it
	start   statePoint  // before the first event
	view    *history.View
}

// begin sets the fields start and prev to the beginning of the timeline.
func (t *timeline) begin() {
	if len(t.events) == 0 {
		t.start, t.prev = statePoint{pos: t.last + 1}, ident.Order(t.last+1)*orderStep-1
		return
	}
	first := t.events[0]
	t.start, t.prev = statePoint{pos: first.Pos, event: first}, first.Order-1
}

// drop removes the n oldest events.
func (t *timeline) drop(n int) {
	t.events, t.limited = t.events[n:], true
	t.begin()
}

// fromCreation reports whether the timeline begins with the creation of the room.
func (t *timeline) fromCreation() bool {
	return len(t.events) > 0 && t.events[0].Type() == "m.room.create"
}

// window returns the window of a room after the position since.
func (b *builder) window(room *rooms.Room, since storage.Pos) window {
	events, reach := room.Ring()
	from, _ := slices.BinarySearchFunc(events, since+1, byPos)
	to, _ := slices.BinarySearchFunc(events, b.upTo+1, byPos)
	return window{events: events[from:to], whole: reach <= since}
}

func byPos(e *rooms.Event, pos storage.Pos) int {
	switch {
	case e.Pos < pos:
		return -1
	case e.Pos > pos:
		return 1
	}
	return 0
}

// timeline selects up to limit of the newest events after since (exclusive) up to last (inclusive) that the user may
// see and the filter admits.
func (b *builder) timeline(ctx context.Context, room *rooms.Room, w window, since, last storage.Pos, limit int) (timeline, error) {
	t := timeline{last: last, view: b.opts.History.View(room, b.Requester)}
	t.begin()
	if !b.filter.Room.Timeline.room(string(room.ID())) {
		return t, nil
	}
	walk := timelineWalk{b: b, room: room, view: t.view, since: since, before: last + 1, window: w}
	for !walk.done && len(t.events) <= limit {
		page, err := walk.page(ctx)
		if err != nil {
			return t, err
		}
		for i := len(page) - 1; i >= 0 && len(t.events) <= limit; i-- {
			t.events = append(t.events, page[i])
		}
	}
	if t.limited = len(t.events) > limit || walk.cut; len(t.events) > limit {
		t.events = t.events[:limit]
	}
	slices.Reverse(t.events)
	t.begin()
	return t, nil
}

// timelineWalk goes back through a room's timeline, first in memory, then in the database.
type timelineWalk struct {
	b      *builder
	room   *rooms.Room
	view   *history.View
	since  storage.Pos
	before storage.Pos // events from this position on were visited
	window window
	pages  int
	done   bool // there is nothing older after since
	cut    bool // there may be older events, but the walk ended before them
}

// page returns the next older page, oldest event first. It holds only events that the user may see.
func (k *timelineWalk) page(ctx context.Context) ([]*rooms.Event, error) {
	events, err := k.next(ctx)
	if err != nil {
		return nil, err
	}
	filter := &k.b.filter.Room.Timeline
	kept := events
	if !filter.open() {
		kept = slices.DeleteFunc(slices.Clone(events), func(e *rooms.Event) bool {
			return !filter.event(e.Type(), string(e.Sender()), e.Content())
		})
	}
	if len(kept) == 0 {
		return nil, nil
	}
	return k.view.Visible(ctx, k.b.tx, kept)
}

// next returns the next older page, and ends the walk at a gap: events before a gap do not belong to the same timeline
// until somebody has backfilled it.
func (k *timelineWalk) next(ctx context.Context) ([]*rooms.Event, error) {
	events, err := k.stretch(ctx)
	for i := len(events) - 1; i >= 0; i-- {
		if events[i].Flags&storage.GapEvent != 0 {
			k.cut = !k.done || i > 0
			k.done = true
			return events[i:], err
		}
	}
	return events, err
}

func (k *timelineWalk) stretch(ctx context.Context) ([]*rooms.Event, error) {
	if k.pages++; k.pages == 1 {
		to, _ := slices.BinarySearchFunc(k.window.events, k.before, byPos)
		events := k.window.events[:to]
		if k.done = k.window.whole; k.done || len(events) > 0 {
			if len(events) > 0 {
				k.before = events[0].Pos
			}
			return events, nil
		}
	}
	if k.pages > maxTimelinePages {
		k.done, k.cut = true, true
		return nil, nil
	}
	var events []*rooms.Event
	err := k.b.read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.SyncTimeline(k.room.NID(), ident.Order(k.since+1)*orderStep-1, ident.Order(k.before)*orderStep, k.b.upTo, timelinePage)
		if err != nil {
			return err
		}
		if k.done = len(rows) < timelinePage; len(rows) > 0 {
			k.before = storage.Pos(rows[len(rows)-1].Order / orderStep)
		}
		rows = slices.DeleteFunc(rows, func(r storage.EventRow) bool { return r.Flags&storage.HiddenEvent != 0 })
		slices.Reverse(rows)
		events, err = k.room.LoadEvents(rows)
		return err
	})
	return events, err
}
