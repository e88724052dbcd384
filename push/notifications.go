package push

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
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

// Notifications returns a page of the events that notified a user, newest first: events in joined rooms, and invites
// that the user has not answered yet. The page begins before the token from, or with the newest event if from is empty.
// highlights selects only highlighted events. Events that the user may not see any more are left out, so a page may be
// shorter than limit.
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
		found, reached, err := candidates(tx, to.UserNID, before, class, limit)
		if err != nil {
			return err
		}
		if reached > 0 {
			page.Next = strconv.FormatInt(int64(reached), 10)
		}
		page.Notifications, err = s.notifications(ctx, tx, to, found, class)
		return err
	})
	return page, err
}

// candidate is an event that may belong to a page of notifications. No class is stored for an invite.
type candidate struct {
	storage.Notifying
	invite bool
}

// candidates returns at most limit events before a position that may have notified a user, newest first, and the
// position down to which it has searched; 0 means that it has searched everything.
func candidates(tx *storage.Tx, user ident.UserNID, before storage.Pos, class pushrules.Class, limit int) (found []candidate, reached storage.Pos, err error) {
	events, reached, err := tx.NotifyingBefore(user, before, int64(class), limit+1)
	if err != nil {
		return nil, 0, err
	}
	for _, e := range events {
		found = append(found, candidate{Notifying: e})
	}
	invites, err := tx.InvitesBefore(user, reached, before, limit+1)
	if err != nil {
		return nil, 0, err
	}
	for _, m := range invites {
		found = append(found, candidate{storage.Notifying{Position: m.Position, Room: m.Room}, true})
	}
	slices.SortFunc(found, func(a, b candidate) int { return cmp.Compare(b.Position, a.Position) })
	if len(found) > limit {
		found, reached = found[:limit], found[limit-1].Position
	}
	return found, reached, nil
}

// notifications returns the client form of events that notified a user, in the given order. It leaves out invites whose
// class does not include the given one.
func (s *Service) notifications(ctx context.Context, tx *storage.Tx, to ident.Requester, found []candidate, class pushrules.Class) ([]Notification, error) {
	var positions []storage.Pos
	classes := map[storage.Pos]pushrules.Class{}
	made := map[storage.Pos]Notification{}
	for _, n := range found {
		if n.invite {
			if err := s.invitation(ctx, tx, to, n, class, made); err != nil {
				return nil, err
			}
			continue
		}
		positions = append(positions, n.Position)
		classes[n.Position] = pushrules.Class(n.Push)
	}
	rows, err := tx.EventsAt(positions)
	if err != nil {
		return nil, err
	}
	byRoom := map[ident.RoomNID][]*storage.EventRow{}
	for i := range rows {
		byRoom[rows[i].Room] = append(byRoom[rows[i].Room], &rows[i])
	}
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

// invitation adds the notification of a pending invite to made, by position, if the push rules that apply now give the
// invite the given class.
func (s *Service) invitation(ctx context.Context, tx *storage.Tx, to ident.Requester, n candidate, class pushrules.Class, made map[storage.Pos]Notification) error {
	r, err := s.opts.Rooms.RoomByNID(ctx, n.Room)
	if err != nil {
		return err
	}
	events, err := r.EventsAt(tx, []storage.Pos{n.Position})
	e := events[n.Position]
	if err != nil || e == nil {
		return err
	}
	given, actions, err := s.inviteActions(ctx, to.UserNID, to.UserID, r, e)
	if err != nil || given&class == 0 {
		return err
	}
	form, err := s.opts.History.View(r, to).Append(ctx, tx, nil, []*rooms.Event{e}, history.FormOptions{})
	if err != nil {
		return err
	}
	made[n.Position] = Notification{Actions: actions, Event: form, Room: r.ID(), TS: e.ReceivedTS}
	return nil
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
