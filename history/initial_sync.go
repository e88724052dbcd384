package history

import (
	"context"
	"encoding/json"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

// RoomInfo is the response of GET /rooms/{roomId}/initialSync.
type RoomInfo struct {
	Membership  rooms.Membership // "": the user was never a member
	Published   bool
	Messages    Page // oldest first; End is its older end
	State       []json.RawMessage
	AccountData []storage.AccountDatum
}

// RoomInitialSync returns the state of a room and its newest events. Members, and other users if the room is world
// readable, get the current ones; former members get those from when they left.
//
// Errors: M_FORBIDDEN, also for a room that does not exist.
// Spec: client-server-api#get_matrixclientv3roomsroomidinitialsync
func (s *Service) RoomInitialSync(ctx context.Context, roomID id.RoomID, to ident.Requester, limit int) (info RoomInfo, err error) {
	err = s.readingAllMembers(ctx, roomID, to, func(tx *storage.Tx, v *viewer) (err error) {
		if info, err = v.info(ctx, tx); err != nil {
			return err
		}
		if info.Messages, _, err = v.page(tx, everything(), PageRequest{Backwards: true, Limit: limit}); err != nil {
			return err
		}
		slices.Reverse(info.Messages.Chunk)
		info.State, err = v.state(tx)
		return err
	})
	return info, err
}

// info returns the fields of a RoomInfo that are not events.
func (v *viewer) info(ctx context.Context, tx *storage.Tx) (info RoomInfo, err error) {
	info.Published = v.room.Published()
	if v.member != nil {
		info.Membership = v.member.Membership
	}
	if info.AccountData, err = tx.RoomAccountData(v.to.UserNID, v.room.NID(), v.svc.db.Settled()); err != nil {
		return info, err
	}
	info.AccountData, err = v.svc.accountData.WithoutGoneMarkers(ctx, tx, info.AccountData)
	return info, err
}
