package history

import (
	"context"
	"strconv"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// maxMutualRooms bounds the rooms of one page of MutualRooms.
const maxMutualRooms = 100

// MutualPage is a part of the rooms that two users are joined to.
type MutualPage struct {
	Joined []string // room IDs
	Count  int64    // of all pages
	Next   string   // the token of the next page; "" if there is none
}

// MutualRooms returns the rooms that the requester and another user are joined to. A user whom this server does not
// know shares no rooms.
// Spec: client-server-api#get_matrixclientv1mutual_rooms
func (s *Service) MutualRooms(ctx context.Context, to ident.Requester, other id.UserID, from string) (page MutualPage, err error) {
	page.Joined = []string{}
	if other == to.UserID {
		return page, mxerr.InvalidParam("user_id must not be your own user ID")
	}
	after := int64(0)
	if from != "" {
		if after, err = strconv.ParseInt(from, 10, 64); err != nil || after < 0 {
			return page, mxerr.InvalidParam("from is not a token of an earlier response")
		}
	}
	nid, known, err := s.rooms.LookupUser(ctx, other)
	if err != nil || !known {
		return page, err
	}
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		ids, _, err := tx.MutualRooms(to.UserNID, nid, ident.RoomNID(after), maxMutualRooms+1)
		if err != nil {
			return err
		}
		if len(ids) > maxMutualRooms {
			var last ident.RoomNID
			ids, last, err = tx.MutualRooms(to.UserNID, nid, ident.RoomNID(after), maxMutualRooms)
			page.Next = strconv.FormatInt(int64(last), 10)
		}
		if err != nil {
			return err
		}
		page.Joined = append(page.Joined, ids...)
		page.Count, err = tx.CountMutualRooms(to.UserNID, nid)
		return err
	})
	return page, err
}
