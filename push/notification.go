package push

import (
	"context"
	"encoding/json"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/pushrules"
	"ebb/rooms"
	"ebb/storage"
)

// giveUpAfter is the age of an event after which no notification of it is sent any more.
const giveUpAfter = 24 * time.Hour

// notification is the body of a request to a push gateway.
// Spec: push-gateway-api#post_matrixpushv1notify
type notification struct {
	EventID           id.EventID      `json:"event_id,omitempty"`
	RoomID            id.RoomID       `json:"room_id,omitempty"`
	Type              string          `json:"type,omitempty"`
	Sender            id.UserID       `json:"sender,omitempty"`
	SenderDisplayName string          `json:"sender_display_name,omitempty"`
	RoomName          string          `json:"room_name,omitempty"`
	RoomAlias         string          `json:"room_alias,omitempty"`
	UserIsTarget      *bool           `json:"user_is_target,omitempty"`
	Prio              string          `json:"prio"`
	Content           json.RawMessage `json:"content,omitempty"`
	Counts            *counts         `json:"counts,omitempty"`
	Devices           []device        `json:"devices"`

	tweaks map[string]json.RawMessage // sent with the device
}

// counts holds the unread count. 0 is sent too, because otherwise the app would continue to show the previous number.
type counts struct {
	Unread int64 `json:"unread"`
}

// device identifies the pusher that a notification is for.
type device struct {
	AppID     string                     `json:"app_id"`
	Pushkey   string                     `json:"pushkey"`
	PushkeyTS int64                      `json:"pushkey_ts"` // seconds
	Data      json.RawMessage            `json:"data"`
	Tweaks    map[string]json.RawMessage `json:"tweaks,omitempty"`
}

// These are the outcomes of events in the metric, in addition to those of requests to gateways.
const (
	outcomeSent    = "sent"
	outcomeRead    = "read"    // or the event does not notify the user
	outcomeExpired = "expired" // or the user may not see it for some other reason
	outcomeOld     = "old"
)

// notification makes the notification of an event. It returns nil if the user need not be notified any more because the
// user has read the event, or because it was redacted, has expired or is too old.
func (s *Service) notification(ctx context.Context, nid ident.UserNID, t *target, it item) (*notification, string, error) {
	r, err := s.opts.Rooms.RoomByNID(ctx, it.room)
	if err != nil {
		return nil, "", err
	}
	if it.invite {
		return s.inviteNotification(ctx, nid, t, r, it)
	}
	class, shown, unread, err := s.opts.History.UnreadEvent(ctx, nid, it.room, it.pos)
	switch {
	case err != nil:
		return nil, "", err
	case !shown:
		return nil, outcomeExpired, nil
	case class == 0:
		return nil, outcomeRead, nil
	}
	e, err := s.event(ctx, r, it.pos)
	if err != nil || e == nil {
		return nil, outcomeExpired, err
	}
	to := ident.Requester{UserID: t.user, UserNID: nid}
	visible, err := s.opts.History.Visible(ctx, nil, r, to, []*rooms.Event{e})
	switch {
	case err != nil:
		return nil, "", err
	case len(visible) == 0:
		return nil, outcomeExpired, nil
	case s.tooOld(e):
		return nil, outcomeOld, nil
	}
	n := s.describe(r, e, nid, t, class)
	if !t.noBadge {
		total, err := s.badgeWith(ctx, nid, it.room, unread)
		if err != nil {
			return nil, "", err
		}
		n.Counts = &counts{Unread: total}
	}
	return n, outcomeSent, nil
}

// inviteNotification makes the notification of an invite. No class was stored for the invite, because the invited user
// has no unread counts in the room, so the push rules are evaluated at delivery.
func (s *Service) inviteNotification(ctx context.Context, nid ident.UserNID, t *target, r *rooms.Room, it item) (*notification, string, error) {
	if m := r.MemberOf(t.user); m == nil || m.Membership != rooms.Invite || m.Pos != it.pos {
		return nil, outcomeRead, nil
	}
	e, err := s.event(ctx, r, it.pos)
	if err != nil || e == nil {
		return nil, outcomeExpired, err
	}
	if s.tooOld(e) {
		return nil, outcomeOld, nil
	}
	class, _, err := s.inviteActions(ctx, nid, t.user, r, e)
	if err != nil || class == 0 {
		return nil, outcomeRead, err
	}
	n := s.describe(r, e, nid, t, class)
	if !t.noBadge {
		total, err := s.badge(ctx, nid)
		if err != nil {
			return nil, "", err
		}
		n.Counts = &counts{Unread: total}
	}
	return n, outcomeSent, nil
}

