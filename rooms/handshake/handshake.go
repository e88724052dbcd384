// Package handshake checks the data that servers exchange when a user of one server joins, knocks on, leaves or is
// invited to a room of another: templates, membership events, and the state that comes with a join or an invite. It is
// pure; package rooms makes the requests and stores the events.
package handshake

import (
	"errors"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"
)

// Request describes the membership event that the body of a request must contain, according to the request's path and
// sender.
type Request struct {
	Origin     string
	Room       id.RoomID
	Event      id.EventID
	Membership string // not used for invites
}

// Check returns an error unless an event is the membership event that the request announces.
func Check(e *pdu.Event, r Request) error {
	key, isState := e.StateKey()
	switch {
	case e.RoomID() != r.Room:
		return mxerr.InvalidParam("Event belongs to another room")
	case e.ID() != r.Event:
		return mxerr.InvalidParam("Event ID does not match the one in the path")
	case e.Type() != "m.room.member" || !isState:
		return mxerr.InvalidParam("Event is not m.room.member")
	case pdu.Membership(e.Content()) != r.Membership:
		return mxerr.InvalidParam("membership must be %s", r.Membership)
	case key != string(e.Sender()):
		return mxerr.InvalidParam("state_key must be the sender")
	case ident.ServerOf(e.Sender()) != r.Origin:
		return mxerr.Forbidden("The sender must belong to your server")
	}
	return nil
}

// CheckInvite returns an error unless an event is the invite that the request announces.
func CheckInvite(e *pdu.Event, r Request) error {
	_, isState := e.StateKey()
	switch {
	case e.RoomID() != r.Room:
		return mxerr.InvalidParam("Event belongs to another room")
	case e.ID() != r.Event:
		return mxerr.InvalidParam("Event ID does not match the one in the path")
	case e.Type() != "m.room.member" || !isState || pdu.Membership(e.Content()) != "invite":
		return mxerr.InvalidParam("Event is not an invite")
	case ident.ServerOf(e.Sender()) != r.Origin:
		return mxerr.Forbidden("The sender must belong to your server")
	}
	return nil
}

// CheckTemplate returns an error unless a template is for the requested membership event.
func CheckTemplate(t *pdu.TemplateContent, room id.RoomID, user id.UserID, membership string) error {
	switch {
	case t.RoomID != room:
		return errors.New("the template is for another room")
	case t.Type != "m.room.member" || t.Sender != user || t.StateKey != string(user):
		return errors.New("the template is not the user's membership event")
	case pdu.Membership(t.Content) != membership:
		return errors.New("the template has another membership")
	case len(t.PrevEvents) == 0 || len(t.AuthEvents) == 0:
		return errors.New("the template has no prev_events or auth_events")
	}
	return nil
}

// WithCited adds to a state without members the member events that the join cites: the previous one of the user, and
// that of the authorising user.
func WithCited(join *pdu.Event, state, authChain []*pdu.Event) []*pdu.Event {
	known := map[string]bool{}
	for _, e := range state {
		if key, isState := e.StateKey(); isState && e.Type() == "m.room.member" {
			known[key] = true
		}
	}
	for _, e := range authChain {
		key, isState := e.StateKey()
		if isState && e.Type() == "m.room.member" && !known[key] && slices.Contains(join.AuthEvents(), e.ID()) {
			known[key] = true
			state = append(state, e)
		}
	}
	return state
}

// CheckJoinState checks the state that came with a join. It must have a create event of the room version, and must
// allow the join.
func CheckJoinState(join *pdu.Event, events []*pdu.Event) error {
	state := eventauth.StateMap{}
	for _, e := range events {
		if key, isState := e.StateKey(); isState {
			k := pdu.StateKey{Type: e.Type(), Key: key}
			if state[k] != nil {
				return fmt.Errorf("the state has two events for %s %q", k.Type, k.Key)
			}
			state[k] = e
		}
	}
	create := state.Get("m.room.create", "")
	if create == nil {
		return errors.New("the state has no create event")
	}
	raw, _ := canonjson.Get(create.Content(), "room_version")
	version := id.RoomVersion(canonjson.String(raw))
	if raw == nil {
		version = id.RoomV1
	}
	if version != join.Version().ID {
		return fmt.Errorf("the room is of version %.50q, not %s", version, join.Version().ID)
	}
	if err := eventauth.Check(join.Version(), create, eventauth.StateMap{}); err != nil {
		return fmt.Errorf("the create event: %w", err)
	}
	if err := eventauth.Check(join.Version(), join, state); err != nil {
		return fmt.Errorf("the join is not allowed by the state that came with it: %w", err)
	}
	return nil
}
