package storage

import (
	"strconv"

	"ebb/ident"
	"ebb/storage/statechain"
)

func appendInt(dst []byte, n int64) []byte { return strconv.AppendInt(dst, n, 10) }

const insertSnapshotQuery = `INSERT INTO state_snapshots (nid, room_nid, prev, length) VALUES ($1, $2, $3, $4)`

// InsertSnapshot adds a state snapshot that contains the changes since prev. length is the number of snapshots since
// the last full one. A full snapshot has prev 0 and length 0 and is filled by CopyCurrentState or InsertStateDelta.
func (tx *Tx) InsertSnapshot(nid int64, room ident.RoomNID, prev, length int64) error {
	tx.refersTo(prev)
	_, err := tx.exec(insertSnapshotQuery, nid, int64(room), prev, length)
	return err
}

const insertDeltaQuery = `INSERT INTO state_deltas (snapshot, type, state_key, position) VALUES ($1, $2, $3, $4)`

// InsertStateDelta adds one entry to a snapshot. Position 0 means that the key is absent from this snapshot on.
func (tx *Tx) InsertStateDelta(snapshot int64, typ, key string, p Pos) error {
	_, err := tx.exec(insertDeltaQuery, snapshot, typ, key, int64(p))
	return err
}

const copyCurrentStateQuery = `INSERT INTO state_deltas (snapshot, type, state_key, position)
SELECT CAST($1 AS BIGINT), type, state_key, position FROM current_state WHERE room_nid = $2 AND position <> 0`

// CopyCurrentState fills a full snapshot with the room's current state.
func (tx *Tx) CopyCurrentState(snapshot int64, room ident.RoomNID) error {
	_, err := tx.exec(copyCurrentStateQuery, snapshot, int64(room))
	return err
}

const setCurrentStateQuery = `INSERT INTO current_state (room_nid, type, state_key, position, changed) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (room_nid, type, state_key) DO UPDATE SET position = excluded.position, changed = excluded.changed`

// SetCurrentState sets one entry of a room's current state. changed is the position since which it is current, 0 if
// that is the event's own position.
func (tx *Tx) SetCurrentState(room ident.RoomNID, typ, key string, p, changed Pos) error {
	_, err := tx.exec(setCurrentStateQuery, int64(room), typ, key, int64(p), int64(changed))
	return err
}

const deleteCurrentStateQuery = `UPDATE current_state SET position = 0, changed = $4 WHERE room_nid = $1 AND type = $2 AND state_key = $3`

// DeleteCurrentState deletes one entry of a room's current state, and remembers that it was deleted at a position, for
// clients that have it.
func (tx *Tx) DeleteCurrentState(room ident.RoomNID, typ, key string, at Pos) error {
	_, err := tx.exec(deleteCurrentStateQuery, int64(room), typ, key, int64(at))
	return err
}

// ClearCurrentState deletes all current state of a room, so that it can be set anew.
func (tx *Tx) ClearCurrentState(room ident.RoomNID) error {
	_, err := tx.exec(`DELETE FROM current_state WHERE room_nid = $1`, int64(room))
	return err
}

// CurrentEntry is an entry of the current state of a room. Changed is the position since which its event is current, or
// 0 if that is the event's own position. If the entry was deleted, Changed is the position at which that happened, and
// of the event only the room, the type and the state key are set.
type CurrentEntry struct {
	EventRow
	Changed Pos
}

const currentStatesQuery = `SELECT c.changed, ` + eventColumns + ` FROM current_state c JOIN events e ON e.position = c.position
WHERE c.type <> 'm.room.member' AND c.room_nid IN `

// deletedStatesQuery uses the index current_state_deleted.
const deletedStatesQuery = `SELECT room_nid, type, state_key, changed FROM current_state WHERE position = 0 AND room_nid IN `