// inviteActions returns what the push rules of an invited user say about the invite: whether it notifies the user, and
// the actions. Both are zero if the user ignores the sender or does not want to see invites of that sender.
func (s *Service) inviteActions(ctx context.Context, nid ident.UserNID, user id.UserID, r *rooms.Room, e *rooms.Event) (pushrules.Class, []json.RawMessage, error) {
	ignored, err := s.opts.AccountData.Ignores(ctx, nil, nid)
	if err != nil {
		return 0, nil, err
	}
	hidden, err := s.opts.Rooms.HidesInvite(ctx, nid, e.Sender())
	if _, ignores := ignored[e.Sender()]; err != nil || hidden || ignores {
		return 0, nil, err
	}
	class, actions := s.opts.Rules.Actions(e.Event, state{s, r, e}, nid, user)
	return class, actions, nil
}

func (s *Service) tooOld(e *rooms.Event) bool {
	return s.now().Sub(time.UnixMilli(e.ReceivedTS)) > giveUpAfter
}

// event returns an event of a room, usually from memory. It returns nil if the event was deleted.
func (s *Service) event(ctx context.Context, r *rooms.Room, pos storage.Pos) (e *rooms.Event, err error) {
	if news, ok := r.Recent(pos - 1); ok && len(news) > 0 && news[0].Pos == pos {
		return news[0], nil
	}
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		found, err := r.EventsAt(tx, []storage.Pos{pos})
		e = found[pos]
		return err
	})
	return e, err
}

// describe makes the notification of an event that the user may see.
func (s *Service) describe(r *rooms.Room, e *rooms.Event, nid ident.UserNID, t *target, class pushrules.Class) *notification {
	n := &notification{EventID: e.ID(), RoomID: r.ID(), Prio: "low"}
	n.tweaks = pushrules.Tweaks(s.actions(r, e, nid, t.user, class))
	if e.Type() == "m.room.encrypted" || class&pushrules.Highlight != 0 || n.tweaks["sound"] != nil {
		n.Prio = "high"
	}
	if t.format == eventIDOnly || s.opts.EventIDOnly {
		n.tweaks = nil
		return n
	}
	n.Type, n.Sender, n.Content = e.Type(), e.Sender(), e.Content()
	n.SenderDisplayName = state{s, r, e}.DisplayName(e.Sender())
	if name := r.State("m.room.name", ""); name != nil {
		n.RoomName = name.ContentString("name")
	}
	if alias := r.State("m.room.canonical_alias", ""); alias != nil {
		n.RoomAlias = alias.ContentString("alias")
	}
	if key, isState := e.StateKey(); isState && e.Type() == "m.room.member" {
		target := key == string(t.user)
		n.UserIsTarget = &target
	}
	return n
}

// state implements pushrules.State with the current state of an event's room.
type state struct {
	svc *Service
	*rooms.Room
	event *rooms.Event
}

// JoinedCount implements pushrules.State.
func (r state) JoinedCount() int { return r.Count(rooms.Join) }

// DisplayName implements pushrules.State.
func (r state) DisplayName(user id.UserID) string {
	if e := r.State("m.room.member", string(user)); e != nil {
		return e.ContentString("displayname")
	}
	return ""
}

// MayNotify implements pushrules.State.
func (r state) MayNotify(sender id.UserID, key string) bool {
	l := r.Levels()
	return l.UserLevel(sender) >= l.Notification(key)
}

// InThread implements pushrules.State.
func (r state) InThread() bool { return r.event.ThreadRoot != 0 }

// IsSubscribed implements pushrules.State.
func (r state) IsSubscribed(user ident.UserNID) bool {
	return r.svc.opts.Rooms.IsSubscribed(user, r.event.ThreadRoot)
}
