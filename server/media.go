package server

import (
	"context"
	"errors"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/appservice"
	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

// undeclared implements media.Lifetimes.
type undeclared struct {
	db    *storage.DB
	rooms *rooms.Service
	apps  *appservice.Registry
}

// encryptedPage is how many rooms are read at a time.
const encryptedPage = 100

// Undeclared returns the longest lifetime of messages among the encrypted rooms in which a user is or was. It returns
// false if there is one without a limit. It also returns false for users of application services, because one of them
// often uploads what others send, and while a legal hold covers the user or one of these rooms.
func (u undeclared) Undeclared(ctx context.Context, user ident.UserNID) (longest time.Duration, limited bool, err error) {
	var userID string
	err = u.db.Read(ctx, func(tx *storage.Tx) (err error) {
		userID, err = tx.UserID(user)
		return err
	})
	if err != nil || u.rooms.UserHeld(user) || u.apps.Owns(id.UserID(userID)) {
		return 0, false, err
	}
	for after := ident.RoomNID(0); ; {
		var page []ident.RoomNID
		err := u.db.Read(ctx, func(tx *storage.Tx) (err error) {
			page, err = tx.EncryptedRoomsOf(user, after, encryptedPage)
			return err
		})
		if err != nil {
			return 0, false, err
		}
		for _, nid := range page {
			after = nid
			room, err := u.rooms.RoomByNID(ctx, nid)
			if errors.Is(err, rooms.ErrNoRoom) {
				continue
			}
			if err != nil {
				return 0, false, err
			}
			lifetime := room.Retention().Max
			if lifetime == nil || u.rooms.RoomHeld(nid) {
				return 0, false, nil
			}
			longest = max(longest, *lifetime)
		}
		if len(page) < encryptedPage {
			return longest, true, nil
		}
	}
}
