package storage

import (
	"ebb/ident"
	"ebb/storage/sealing"
)

// HeldEvent is an event that a legal hold covers, with what it was before it was redacted.
type HeldEvent struct {
	EventRow
	Original   []byte // JSON; nil if none is stored
	RedactedTS int64  // ms; 0 without an original
}

const heldEventsQuery = `SELECT coalesce(o.redacted_ts, 0), o.json, ` + eventColumns + ` FROM events e LEFT JOIN originals o ON o.position = e.position
WHERE e.room_nid = $1 AND (e.ord, e.position) > ($2, $3) AND (CAST($4 AS BIGINT) = 0 OR e.sender_nid = CAST($4 AS BIGINT)) ORDER BY e.ord, e.position LIMIT $5`

// HeldEvents returns a page of all stored events of a room, or of those of a sender if sender is not 0: at most limit
// of those after the given one. Events that are in no timeline come first. It uses the index events_by_order.
func (tx *Tx) HeldEvents(room ident.RoomNID, sender ident.UserNID, after *HeldEvent, limit int) ([]HeldEvent, error) {
	return collect(tx, scanHeldEvent, heldEventsQuery, int64(room), int64(after.Order), int64(after.Position), int64(sender), limit)
}

func scanHeldEvent(r Row) (e HeldEvent, err error) {
	var original *string
	e.EventRow, err = scanEvent(prefixed{prefixed{r, &e.RedactedTS}, &original})
	if err != nil || original == nil {
		return e, err
	}
	e.Original = []byte(*original)
	if sealing.IsSealed(e.Original) {
		_, e.Original, err = openEvent(r, e.Position, e.Original)
	}
	return e, err
}

const roomsOfUserQuery = `SELECT room_nid FROM memberships WHERE user_nid = $1 AND room_nid > $2 ORDER BY room_nid LIMIT $3`

// RoomsOfUser returns a page of the rooms that a user is or was in or was invited to: at most limit of those after the
// given one. It uses the primary key.
func (tx *Tx) RoomsOfUser(user ident.UserNID, after ident.RoomNID, limit int) ([]ident.RoomNID, error) {
	return collect(tx, scanNumber[ident.RoomNID], roomsOfUserQuery, int64(user), int64(after), limit)
}
