package storage

import (
	"encoding/json"
	"slices"

	"ebb/ident"
)

const leftRoomsQuery = `SELECT r.nid FROM rooms r WHERE NOT EXISTS (SELECT 1 FROM memberships m JOIN accounts a ON a.nid = m.user_nid
    WHERE m.room_nid = r.nid AND m.membership IN ('join', 'invite', 'knock')) AND r.nid IN `

// LeftRooms returns those of the given rooms in which no account is joined, invited or knocking. It uses the index
// memberships_by_room.
func (tx *Tx) LeftRooms(rooms []ident.RoomNID) ([]ident.RoomNID, error) {
	list, args := In(1, rooms)
	return collect(tx, scanNumber[ident.RoomNID], leftRoomsQuery+list, args...)
}

// LeftRoom describes a room that all accounts have left.
type LeftRoom struct {
	Since     int64 // when the last account left, or else when the room became known (ms)
	Forgotten bool  // all accounts that were in it have forgotten it or are closed
	// Needed reports whether something keeps the room: events of it are queued for other servers, redactions in it were
	// requested, or there is a legal hold on it or on somebody who was in it.
	Needed bool
}

const (
	leftRoomQuery = `SELECT coalesce(max(e.received_ts), 0), coalesce(min(CASE WHEN m.forgotten = 1 OR a.deactivated_ts <> 0 THEN 1 ELSE 0 END), 1)
FROM memberships m JOIN accounts a ON a.nid = m.user_nid LEFT JOIN events e ON e.position = m.position WHERE m.room_nid = $1`
	neededRoomQuery = `SELECT 1 FROM outbox WHERE room_nid = $1
UNION ALL SELECT 1 FROM own_redactions WHERE room_nid = $1 AND finished_ts = 0
UNION ALL SELECT 1 FROM related_redactions WHERE room_nid = $1
UNION ALL SELECT 1 FROM legal_holds WHERE room_nid = $1 AND lifted_ts = 0
UNION ALL SELECT 1 FROM legal_holds h JOIN memberships m ON m.user_nid = h.user_nid AND m.room_nid = $1 WHERE h.lifted_ts = 0 LIMIT 1`
)

// LeftRoom describes a room that LeftRooms has returned.
func (tx *Tx) LeftRoom(room ident.RoomNID) (l LeftRoom, err error) {
	var forgotten int64
	err = tx.each(func(r Row) error { return r.Scan(&l.Since, &forgotten) }, leftRoomQuery, int64(room))
	if err == nil && l.Since == 0 {
		l.Since, _, err = one(tx, scanNumber[int64], `SELECT created_ts FROM rooms WHERE nid = $1`, int64(room))
	}
	if err != nil {
		return l, err
	}
	_, l.Needed, err = one(tx, scanNumber[int64], neededRoomQuery, int64(room))
	l.Forgotten = forgotten == 1
	return l, err
}

// RemovedRoom is a room that is being removed.
type RemovedRoom struct {
	NID     ident.RoomNID
	RoomID  string
	Servers []string // the other servers that were in it
}

// Rows of local users about a room, which RemoveRoom deletes at once: otherwise the users' lists of rooms would name a
// room that does not exist.
const (
	removeRoomOfUsers = ` WHERE room_nid = $1 AND user_nid IN `
	takeRoomMedia     = `DELETE FROM media_refs WHERE kind = 4 AND (owner, part) IN
    (SELECT user_nid, CAST(room_nid AS TEXT) || ' ' || type FROM account_data` + removeRoomOfUsers
)

// roomTablesOfUsers are the tables with such rows.
var roomTablesOfUsers = []string{"account_data", "own_redaction_marks", "device_tellings", "notice_rooms", "message_lifetimes", "memberships"}

