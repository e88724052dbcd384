package storage

import (
	"encoding/json"
	"errors"

	"ebb/ident"
)

// RoomRow is a row of rooms.
type RoomRow struct {
	NID          ident.RoomNID
	RoomID       string
	Version      string
	CreatedTS    int64 // ms
	Generation   int64 // incremented by every write to the room
	Snapshot     int64 // the state after the forward extremities
	Extremities  []Pos
	Depth        int64
	MinDepth     int64 // depth of the join by which this server entered the room
	Entered      Pos   // position of that join; 0 if this server created the room
	LastOrder    ident.Order
	Published    bool
	Overridden   bool
	OverrideMin  *int64 // ms
	OverrideMax  *int64 // ms
	PurgedBefore int64  // ms

	PartialJoin    Pos      // the join whose preceding state is partial; 0 if the state is complete
	PartialServers []string // of a partial-state room: the servers in it, first the one that answered the join
	Completed      Pos      // position at which the state became complete; 0 if it always was

	Recheck bool // whether an earlier version of Ebb may have damaged the room

	Forked bool // for AdvanceRoom: whether the graph has forked, so that no event may refer to the state of the last head
}

const roomColumns = `SELECT nid, room_id, version, created_ts, generation, snapshot, extremities, depth, last_order, published,
overridden, override_min, override_max, purged_before, min_depth, entered, partial_join, partial_servers, completed, recheck FROM rooms`

func scanRoom(r Row) (m RoomRow, err error) {
	var extremities, servers string
	var published, overridden, recheck int64
	if err = r.Scan(&m.NID, &m.RoomID, &m.Version, &m.CreatedTS, &m.Generation, &m.Snapshot, &extremities, &m.Depth, &m.LastOrder,
		&published, &overridden, &m.OverrideMin, &m.OverrideMax, &m.PurgedBefore, &m.MinDepth, &m.Entered,
		&m.PartialJoin, &servers, &m.Completed, &recheck); err != nil {
		return m, err
	}
	m.Published, m.Overridden, m.Recheck = published != 0, overridden != 0, recheck != 0
	return m, errors.Join(json.Unmarshal([]byte(extremities), &m.Extremities), json.Unmarshal([]byte(servers), &m.PartialServers))
}

// RoomByID finds a room.
func (tx *Tx) RoomByID(roomID string) (RoomRow, bool, error) {
	return one(tx, scanRoom, roomColumns+` WHERE room_id = $1`, roomID)
}

// RoomByNID finds a room by its number.
func (tx *Tx) RoomByNID(nid ident.RoomNID) (RoomRow, bool, error) {
	return one(tx, scanRoom, roomColumns+` WHERE nid = $1`, int64(nid))
}

// RoomsByID finds rooms, in no particular order.
func (tx *Tx) RoomsByID(ids []string) ([]RoomRow, error) {
	list, args := In(1, ids)
	return collect(tx, scanRoom, roomColumns+` WHERE room_id IN `+list, args...)
}

// RoomsByNID finds rooms by their numbers, in no particular order.
func (tx *Tx) RoomsByNID(nids []ident.RoomNID) ([]RoomRow, error) {
	list, args := In(1, nids)
	return collect(tx, scanRoom, roomColumns+` WHERE nid IN `+list, args...)
}

const insertRoomQuery = `INSERT INTO rooms (nid, room_id, version, created_ts, generation, snapshot, extremities, depth, last_order)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`

// InsertRoom adds a room, including the columns that AdvanceRoom updates later.
func (tx *Tx) InsertRoom(m *RoomRow) error {
	tx.refersTo(m.Snapshot)
	_, err := tx.exec(insertRoomQuery, int64(m.NID), m.RoomID, m.Version, m.CreatedTS, m.Generation, m.Snapshot, positionList(m.Extremities), m.Depth, int64(m.LastOrder))
	return err
}

const advanceRoomQuery = `UPDATE rooms SET generation = generation + 1, snapshot = $3, extremities = $4, depth = $5,
last_order = CASE WHEN $6 > last_order THEN $6 ELSE last_order END
WHERE nid = $1 AND generation = $2`

// AdvanceRoom updates a room's state, extremities, depth and last order. It returns false if the row does not have the
// generation m.Generation, on which the caller's change is based.
func (tx *Tx) AdvanceRoom(m *RoomRow) (bool, error) {
	tx.refersTo(m.Snapshot)
	if m.Forked {
		if err := tx.markStates(markRoomQuery, int64(m.NID)); err != nil {
			return false, err
		}
	}
	n, err := tx.exec(advanceRoomQuery, int64(m.NID), m.Generation, m.Snapshot, positionList(m.Extremities), m.Depth, int64(m.LastOrder))
	return n == 1, err
}

const enterRoomQuery = `UPDATE rooms SET generation = generation + 1, snapshot = $2, extremities = $3, depth = $4, min_depth = $4, last_order = $5,
partial_join = $6, partial_servers = $7, completed = 0, entered = $8, recheck = 0 WHERE nid = $1`

// EnterRoom sets the state, extremities and depth of a room that this server joined through another server.
func (tx *Tx) EnterRoom(m *RoomRow) error {
	servers, err := json.Marshal(append([]string{}, m.PartialServers...))
	if err != nil {
		return err
	}
	tx.refersTo(m.Snapshot)
	if err := tx.markStates(markRoomQuery, int64(m.NID)); err != nil {
		return err
	}
	_, err = tx.exec(enterRoomQuery, int64(m.NID), m.Snapshot, positionList(m.Extremities), m.Depth, int64(m.LastOrder), int64(m.PartialJoin), string(servers), int64(m.Entered))
	return err
}

// CompleteRoom records that a room's state is complete from a position on. The caller has updated the room with
// AdvanceRoom.
func (tx *Tx) CompleteRoom(nid ident.RoomNID, completed Pos) error {
	_, err := tx.exec(`UPDATE rooms SET partial_join = 0, partial_servers = '[]', completed = $2 WHERE nid = $1`, int64(nid), int64(completed))
	return err
}

const partialRoomsQuery = `SELECT nid FROM rooms WHERE partial_join > 0 ORDER BY nid`

// PartialRooms lists the partial-state rooms. It uses the index rooms_partial.
func (tx *Tx) PartialRooms() ([]ident.RoomNID, error) {
	return collect(tx, scanNumber[ident.RoomNID], partialRoomsQuery)
}

// RoomsToRecheck lists the rooms that an earlier version of Ebb may have damaged. It uses the index rooms_recheck.
func (tx *Tx) RoomsToRecheck() ([]ident.RoomNID, error) {
	return collect(tx, scanNumber[ident.RoomNID], `SELECT nid FROM rooms WHERE recheck > 0 ORDER BY nid`)
}

// SetEntered stores the position of the join by which this server entered a room, and whether the room still has to be
// checked for damage.
func (tx *Tx) SetEntered(nid ident.RoomNID, entered Pos, recheck bool) error {
	_, err := tx.exec(`UPDATE rooms SET recheck = $3, entered = $2 WHERE nid = $1`, int64(nid), int64(entered), recheck)
	return err
}

func positionList(ps []Pos) string {
	out := []byte{'['}
	for i, p := range ps {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendInt(out, int64(p))
	}
	return string(append(out, ']'))
}

// SetPublished adds a room to the room directory or removes it.
func (tx *Tx) SetPublished(room ident.RoomNID, published bool) error {
	_, err := tx.exec(`UPDATE rooms SET published = $2 WHERE nid = $1`, int64(room), published)
	return err
}
