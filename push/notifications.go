package push

import (
	"context"
	"encoding/json"
	"strconv"

	"maunium.net/go/mautrix/id"

	"ebb/history"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/pushrules"
	"ebb/rooms"
	"ebb/storage"
)

// MaxNotifications bounds a page of Notifications.
const MaxNotifications = 100

// Notification is an event that notified a user.
// Spec: client-server-api#get_matrixclientv3notifications
type Notification struct {
	Actions []json.RawMessage `json:"actions"`
	Event   json.RawMessage   `json:"event"`
	Read    bool              `json:"read"`
	Room    id.RoomID         `json:"room_id"`
	TS      int64             `json:"ts"` // milliseconds
}

// Page is a page of notifications. Next is empty on the last page.
type Page struct {
	Notifications []Notification `json:"notifications"`
	Next          string         `json:"next_token,omitempty"`
}

// Notifications returns a page of the events that notified a user in the joined rooms, newest first. The page begins
// before the token from, or with the newest event if from is empty. highlights selects only highlighted events. Events
// that the user may not see any more are left out, so a page may be shorter than limit.
//
// Errors: M_INVALID_PARAM.
func (s *Service) Notifications(ctx context.Context, to ident.Requester, from string, limit int, highlights bool) (*Page, error) {
	class := pushrules.Notify
	if highlights {
		class = pushrules.Highlight
	}
	page := &Page{Notifications: []Notification{}}
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		before := tx.Settled() + 1
		if from != "" {
			token, err := strconv.ParseInt(from, 10, 64)
			if err != nil || token < 1 {
				return mxerr.InvalidParam("from is not a token of an earlier response")
			}
			before = min(before, storage.Pos(token))
		}
		found, reached, err := tx.NotifyingBefore(to.UserNID, before, int64(class), limit+1)
		if err != nil {
			return err
		}
		if len(found) > limit {
			found, reached = found[:limit], found[limit-1].Position
		}
		if reached > 0 {
			page.Next = strconv.FormatInt(int64(reached), 10)
		}
		page.Notifications, err = s.notifications(ctx, tx, to, found)
		return err
	})
	return page, err
}

// notifications returns the client form of events that notified a user, in the given order.
func (s *Service) notifications(ctx context.Context, tx *storage.Tx, to ident.Requester, found []storage.Notifying) ([]Notification, error) {
	positions := make([]storage.Pos, len(found))
	for i, n := range found {
		positions[i] = n.Position
	}
	rows, err := tx.EventsAt(positions)
	if err != nil {
		return nil, err
	}
	byRoom := map[ident.RoomNID][]*storage.EventRow{}
	for i := range rows {
		byRoom[rows[i].Room] = append(byRoom[rows[i].Room], &rows[i])
	}
	classes := map[storage.Pos]pushrules.Class{}
	for _, n := range found {
		classes[n.Position] = pushrules.Class(n.Push)
	}
	made := map[storage.Pos]Notification{}
	for room, rows := range byRoom {
		if err := s.notificationsIn(ctx, tx, to, room, rows, classes, made); err != nil {
			return nil, err
		}
	}
	out := make([]Notification, 0, len(found))
	for _, n := range found {
		if form, visible := made[n.Position]; visible {
			out = append(out, form)
		}
	}
	return out, nil
}

// notificationsIn adds the notifications of one room to made, by position. It leaves out events that the user may not
// see.
func (s *Service) notificationsIn(
	ctx context.Context, tx *storage.Tx, to ident.Requester, room ident.RoomNID, rows []*storage.EventRow, classes map[storage.Pos]pushrules.Class, made map[storage.Pos]Notification,
) error {
	r, err := s.opts.Rooms.RoomByNID(ctx, room)
	if err != nil {
		return err
	}
	events := make([]*rooms.Event, len(rows))
	for i, row := range rows {
		if events[i], err = r.LoadEvent(row); err != nil {
			return err
		}
	}
	view := s.opts.History.View(r, to)
	if events, err = view.Visible(ctx, tx, events); err != nil {
		return err
	}
	visible := make([]storage.Pos, len(events))
	for i, e := range events {
		visible[i] = e.Pos
	}
	read, err := s.opts.History.ReadEvents(ctx, tx, to.UserNID, room, visible)
	if err != nil {
		return err
	}
	for i, e := range events {
		form, err := view.Append(ctx, tx, nil, []*rooms.Event{e}, history.FormOptions{})
		if err != nil {
			return err
		}
		actions := s.actions(r, e, to.UserNID, to.UserID, classes[e.Pos])
		made[e.Pos] = Notification{Actions: actions, Event: form, Read: read[i], Room: r.ID(), TS: e.ReceivedTS}
	}
	return nil
}

// actions returns the actions of an event for a user. If the push rules have changed since the event was stored, it
// returns the default actions of the event's class instead.
func (s *Service) actions(r *rooms.Room, e *rooms.Event, nid ident.UserNID, user id.UserID, class pushrules.Class) []json.RawMessage {
	if decided, actions := s.opts.Rules.Actions(e.Event, state{s, r, e}, nid, user); decided == class {
		return actions
	}
	return class.Actions()
}
