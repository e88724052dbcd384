package history

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

// Placed identifies an event by its position and its room.
type Placed struct {
	Pos  storage.Pos
	Room ident.RoomNID
}

// AppEvent is an event in the form that application services get.
type AppEvent struct {
	Placed
	JSON json.RawMessage
}

// AppEvents returns events for application services, in the order of wanted. Application services see every event of
// the rooms that concern them, whatever the history visibility. As for clients, redacted events are in their redacted
// form, and events that have expired or no longer exist are left out.
// Spec: application-service-api#pushing-events
func (s *Service) AppEvents(ctx context.Context, wanted []Placed) ([]AppEvent, error) {
	byRoom := map[ident.RoomNID][]storage.Pos{}
	for _, p := range wanted {
		byRoom[p.Room] = append(byRoom[p.Room], p.Pos)
	}
	loaded, err := s.rooms.RoomsByNID(ctx, slices.Collect(maps.Keys(byRoom)))
	if err != nil {
		return nil, err
	}
	forms := make(map[storage.Pos]json.RawMessage, len(wanted))
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		for _, room := range loaded {
			if err := s.appForms(tx, room, byRoom[room.NID()], forms); err != nil {
				return err
			}
		}
		return nil
	})
	var out []AppEvent
	for _, p := range wanted {
		if form := forms[p.Pos]; form != nil {
			out = append(out, AppEvent{p, form})
		}
	}
	return out, err
}

// appForms adds to forms the events of a room at the given positions, in the form that application services get.
func (s *Service) appForms(tx *storage.Tx, room *rooms.Room, positions []storage.Pos, forms map[storage.Pos]json.RawMessage) error {
	v := &viewer{svc: s, room: room, now: s.now(), policy: room.Retention()}
	found, err := room.EventsAt(tx, positions)
	if err != nil {
		return err
	}
	events := make([]*rooms.Event, 0, len(positions))
	for _, pos := range positions {
		if e := found[pos]; e != nil && !v.hides(e) {
			events = append(events, e)
		}
	}
	replaced, err := v.formerOf(tx, events)
	if err != nil {
		return err
	}
	former, err := room.EventsAt(tx, slices.Collect(maps.Values(replaced)))
	if err != nil {
		return err
	}
	redactions, err := room.EventsAt(tx, redactionsOf(events))
	if err != nil {
		return err
	}
	for _, e := range events {
		stripped, err := s.strippedFor(tx, room, e)
		if err != nil {
			return err
		}
		because := redactions[e.RedactedBy]
		if because != nil && v.hides(because) {
			because = nil
		}
		forms[e.Pos] = v.appForm(e, former[replaced[e.Pos]], because, stripped)
	}
	return nil
}

// redactionsOf returns the positions of the redactions of those events that were redacted.
func redactionsOf(events []*rooms.Event) (out []storage.Pos) {
	for _, e := range events {
		if e.RedactedBy != 0 {
			out = append(out, e.RedactedBy)
		}
	}
	return out
}

// strippedFor returns the stripped state that goes with the invite or knock of a local user.
func (s *Service) strippedFor(tx *storage.Tx, room *rooms.Room, e *rooms.Event) ([]json.RawMessage, error) {
	key, isState := e.StateKey()
	membership := e.ContentString("membership")
	if !isState || e.Type() != typeMember || membership != rooms.Invite && membership != rooms.Knock {
		return nil, nil
	}
	m := room.MemberOf(id.UserID(key))
	if m == nil || m.Membership != membership || !s.rooms.IsLocal(m.User) {
		return nil, nil
	}
	return s.rooms.StrippedStateIn(tx, m.NID, room)
}

// appForm returns the form of event e that application services get. If e is a state event, before is the event that it
// replaced. If e was redacted, because is its redaction. Either may be nil.
func (v *viewer) appForm(e, before, because *rooms.Event, stripped []json.RawMessage) json.RawMessage {
	form := e.Form(true)
	dst := append(make([]byte, 0, len(form)+192), form[:len(form)-1]...)
	dst = v.beginUnsigned(dst, e)
	if before != nil {
		dst = canonjson.AppendString(append(dst, `,"replaces_state":`...), string(before.ID()))
		dst = canonjson.AppendString(append(dst, `,"prev_sender":`...), string(before.Sender()))
		dst = append(append(dst, `,"prev_content":`...), before.Content()...)
	}
	if because != nil {
		dst = append(append(dst, `,"redacted_because":`...), because.Form(true)...)
	}
	if stripped != nil {
		dst = append(append(dst, `,"`+e.ContentString("membership")+`_room_state":`...), '[')
		for i, raw := range stripped {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, raw...)
		}
		dst = append(dst, ']')
	}
	return append(dst, "}}"...)
}
