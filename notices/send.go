package notices

import (
	"context"
	"encoding/json"
	"errors"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/txns"
	"ebb/storage"
)

// Event is an event that an administrator sends to a user's room of server notices, with any content.
type Event struct {
	User     id.UserID
	Type     string
	StateKey *string // nil: not a state event
	Content  json.RawMessage
	Txn      *txns.Txn // nil: none; its path must name the administrator, since all events have the same sender
}

// Send sends an event and returns once it is stored. Unlike an announcement, it does not wait for the notices that are
// in the queue.
//
// Errors: M_NOT_FOUND, M_FORBIDDEN, those of rooms.Service.Send.
func (s *Service) Send(ctx context.Context, e Event) (id.EventID, error) {
	if s.opts.Localpart == "" {
		return "", errNoSender()
	}
	to := storage.Notice{UserID: string(e.User)}
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		to.User, err = s.recipient(tx, e.User)
		return err
	})
	if err != nil {
		return "", err
	}
	sender, room, err := s.senderAndRoom(ctx, &to)
	if err != nil {
		return "", err
	}
	return s.opts.Rooms.Send(ctx, rooms.NewEvent{Room: room, Sender: sender, Type: e.Type, StateKey: e.StateKey, Content: e.Content, Txn: e.Txn})
}

// senderAndRoom returns the account that sends notices and the room to which a user's notices are sent. If somebody
// else creates the user's room at the same time, it is that one.
func (s *Service) senderAndRoom(ctx context.Context, n *storage.Notice) (ident.Requester, id.RoomID, error) {
	sender, err := s.sender(ctx)
	if err != nil {
		return sender, "", err
	}
	room, err := s.room(ctx, sender, n)
	if errors.Is(err, errOtherRoom) {
		room, err = s.room(ctx, sender, n)
	}
	return sender, room, err
}
