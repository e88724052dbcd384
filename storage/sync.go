package storage

import (
	"slices"

	"ebb/ident"
)

// Queries of /sync over the core tables.

// AccountDatum is one event of a user's account data.
type AccountDatum struct {
	Room    ident.RoomNID // 0: global
	Type    string
	Content string
}

const accountDataSinceQuery = `SELECT room_nid, type, content FROM account_data
WHERE user_nid = $1 AND position > $2 AND position <= $3 ORDER BY position`

// AccountDataSince lists what a user's account data, global and of rooms, became in (since, upTo], oldest change first.
// It rides account_data_by_position.
func (tx *Tx) AccountDataSince(user ident.UserNID, since, upTo Pos) ([]AccountDatum, error) {
	return collect(tx, func(r Row) (d AccountDatum, err error) {
		err = r.Scan(&d.Room, &d.Type, &d.Content)
		return d, err
	}, accountDataSinceQuery, int64(user), int64(since), int64(upTo))
}

const roomAccountDataQuery = `SELECT room_nid, type, content FROM account_data
WHERE user_nid = $1 AND room_nid = $2 AND position <= $3 ORDER BY position`

// RoomAccountData lists a user's account data of one room, as of a position. It rides the primary key.
func (tx *Tx) RoomAccountData(user ident.UserNID, room ident.RoomNID, upTo Pos) ([]AccountDatum, error) {
	return collect(tx, func(r Row) (d AccountDatum, err error) {
		err = r.Scan(&d.Room, &d.Type, &d.Content)
		return d, err
	}, roomAccountDataQuery, int64(user), int64(room), int64(upTo))
}

// SyncReceipt is a read receipt as /sync gives it.
type SyncReceipt struct {
	Position Pos
	User     string
	UserNID  ident.UserNID
	Type     string
	Thread   string // "": unthreaded
	EventID  string
	TS       int64 // ms
}

const receiptsSinceQuery = `SELECT r.position, u.user_id, r.user_nid, r.type, r.thread, r.event_id, r.ts
FROM receipts r JOIN users u ON u.nid = r.user_nid
WHERE r.room_nid = $1 AND r.position > $2 AND r.position <= $3 AND (r.type <> 'm.read.private' OR r.user_nid = $4)
ORDER BY r.position DESC LIMIT $5`

// ReceiptsSince lists the newest receipts of a room that were set in (since, upTo] and that user may see: everybody's
// public ones and the user's own private ones. Newest first, at most limit. It rides receipts_by_position.
func (tx *Tx) ReceiptsSince(room ident.RoomNID, since, upTo Pos, user ident.UserNID, limit int) ([]SyncReceipt, error) {
	return collect(tx, func(r Row) (c SyncReceipt, err error) {
		err = r.Scan(&c.Position, &c.User, &c.UserNID, &c.Type, &c.Thread, &c.EventID, &c.TS)
		return c, err
	}, receiptsSinceQuery, int64(room), int64(since), int64(upTo), int64(user), limit)
}

const ownReceiptsQuery = `SELECT r.position, u.user_id, r.user_nid, r.type, r.thread, r.event_id, r.ts
FROM receipts r JOIN users u ON u.nid = r.user_nid
WHERE r.room_nid = $1 AND r.user_nid = $2 AND r.position <= $3 ORDER BY r.position`

// OwnReceipts lists a user's own receipts in a room, set up to a position, oldest first. It rides the primary key.
func (tx *Tx) OwnReceipts(room ident.RoomNID, user ident.UserNID, upTo Pos) ([]SyncReceipt, error) {
	return collect(tx, func(r Row) (c SyncReceipt, err error) {
		err = r.Scan(&c.Position, &c.User, &c.UserNID, &c.Type, &c.Thread, &c.EventID, &c.TS)
		return c, err
	}, ownReceiptsQuery, int64(room), int64(user), int64(upTo))
}

const syncTimelineQuery = `SELECT ` + eventColumns + ` FROM events e
WHERE e.room_nid = $1 AND e.ord > $2 AND e.ord < $3 AND e.position <= $4 ORDER BY e.ord DESC LIMIT $5`

// SyncTimeline lists events of a room's timeline between two places (both exclusive) that arrived up to a position, newest
// first. Hidden ones are among them. It rides events_by_order.
func (tx *Tx) SyncTimeline(room ident.RoomNID, after, before ident.Order, upTo Pos, limit int) ([]EventRow, error) {
	return collect(tx, scanEvent, syncTimelineQuery, int64(room), int64(after), int64(before), int64(upTo), limit)
}

const filterQuery = `SELECT json FROM filters WHERE user_nid = $1 AND nid = $2`

// SyncFilter is a user's stored filter, verbatim. It rides the primary key.
func (tx *Tx) SyncFilter(user ident.UserNID, nid int64) (string, bool, error) {
	return one(tx, scanString, filterQuery, int64(user), nid)
}

const (
	sameFilterQuery  = `SELECT nid FROM filters WHERE user_nid = $1 AND json = $2`
	addFilterQuery   = `INSERT INTO filters (user_nid, nid, json) VALUES ($1, $2, $3)`
	trimFiltersQuery = `DELETE FROM filters WHERE user_nid = $1 AND nid <= (
    SELECT coalesce(max(nid), 0) FROM (SELECT nid FROM filters WHERE user_nid = $1 ORDER BY nid DESC LIMIT 1 OFFSET $2) AS old)`
)

// AddSyncFilter stores a filter and returns its number: the one it has already where the user stored the same text before.
// Beyond keep filters the user's oldest one goes.
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

// JoinedAfter finds those of some users who joined a room after a position, and are still in it. It rides the primary key.
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
