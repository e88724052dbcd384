package storage

import (
	"slices"

	"ebb/ident"
)

// Queries for /sync.

// AccountDatum is one entry of a user's account data.
type AccountDatum struct {
	Room    ident.RoomNID // 0 for global account data
	Type    string
	Content string
}

const accountDataSinceQuery = `SELECT room_nid, type, content FROM account_data
WHERE user_nid = $1 AND position > $2 AND position <= $3 AND (CAST($2 AS BIGINT) > 0 OR content <> '{}') ORDER BY position`

// AccountDataSince lists a user's account data, global and of rooms, that was last changed in (since, upTo], oldest
// change first. Unless since is 0, the list includes deleted data, whose content is DeletedAccountData. It uses the
// index account_data_by_position.
func (tx *Tx) AccountDataSince(user ident.UserNID, since, upTo Pos) ([]AccountDatum, error) {
	return collect(tx, func(r Row) (d AccountDatum, err error) {
		err = r.Scan(&d.Room, &d.Type, &d.Content)
		return d, err
	}, accountDataSinceQuery, int64(user), int64(since), int64(upTo))
}

const roomAccountDataQuery = `SELECT room_nid, type, content FROM account_data
WHERE user_nid = $1 AND room_nid = $2 AND position <= $3 AND content <> '{}' ORDER BY position`

// RoomAccountData lists a user's account data of one room as of a position. It uses the primary key.
func (tx *Tx) RoomAccountData(user ident.UserNID, room ident.RoomNID, upTo Pos) ([]AccountDatum, error) {
	return collect(tx, func(r Row) (d AccountDatum, err error) {
		err = r.Scan(&d.Room, &d.Type, &d.Content)
		return d, err
	}, roomAccountDataQuery, int64(user), int64(room), int64(upTo))
}

// SyncReceipt is a read receipt for /sync.
type SyncReceipt struct {
	Position Pos
	User     string
	UserNID  ident.UserNID
	Type     string
	Thread   string // "" for unthreaded
	EventID  string
	TS       int64 // ms
}

const receiptsSinceQuery = `SELECT r.position, u.user_id, r.user_nid, r.type, r.thread, r.event_id, r.ts
FROM receipts r JOIN users u ON u.nid = r.user_nid
WHERE r.room_nid = $1 AND r.position > $2 AND r.position <= $3 AND r.event_id <> '' AND (r.type <> 'm.read.private' OR r.user_nid = $4)
ORDER BY r.position DESC LIMIT $5`

// ReceiptsSince lists the receipts of a room that were set in (since, upTo] and that the user may see: all public
// receipts and the user's own private ones. It returns at most limit receipts, newest first. It uses the index
// receipts_by_position.
func (tx *Tx) ReceiptsSince(room ident.RoomNID, since, upTo Pos, user ident.UserNID, limit int) ([]SyncReceipt, error) {
	return collect(tx, func(r Row) (c SyncReceipt, err error) {
		err = r.Scan(&c.Position, &c.User, &c.UserNID, &c.Type, &c.Thread, &c.EventID, &c.TS)
		return c, err
	}, receiptsSinceQuery, int64(room), int64(since), int64(upTo), int64(user), limit)
}

const ownReceiptsQuery = `SELECT r.position, u.user_id, r.user_nid, r.type, r.thread, r.event_id, r.ts
FROM receipts r JOIN users u ON u.nid = r.user_nid
WHERE r.room_nid = $1 AND r.user_nid = $2 AND r.position <= $3 AND r.event_id <> '' ORDER BY r.position`

// OwnReceipts lists the receipts of the given user in a room that were set up to a position, oldest first. It uses the
// primary key.
func (tx *Tx) OwnReceipts(room ident.RoomNID, user ident.UserNID, upTo Pos) ([]SyncReceipt, error) {
	return collect(tx, func(r Row) (c SyncReceipt, err error) {
		err = r.Scan(&c.Position, &c.User, &c.UserNID, &c.Type, &c.Thread, &c.EventID, &c.TS)
		return c, err
	}, ownReceiptsQuery, int64(room), int64(user), int64(upTo))
}

const syncTimelineQuery = `SELECT ` + eventColumns + ` FROM events e
WHERE e.room_nid = $1 AND e.ord > $2 AND e.ord < $3 AND e.position <= $4 ORDER BY e.ord DESC LIMIT $5`

// SyncTimeline lists the events of a room's timeline between two orders (both exclusive) that arrived up to a position,
// newest first, including hidden ones. It uses the index events_by_order.
func (tx *Tx) SyncTimeline(room ident.RoomNID, after, before ident.Order, upTo Pos, limit int) ([]EventRow, error) {
	return collect(tx, scanEvent, syncTimelineQuery, int64(room), int64(after), int64(before), int64(upTo), limit)
}

const filterQuery = `SELECT json FROM filters WHERE user_nid = $1 AND nid = $2`

// SyncFilter returns a user's stored filter verbatim. It uses the primary key.
func (tx *Tx) SyncFilter(user ident.UserNID, nid int64) (string, bool, error) {
	return one(tx, scanString, filterQuery, int64(user), nid)
}

const (
	sameFilterQuery  = `SELECT nid FROM filters WHERE user_nid = $1 AND json = $2`
	addFilterQuery   = `INSERT INTO filters (user_nid, nid, json) VALUES ($1, $2, $3)`
	trimFiltersQuery = `DELETE FROM filters WHERE user_nid = $1 AND nid <= (
    SELECT coalesce(max(nid), 0) FROM (SELECT nid FROM filters WHERE user_nid = $1 ORDER BY nid DESC LIMIT 1 OFFSET $2) AS old)`
)

// AddSyncFilter stores a filter and returns its number, which is the existing one if the user stored the same text
// before. It deletes the user's oldest filters so that at most keep remain.
func (tx *Tx) AddSyncFilter(user ident.UserNID, json string, keep int) (int64, error) {
	if nid, found, err := one(tx, scanNumber[int64], sameFilterQuery, int64(user), json); err != nil || found {
		return nid, err
	}
	nid := int64(tx.NextPos())
	if _, err := tx.exec(addFilterQuery, int64(user), nid, json); err != nil {
		return 0, err
	}
	_, err := tx.exec(trimFiltersQuery, int64(user), keep)
	return nid, err
}

const joinedAfterQuery = `SELECT user_nid FROM memberships WHERE room_nid = $1 AND joined_pos > $2 AND user_nid IN `

// JoinedAfter returns those of the given users who joined a room after a position and are still in it. It uses the
// primary key.
func (tx *Tx) JoinedAfter(room ident.RoomNID, users []ident.UserNID, since Pos) ([]ident.UserNID, error) {
	var out []ident.UserNID
	for part := range slices.Chunk(users, maxIn) {
		list, args := In(3, part)
		found, err := collect(tx, scanNumber[ident.UserNID], joinedAfterQuery+list, append([]any{int64(room), int64(since)}, args...)...)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}
