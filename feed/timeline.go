package feed

import (
	"slices"

	"ebb/canonjson"
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

// window is a stretch of a room's timeline, as far as memory reaches back: what came in (since, upTo].
type window struct {
	events []*rooms.Event // oldest first, hidden ones left out
	whole  bool           // events is everything since then
}

// timeline is what a room's timeline section tells.
type timeline struct {
	events  []*rooms.Event // oldest first
	limited bool
	last    storage.Pos // the timeline ends here
	prev    ident.Order // order for prev_batch: older events come before it
	start   statePoint  // before the first event
	view    *history.View
}

// begin sets where the timeline begins.
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

// fromCreation reports whether the timeline begins with the room.
func (t *timeline) fromCreation() bool {
	return len(t.events) > 0 && t.events[0].Type() == "m.room.create"
}

// window gives the events of a room after a position, up to the answer's.
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

// timeline selects the newest events after since (exclusive) up to last (inclusive) that the viewer may see and the filter
// lets through.
func (b *builder) timeline(room *rooms.Room, w window, since, last storage.Pos) (timeline, error) {
	t := timeline{last: last, view: b.opts.History.View(room, b.Requester)}
	t.begin()
	limit := b.filter.timelineLimit()
	if !b.filter.Room.Timeline.room(string(room.ID())) {
		return t, nil
	}
	walk := timelineWalk{b: b, room: room, view: t.view, since: since, before: last + 1, window: w}
	for !walk.done && len(t.events) <= limit {
		page, err := walk.page()
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
	before storage.Pos // everything from here on was walked
	window window
	pages  int
	done   bool // there is nothing older after since
	cut    bool // there may be, but the walk was long enough
}

// page gives the next older stretch, oldest first: only what the viewer may see.
func (k *timelineWalk) page() ([]*rooms.Event, error) {
	events, err := k.next()
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
	return k.view.Visible(k.b.ctx, k.b.tx, kept)
}

// next gives the next older stretch, and ends the walk where something is missing before an event: what is older does not
// belong to the same timeline, so long as nobody has asked for what lies between.
func (k *timelineWalk) next() ([]*rooms.Event, error) {
	events, err := k.stretch()
	for i := len(events) - 1; i >= 0; i-- {
		if events[i].Flags&storage.GapEvent != 0 {
			k.cut = !k.done || i > 0
			k.done = true
			return events[i:], err
		}
	}
	return events, err
}

func (k *timelineWalk) stretch() ([]*rooms.Event, error) {
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
	err := k.b.read(func(tx *storage.Tx) error {
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

// writeEvents appends the events of a timeline, comma separated, as the client asked for them.
func (b *builder) writeEvents(room *rooms.Room, t *timeline) (err error) {
	switch {
	case len(t.events) == 0:
		return nil
	case b.filter.Federation:
		return b.writeRaw(room, t.events)
	}
	opt := history.FormOptions{Bundle: mayBeRelated(room, t.events)}
	if b.filter.EventFields == nil {
		b.out, err = t.view.Append(b.ctx, b.tx, b.out, t.events, opt)
		return err
	}
	for i := range t.events {
		var form []byte
		if form, err = t.view.Append(b.ctx, b.tx, nil, t.events[i:i+1], opt); err != nil {
			return err
		}
		b.out = selectFields(b.list(), form, b.filter.EventFields)
	}
	return nil
}

// mayBeRelated tells whether an event may relate to one of these. A client that is woken by a message gets it without a
// look into the database: whatever relates to it came later and is in memory.
func mayBeRelated(room *rooms.Room, events []*rooms.Event) bool {
	ring, reach := room.Ring()
	oldest := events[0].Pos
	if oldest <= reach {
		return true
	}
	later, _ := slices.BinarySearchFunc(ring, oldest+1, byPos)
	return slices.ContainsFunc(ring[later:], func(e *rooms.Event) bool {
		_, relates := canonjson.Get(e.Content(), "m.relates_to")
		return relates
	})
}

// writeRaw appends events in the form in which servers exchange them.
func (b *builder) writeRaw(room *rooms.Room, events []*rooms.Event) error {
	shown, err := b.opts.History.Shown(b.ctx, b.tx, room, events, b.Requester)
	for _, e := range shown {
		b.out = append(b.list(), e.JSON()...)
	}
	return err
}

// writeState appends events of a state of a room, comma separated.
func (b *builder) writeState(room *rooms.Room, events []*rooms.Event) (err error) {
	switch {
	case len(events) == 0:
	case b.filter.Federation:
		err = b.writeRaw(room, events)
	case b.filter.EventFields == nil:
		b.out, err = b.opts.History.AppendState(b.ctx, b.tx, b.out, room, events, b.Requester)
	default:
		for _, e := range events {
			var form []byte
			if form, err = b.opts.History.AppendState(b.ctx, b.tx, nil, room, []*rooms.Event{e}, b.Requester); err != nil {
				return err
			}
			b.out = selectFields(b.list(), form, b.filter.EventFields)
		}
	}
	return err
}
