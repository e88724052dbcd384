package storage

import (
	"fmt"

	"ebb/ident"
)

const setAccountDataQuery = `INSERT INTO account_data (user_nid, room_nid, type, content, position) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (user_nid, room_nid, type) DO UPDATE SET content = excluded.content, position = excluded.position`

// SetAccountData stores account data of a user. Room 0 means global account data.
func (tx *Tx) SetAccountData(user ident.UserNID, room ident.RoomNID, typ, content string) error {
	_, err := tx.exec(setAccountDataQuery, int64(user), int64(room), typ, content, int64(tx.NextPos()))
	if err != nil {
		return err
	}
	return tx.replaceMediaRefs(AccountDataMedia, int64(user), accountDataPart(room, typ), content)
}

// accountDataPart names account data in media_refs.
func accountDataPart(room ident.RoomNID, typ string) string { return fmt.Sprint(int64(room), " ", typ) }

// DeletedAccountData is the content that stands for deleted account data. /sync sends it to clients.
const DeletedAccountData = `{}`

// maxDeletedAccountData bounds the deleted types of a user's account data that are remembered, globally and per room.
const maxDeletedAccountData = 100

const forgetDeletedDataQuery = `DELETE FROM account_data WHERE user_nid = $1 AND room_nid = $2 AND content = '{}' AND position <= (
    SELECT coalesce(max(position), 0) FROM (SELECT position FROM account_data
    WHERE user_nid = $1 AND room_nid = $2 AND content = '{}' ORDER BY position DESC LIMIT 1 OFFSET $3) AS old)`

// DeleteAccountData deletes account data of a user. It returns false if there is none.
func (tx *Tx) DeleteAccountData(user ident.UserNID, room ident.RoomNID, typ string) (bool, error) {
	if _, found, err := tx.AccountData(user, room, typ); err != nil || !found {
		return false, err
	}
	if err := tx.SetAccountData(user, room, typ, DeletedAccountData); err != nil {
		return false, err
	}
	_, err := tx.exec(forgetDeletedDataQuery, int64(user), int64(room), maxDeletedAccountData)
	return true, err
}

const accountDataQuery = `SELECT content FROM account_data WHERE user_nid = $1 AND room_nid = $2 AND type = $3 AND content <> '{}'`

// AccountData returns the content of a user's account data of one type. Room 0 means global account data.
func (tx *Tx) AccountData(user ident.UserNID, room ident.RoomNID, typ string) (string, bool, error) {
	return one(tx, scanString, accountDataQuery, int64(user), int64(room), typ)
}

// AccountDataCount counts a user's account data in a room. Room 0 means global account data.
func (tx *Tx) AccountDataCount(user ident.UserNID, room ident.RoomNID) (int64, error) {
	n, _, err := one(tx, scanNumber[int64], `SELECT count(*) FROM account_data WHERE user_nid = $1 AND room_nid = $2 AND content <> '{}'`, int64(user), int64(room))
	return n, err
}

const accountDataSizeQuery = `SELECT CAST(coalesce(sum(octet_length(content)), 0) AS BIGINT),
 CAST(coalesce(sum(CASE WHEN room_nid = $2 AND type = $3 THEN octet_length(content) ELSE 0 END), 0) AS BIGINT)
FROM account_data WHERE user_nid = $1`

// AccountDataSize returns the size in bytes of all account data of a user, and of the given entry. It uses the primary
// key, and SQLite determines the length of a content without reading it.
func (tx *Tx) AccountDataSize(user ident.UserNID, room ident.RoomNID, typ string) (all, one int64, err error) {
	err = tx.each(func(r Row) error { return r.Scan(&all, &one) }, accountDataSizeQuery, int64(user), int64(room), typ)
	return all, one, err
}

const removeMarkersQuery = `DELETE FROM account_data WHERE type = 'm.fully_read'
AND room_nid = $1 AND user_nid IN (SELECT m.user_nid FROM memberships m JOIN accounts a ON a.nid = m.user_nid WHERE m.room_nid = $1) AND content IN `

// removeMarkers deletes the m.fully_read markers that local members have at one of the given events. It uses the index
// memberships_by_room and the primary key.
func (tx *Tx) removeMarkers(room ident.RoomNID, events []PurgeCandidate) error {
	list, args := inEventIDs(room, events, `{"event_id":"`, `"}`)
	_, err := tx.exec(removeMarkersQuery+list, args...)
	return err
}
