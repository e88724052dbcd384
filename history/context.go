package history

import (
	"context"
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

// Surroundings is an event with the events around it.
type Surroundings struct {
	Start        string
	End          string
	EventsBefore []json.RawMessage // newest first
	Event        json.RawMessage
	EventsAfter  []json.RawMessage
	State        []json.RawMessage
}

// EventContext returns an event, up to limit events around it, and the state at the last of them.
// Spec: client-server-api#get_matrixclientv3roomsroomidcontexteventid
func (s *Service) EventContext(ctx context.Context, roomID id.RoomID, eventID id.EventID, to ident.Requester, limit int, filter EventFilter) (around Surroundings, err error) {
	err = s.filling(ctx, roomID, to, func(tx *storage.Tx, v *viewer) (g gap, err error) {
		e, at, err := v.event(tx, eventID)
		if err != nil {
			return g, err
		}
		around, g, err = v.context(tx, e, at, limit, &filter)
		return g, err
	})
	return around, hideRoom(err)
}

// context returns the surroundings of an event. The events before it end at a gap, which is returned.
func (v *viewer) context(tx *storage.Tx, e *rooms.Event, at sight, limit int, filter *EventFilter) (out Surroundings, g gap, err error) {
	back := cursor{window: window{upTo: e.Order - 1}, backwards: true}
	if limit > 1 {
		if g, err = v.gap(tx, &back.window); err != nil {
			return out, g, err
		}
	}
	before, sights, err := v.walk(tx, &back, limit/2, filter, v.timeline)
	if err != nil {
		return out, g, err
	}
	g.found = g.reach(&back) && len(before) < limit/2
	out.Start = TimelineToken(back.upTo)
	if out.EventsBefore, err = v.forms(tx, before, sights, FormOptions{RoomID: true, Bundle: true}); err != nil {
		return out, g, err
	}
	return out, g, v.contextAfter(tx, &out, before, e, at, limit-limit/2, filter)
}

func (v *viewer) contextAfter(tx *storage.Tx, out *Surroundings, before []*rooms.Event, e *rooms.Event, at sight, limit int, filter *EventFilter) error {
	opt := FormOptions{RoomID: true, Bundle: true}
	forth := cursor{window: window{after: e.Order, upTo: everything().upTo}}
	after, sights, err := v.walk(tx, &forth, limit, filter, v.timeline)
	if err != nil {
		return err
	}
	out.End = TimelineToken(forth.after)
	if out.EventsAfter, err = v.forms(tx, after, sights, opt); err != nil {
		return err
	}
	if out.Event, err = v.one(tx, e, at, opt); err != nil {
		return err
	}
	out.State, err = v.contextState(tx, append(append(before, e), after...), filter)
	return err
}

// contextState returns the state after the last of the given events, restricted by the filter. The last event is the
// requested one or the newest of those after it. Events from before the requested one may come first, newest first.
func (v *viewer) contextState(tx *storage.Tx, events []*rooms.Event, filter *EventFilter) ([]json.RawMessage, error) {
	if !filter.room(string(v.room.ID())) {
		return []json.RawMessage{}, nil
	}
	senders := map[string]bool{}
	for _, e := range events {
		senders[string(e.Sender())] = true
	}
	state, err := v.stateAfter(tx, events[len(events)-1], func(typ, key string) bool {
		return !filter.LazyLoadMembers || typ != typeMember || senders[key]
	})
	if err != nil {
		return nil, err
	}
	kept := state[:0]
	for _, e := range state {
		if filter.event(e) {
			kept = append(kept, e)
		}
	}
	return v.stateForms(tx, kept, FormOptions{RoomID: true})
}
