package feed

import (
	"context"
	"slices"
	"strconv"

	"ebb/canonjson"
	"ebb/history"
	"ebb/rooms"
)

// writeTimeline appends the timeline of a room.
func (b *builder) writeTimeline(ctx context.Context, n *roomNews) error {
	t := &n.timeline
	b.out = append(b.out, `"timeline":{"events":[`...)
	if err := b.writeEvents(ctx, n.room, t); err != nil {
		return err
	}
	b.out = append(b.out, `],"limited":`...)
	b.out = strconv.AppendBool(b.out, t.limited)
	b.out = append(b.out, `,"prev_batch":"`...)
	b.out = append(b.out, history.TimelineToken(t.prev)...)
	b.out = append(b.out, `"},`...)
	return nil
}

// writeStateSection appends the state of a room under the name that the client asked for.
func (b *builder) writeStateSection(ctx context.Context, n *roomNews) error {
	b.key(b.stateName())
	b.out = append(b.out, `{"events":[`...)
	if err := b.writeState(ctx, n.room, n.state); err != nil {
		return err
	}
	b.out = append(b.out, `]},`...)
	return nil
}

// stateName returns the name under which the answer has the state. There is only one, even for clients that ask for
// both: clients for which both names are the same field refuse an answer with both.
func (b *builder) stateName() string {
	switch {
	case b.StateAfter:
		return "state_after"
	case b.UnstableStateAfter:
		return "org.matrix.msc4222.state_after"
	}
	return "state"
}

// writeEvents appends the events of a timeline, comma separated, in the format that the filter asks for.
func (b *builder) writeEvents(ctx context.Context, room *rooms.Room, t *timeline) (err error) {
	switch {
	case len(t.events) == 0:
		return nil
	case b.filter.Federation:
		return b.writeRaw(ctx, room, t.events)
	}
	opt := history.FormOptions{Bundle: mayBeRelated(room, t.events)}
	if b.filter.EventFields == nil {
		b.out, err = t.view.Append(ctx, b.tx, b.out, t.events, opt)
		return err
	}
	for i := range t.events {
		var form []byte
		if form, err = t.view.Append(ctx, b.tx, nil, t.events[i:i+1], opt); err != nil {
			return err
		}
		b.out = selectFields(b.list(), form, b.filter.EventFields)
	}
	return nil
}

// mayBeRelated reports whether some event may relate to one of the given events. Such an event comes later; if all
// later events are in memory, they are examined there. So a client that is woken by a message gets it without a
// database read.
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

// writeRaw appends events in the federation format.
func (b *builder) writeRaw(ctx context.Context, room *rooms.Room, events []*rooms.Event) error {
	shown, err := b.opts.History.Shown(ctx, b.tx, room, events, b.Requester)
	for _, e := range shown {
		b.out = append(b.list(), e.JSON()...)
	}
	return err
}

// writeState appends the events of a room's state, comma separated.
func (b *builder) writeState(ctx context.Context, room *rooms.Room, events []*rooms.Event) (err error) {
	switch {
	case len(events) == 0:
	case b.filter.Federation:
		err = b.writeRaw(ctx, room, events)
	case b.filter.EventFields == nil:
		b.out, err = b.opts.History.AppendState(ctx, b.tx, b.out, room, events, b.Requester)
	default:
		for _, e := range events {
			var form []byte
			if form, err = b.opts.History.AppendState(ctx, b.tx, nil, room, []*rooms.Event{e}, b.Requester); err != nil {
				return err
			}
			b.out = selectFields(b.list(), form, b.filter.EventFields)
		}
	}
	return err
}