// RemoveRoom begins to remove a room. From then on the room does not exist: if somebody joins it again, it gets another
// number. RemoveRoomRows deletes what is left of it. users are the local users who were in the room.
func (tx *Tx) RemoveRoom(r RemovedRoom, users []ident.UserNID) error {
	servers, err := json.Marshal(append([]string{}, r.Servers...))
	if err != nil {
		return err
	}
	_, err = tx.exec(`INSERT INTO removed_rooms (room_nid, room_id, servers, removed_ts) VALUES ($1, $2, $3, $4)`, int64(r.NID), r.RoomID, string(servers), tx.Now().UnixMilli())
	if err != nil {
		return err
	}
	for part := range slices.Chunk(users, maxIn) {
		if err := tx.removeRoomOfUsers(r.NID, part); err != nil {
			return err
		}
	}
	if err := tx.deleteDelayedEvents(`room_nid = $1`, int64(r.NID)); err != nil {
		return err
	}
	for _, table := range []string{"aliases", "appservice_rooms", "room_policies", "state_sweeps"} {
		if _, err := tx.exec(`DELETE FROM `+table+` WHERE room_nid = $1`, int64(r.NID)); err != nil {
			return err
		}
	}
	if _, err := tx.exec(`DELETE FROM rooms WHERE nid = $1`, int64(r.NID)); err != nil {
		return err
	}
	return tx.Note(LedgerRoom, int64(r.NID), 0, "")
}

// removeRoomOfUsers deletes the rows of local users about a room. There are at most maxIn users.
func (tx *Tx) removeRoomOfUsers(room ident.RoomNID, users []ident.UserNID) error {
	list, args := In(2, users)
	args = append([]any{int64(room)}, args...)
	if _, err := tx.releaseMedia(takeRoomMedia+list+`) RETURNING server, media_id`, args...); err != nil {
		return err
	}
	for _, user := range users {
		if err := tx.SetStrippedState(user, room, ""); err != nil {
			return err
		}
	}
	if _, err := tx.deleteOwnRedactions(`room_nid = $1 AND user_nid IN `+list, args...); err != nil {
		return err
	}
	for _, table := range roomTablesOfUsers {
		if _, err := tx.exec(`DELETE FROM `+table+removeRoomOfUsers+list, args...); err != nil {
			return err
		}
	}
	return nil
}

const accountsOfRoomQuery = `SELECT m.user_nid FROM memberships m JOIN accounts a ON a.nid = m.user_nid WHERE m.room_nid = $1 ORDER BY m.user_nid`

// RemoveRoomAgain removes a room that was removed after the backup that is being restored. It returns false if the
// backup does not have the room.
func (tx *Tx) RemoveRoomAgain(room ident.RoomNID) (bool, error) {
	row, found, err := tx.RoomByNID(room)
	if err != nil || !found {
		return false, err
	}
	users, err := collect(tx, scanNumber[ident.UserNID], accountsOfRoomQuery, int64(room))
	if err != nil {
		return false, err
	}
	return true, tx.RemoveRoom(RemovedRoom{NID: room, RoomID: row.RoomID}, users)
}

const removedRoomsQuery = `SELECT room_nid, room_id, servers FROM removed_rooms WHERE room_nid > $1 ORDER BY room_nid LIMIT $2`

// RemovedRooms returns at most limit rooms with a number above after that are being removed, by number. It uses the
// primary key.
func (tx *Tx) RemovedRooms(after ident.RoomNID, limit int) ([]RemovedRoom, error) {
	return collect(tx, func(r Row) (m RemovedRoom, err error) {
		var servers string
		if err := r.Scan(&m.NID, &m.RoomID, &servers); err != nil {
			return m, err
		}
		return m, json.Unmarshal([]byte(servers), &m.Servers)
	}, removedRoomsQuery, int64(after), limit)
}

// FinishRemovedRoom records that nothing is left of a room.
func (tx *Tx) FinishRemovedRoom(room ident.RoomNID) error {
	_, err := tx.exec(`DELETE FROM removed_rooms WHERE room_nid = $1`, int64(room))
	return err
}

// roomRows lists what RemoveRoomRows deletes, in this order. A table with the number of a room needs an entry unless
// its rows depend on an event (see dependents) or on a local user (see RemoveRoom). Members and receipts come first,
// since the removal of events looks for receipts and markers at them; so do the blocks of the search index, from which
// events would otherwise be removed one batch after the other.
var roomRows = []struct {
	events bool // these rows are events
	// remove deletes at most limit rows of a room and returns their number.
	remove func(tx *Tx, room ident.RoomNID, limit int) (int, error)
}{
	{remove: removeRoomRows("memberships", "user_nid")},
	{remove: removeRoomRows("receipts", "user_nid, type, thread")},
	{remove: (*Tx).removeSearchBlocks},
	{events: true, remove: (*Tx).removeRoomEvents},
	{remove: (*Tx).removeSearchBlocks}, // those that were written meanwhile
	{remove: (*Tx).removeSnapshots},
	{remove: removeRoomRows("current_state", "type, state_key")},
	{remove: removeRoomRows("backward_edges", "missing_id")},
	{remove: removeRoomRows("pending_redactions", "target_id, position")},
	{remove: removeRoomRows("purged_ids", "nid")},
	{remove: removeRoomRows("outbox", "position")}, // this table and the next have no index by room, but few rows
	{remove: removeRoomRows("destination_rooms", "server")},
}

