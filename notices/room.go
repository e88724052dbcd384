package notices

import (
	"context"
	"encoding/json"
	"errors"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
)

// roomTags is the content of m.tag by which clients recognise the room.
// Spec: client-server-api#server-notices
const roomTags = `{"tags":{"m.server_notice":{}}}`

// powerLevels lets only the server's account do anything in the room.
const powerLevels = `{"events_default":100,"state_default":100,"invite":100,"kick":100,"ban":100,"redact":100}`

// room returns the room to which a user's notices are sent. If there is none, or it cannot be used any more, room
// creates one. A user who has left the room is invited again.
func (s *Service) room(ctx context.Context, sender ident.Requester, n *storage.Notice) (id.RoomID, error) {
	var known storage.NoticeRoom
	found := false
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		known, found, err = tx.NoticeRoom(n.User)
		return err
	})
	if err != nil {
		return "", err
	}
	if !found || known.Sender != sender.UserNID {
		return s.createRoom(ctx, sender, n, known)
	}
	r, err := s.opts.Rooms.RoomByNID(ctx, known.Room)
	switch {
	case errors.Is(err, rooms.ErrNoRoom), err == nil && r.Membership(sender.UserID) != rooms.Join:
		return s.createRoom(ctx, sender, n, known)
	case err != nil:
		return "", err
	}
	switch r.Membership(id.UserID(n.UserID)) {
	case rooms.Join, rooms.Invite:
		return r.ID(), nil
	}
	err = s.opts.Rooms.Invite(ctx, sender, r.ID(), id.UserID(n.UserID), "")
	if mxerr.Code(err) == mxerr.CodeForbidden {
		return s.createRoom(ctx, sender, n, known)
	}
	return r.ID(), err
}

// errOtherRoom means that another room was created for the user in the meantime.
var errOtherRoom = errors.New("notices: the user has got another room")

// createRoom creates a room in place of the given one, and invites the user. The write that creates the room also
// records it as the user's room of server notices and tags it.
func (s *Service) createRoom(ctx context.Context, sender ident.Requester, n *storage.Notice, old storage.NoticeRoom) (id.RoomID, error) {
	req := rooms.CreateRoom{
		Preset: "private_chat", Name: s.opts.RoomName, Topic: "Messages from the server " + s.opts.Server, Invite: []id.UserID{id.UserID(n.UserID)},
		CreationContent: json.RawMessage(`{"m.federate":false}`), PowerLevelOverride: json.RawMessage(powerLevels),
		InitialState: []rooms.InitialState{{Type: "m.room.guest_access", Content: json.RawMessage(`{"guest_access":"forbidden"}`)}},
	}
	return s.opts.Rooms.CreateWith(ctx, sender, req, func(tx *storage.Tx, room ident.RoomNID) error {
		now, _, err := tx.NoticeRoom(n.User)
		if err == nil && now != old {
			err = errOtherRoom
		}
		if err != nil {
			return err
		}
		if err := tx.SetNoticeRoom(n.User, storage.NoticeRoom{Room: room, Sender: sender.UserNID}); err != nil {
			return err
		}
		return tx.SetAccountData(n.User, room, "m.tag", roomTags)
	})
}
