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

// RoomInfo is a room as GET /rooms/{roomId}/initialSync gives it.
type RoomInfo struct {
	Membership  rooms.Membership // "": the user never had any
	Published   bool
	Messages    Page // oldest first; End is its older end
	State       []json.RawMessage
	AccountData []storage.AccountDatum
}

// RoomInitialSync returns the state of a room and its newest events: as they are for members and, where everybody may read
// the room, for others; as they were when they left for former members.
//
// Errors: M_FORBIDDEN, also for a room that does not exist.
// Spec: client-server-api#get_matrixclientv3roomsroomidinitialsync
func (s *Service) RoomInitialSync(ctx context.Context, roomID id.RoomID, to ident.Requester, limit int) (info RoomInfo, err error) {
	err = s.readingWhole(ctx, roomID, to, func(tx *storage.Tx, v *viewer) (err error) {
		if info, err = v.info(tx); err != nil {
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

// info returns what of a RoomInfo is no event.
func (v *viewer) info(tx *storage.Tx) (info RoomInfo, err error) {
	info.Published = v.room.Published()
	if v.member != nil {
		info.Membership = v.member.Membership
	}
	info.AccountData, err = tx.RoomAccountData(v.to.UserNID, v.room.NID(), v.svc.db.Settled())
	return info, err
}