// CurrentStates returns the current state of rooms, except for their members (see RoomMembers), and the deleted entries
// of all types. It uses the primary keys.
func (tx *Tx) CurrentStates(rooms []ident.RoomNID) ([]CurrentEntry, error) {
	list, args := In(1, rooms)
	entries, err := collect(tx, func(r Row) (c CurrentEntry, err error) {
		c.EventRow, err = scanEvent(prefixed{r, &c.Changed})
		return c, err
	}, currentStatesQuery+list, args...)
	if err != nil {
		return nil, err
	}
	deleted, err := collect(tx, func(r Row) (c CurrentEntry, err error) {
		err = r.Scan(&c.Room, &c.Type, &c.StateKey, &c.Changed)
		return c, err
	}, deletedStatesQuery+list, args...)
	return append(entries, deleted...), err
}

const currentStateEventQuery = `SELECT ` + eventColumns + ` FROM current_state c JOIN events e ON e.position = c.position
WHERE c.room_nid = $1 AND c.type = $2 AND c.state_key = ''`

// CurrentStateEvent returns the event with an empty state key in the current state of a room. It uses the primary keys.
func (tx *Tx) CurrentStateEvent(room ident.RoomNID, typ string) (EventRow, bool, error) {
	return one(tx, scanEvent, currentStateEventQuery, int64(room), typ)
}

// prefixed is a Row whose first column is scanned into first. Scan scans the columns after it.
type prefixed struct {
	Row
	first any
}

func (p prefixed) Scan(dest ...any) error { return p.Row.Scan(append([]any{p.first}, dest...)...) }

// SnapshotLength returns the number of snapshots since the last full one.
func (tx *Tx) SnapshotLength(nid int64) (int64, error) {
	n, _, err := one(tx, scanNumber[int64], `SELECT length FROM state_snapshots WHERE nid = $1`, nid)
	return n, err
}

// SnapshotLengths is like SnapshotLength, but for several snapshots. The result is keyed by their numbers.
func (tx *Tx) SnapshotLengths(nids []int64) (map[int64]int64, error) {
	list, args := In(1, nids)
	return numbers[int64, int64](tx, `SELECT nid, length FROM state_snapshots WHERE nid IN `+list, args...)
}

// StateEntry is one entry of a state.
type StateEntry = statechain.Entry

const stateOfQuery = `WITH RECURSIVE chain (nid, prev, back) AS (
 SELECT nid, prev, 0 FROM state_snapshots WHERE nid = $1
 UNION ALL SELECT s.nid, s.prev, c.back + 1 FROM state_snapshots s JOIN chain c ON s.nid = c.prev)
SELECT d.type, d.state_key, d.position FROM chain c JOIN state_deltas d ON d.snapshot = c.nid ORDER BY c.back`

// StateOf returns all entries of a snapshot's state, in no particular order.
func (tx *Tx) StateOf(snapshot int64) ([]StateEntry, error) {
	type key struct{ typ, key string }
	seen := map[key]bool{}
	var out []StateEntry
	err := tx.each(func(r Row) error {
		var e StateEntry
		if err := r.Scan(&e.Type, &e.Key, &e.Position); err != nil {
			return err
		}
		if k := (key{e.Type, e.Key}); !seen[k] {
			seen[k] = true
			if e.Position != 0 {
				out = append(out, e)
			}
		}
		return nil
	}, stateOfQuery, snapshot)
	return out, err
}

const stateKeyOfQuery = `WITH RECURSIVE chain (nid, prev, back) AS (
 SELECT nid, prev, 0 FROM state_snapshots WHERE nid = $1
 UNION ALL SELECT s.nid, s.prev, c.back + 1 FROM state_snapshots s JOIN chain c ON s.nid = c.prev)
SELECT d.position FROM chain c JOIN state_deltas d ON d.snapshot = c.nid AND d.type = $2 AND d.state_key = $3 ORDER BY c.back LIMIT 1`

// StateKeyOf returns the position of one entry of a snapshot's state, 0 if it is absent.
func (tx *Tx) StateKeyOf(snapshot int64, typ, key string) (Pos, error) {
	p, _, err := one(tx, scanNumber[int64], stateKeyOfQuery, snapshot, typ, key)
	return Pos(p), err
}