// RemoveRoomRows deletes some of what is left of a removed room: at most limit rows, besides those that depend on them.
// It returns how many of the rows were events, and whether there may be more.
func (tx *Tx) RemoveRoomRows(room ident.RoomNID, limit int) (events int, more bool, err error) {
	for _, rows := range roomRows {
		n, err := rows.remove(tx, room, limit)
		if err != nil {
			return 0, false, err
		}
		if rows.events {
			events = n
		}
		if limit -= n; limit <= 0 {
			return events, true, nil
		}
	}
	return events, false, nil
}

// removeRoomRows returns a function for roomRows that deletes rows of a table. key are the columns that identify a row
// of a room.
func removeRoomRows(table, key string) func(*Tx, ident.RoomNID, int) (int, error) {
	query := `DELETE FROM ` + table + ` WHERE room_nid = $1 AND (` + key + `) IN (SELECT ` + key + ` FROM ` + table + ` WHERE room_nid = $1 LIMIT $2)`
	return func(tx *Tx, room ident.RoomNID, limit int) (int, error) {
		n, err := tx.exec(query, int64(room), limit)
		return int(n), err
	}
}

// removeSearchBlocks deletes blocks of the search index.
func (tx *Tx) removeSearchBlocks(room ident.RoomNID, limit int) (int, error) {
	blocks, err := tx.SearchBlocks([]ident.RoomNID{room}, max(1, limit/blockRows))
	for _, b := range blocks {
		if err == nil {
			err = tx.dropSearchBlock(b)
		}
	}
	return len(blocks) * blockRows, err
}

// blockRows is the number of rows as which a block of the search index counts for RemoveRoomRows.
const blockRows = 50

const roomEventsQuery = candidatesFrom + `WHERE room_nid = $1 ORDER BY ord LIMIT $2`

// removeRoomEvents deletes events of all kinds, with what depends on them. It uses the index events_by_order.
func (tx *Tx) removeRoomEvents(room ident.RoomNID, limit int) (int, error) {
	batch, err := collect(tx, scanCandidate, roomEventsQuery, int64(room), limit)
	if err != nil || len(batch) == 0 {
		return 0, err
	}
	with, err := tx.WithDependents(batch)
	if err != nil {
		return 0, err
	}
	return len(batch), tx.PurgeEvents(batch, with, false)
}

const firstSnapshotQuery = `SELECT nid FROM state_snapshots WHERE room_nid = $1 ORDER BY nid LIMIT 1`

// removeSnapshots deletes states. It uses the index state_snapshots_by_room.
func (tx *Tx) removeSnapshots(room ident.RoomNID, limit int) (n int, err error) {
	for n < limit {
		nid, found, err := one(tx, scanNumber[int64], firstSnapshotQuery, int64(room))
		if err != nil || !found {
			return n, err
		}
		rows, err := tx.deleteSnapshot(nid, limit-n)
		if n += rows; err != nil {
			return n, err
		}
	}
	return n, nil
}

const deleteDeltasQuery = `DELETE FROM state_deltas WHERE snapshot = $1 AND (type, state_key) IN (
    SELECT type, state_key FROM state_deltas WHERE snapshot = $1 LIMIT $2)`

// deleteSnapshot deletes at most limit rows of a snapshot, and the snapshot itself with the last of them. It returns
// the number of deleted rows.
func (tx *Tx) deleteSnapshot(nid int64, limit int) (int, error) {
	n, err := tx.exec(deleteDeltasQuery, nid, limit)
	if err != nil || n >= int64(limit) {
		return int(n), err
	}
	_, err = tx.exec(`DELETE FROM state_snapshots WHERE nid = $1`, nid)
	return int(n) + 1, err
}
