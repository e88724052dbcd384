package feed

import (
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// writeLeft appends the entry of a room that the user has left or was removed from: what happened up to then.
func (b *builder) writeLeft(m *rooms.RoomMembership) error {
	room, err := b.Rooms.RoomByNID(b.ctx, m.Room)
	if err != nil {
		return err
	}
	if !b.admits(room) {
		return nil
	}
	leave, wasIn, err := b.leave(room, m.Position)
	if err != nil || leave == nil {
		return err
	}
	var t timeline
	q := stateWanted{room: room, since: b.since.Pos, lazy: b.lazy(), leave: leave}
	if wasIn {
		q.window = b.window(room, b.since.Pos)
		q.window.events = slices.DeleteFunc(slices.Clone(q.window.events), func(e *rooms.Event) bool { return e.Pos > leave.Pos })
		t, err = b.timeline(room, q.window, b.since.Pos, leave.Pos)
	} else {
		t, q.nothing = b.onlyLeave(room, leave), true
	}
	if err != nil {
		return err
	}
	if q.lazy {
		q.needed = senders(t.events)
	}
	b.key(string(room.ID()))
	b.out = append(b.out, '{')
	if _, err := b.writeStates(&q, &t); err != nil {
		return err
	}
	b.writeRoomData(room, b.own.roomData[m.Room])
	if err := b.writeTimeline(room, &t); err != nil {
		return err
	}
	b.out[len(b.out)-1] = '}'
	b.out = append(b.out, ',')
	return nil
}

// onlyLeave is the timeline of somebody who was never in the room: the end of the invitation or knock, and nothing else. It
// is shown whatever the room's history visibility, because it is about the user.
func (b *builder) onlyLeave(room *rooms.Room, leave *rooms.Event) timeline {
	t := timeline{prev: leave.Order - 1, start: leave.Pos, plain: true}
	f := &b.filter.Room.Timeline
	if f.room(string(room.ID())) && f.event(leave.Type(), string(leave.Sender()), leave.Content()) && b.filter.timelineLimit() > 0 {
		t.events = []*rooms.Event{leave}
	}
	return t
}

// senders lists who sent events, each once.
func senders(events []*rooms.Event) []id.UserID {
	var list []id.UserID
	for _, e := range events {
		if !slices.Contains(list, e.Sender()) {
			list = append(list, e.Sender())
		}
	}
	return list
}

// leave reads the event by which the user left, and tells whether the user had been in the room until then.
func (b *builder) leave(room *rooms.Room, pos storage.Pos) (leave *rooms.Event, wasIn bool, err error) {
	err = b.read(func(tx *storage.Tx) error {
		events, err := eventsAt(tx, room, []storage.Pos{pos})
		if err != nil || len(events) == 0 {
			return err
		}
		leave = events[0]
		before, err := tx.StateKeyOf(leave.Snapshot, memberType, string(b.ID))
		if err != nil || before == 0 {
			return err
		}
		if events, err = eventsAt(tx, room, []storage.Pos{before}); err == nil && len(events) == 1 {
			raw, _ := canonjson.Get(events[0].Content(), "membership")
			wasIn = string(raw) == `"join"`
		}
		return err
	})
	return leave, wasIn, err
}

// fromSnapshot takes the state of a room that the user has left as it was then.
func (g *stateGatherer) fromSnapshot() error {
	return g.b.read(func(tx *storage.Tx) error {
		entries, err := tx.StateOf(g.q.first.Snapshot)
		if err != nil {
			return err
		}
		if g.q.first.Pos < g.q.before { // the state after it, then
			if key, isState := stateKey(g.q.first); isState {
				g.add(key, g.q.first.Pos, g.q.first)
			}
		}
		for _, e := range entries {
			key := pdu.StateKey{Type: e.Type, Key: e.Key}
			if e.Position <= g.q.since || g.have[key] {
				continue
			}
			if key.Type == memberType && g.q.lazy && g.q.since == 0 && !slices.Contains(g.q.needed, id.UserID(key.Key)) {
				continue
			}
			g.add(key, e.Position, nil)
		}
		return nil
	})
}
