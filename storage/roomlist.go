package storage

import "ebb/ident"

// Lists of all rooms are read in pages by keyset: a query returns at most limit rooms whose number is above after, in
// the order of their numbers, and the number of the last one is the after of the next page. Numbers are never reused,
// so that a room that is added or removed between two pages neither repeats nor hides another.

const (
	allRoomsQuery        = `SELECT nid FROM rooms WHERE nid > $1 ORDER BY nid LIMIT $2`
	publishedRoomsQuery  = `SELECT nid FROM rooms WHERE published = 1 AND nid > $1 ORDER BY nid LIMIT $2`
	roomsWithPolicyQuery = `SELECT nid FROM rooms r WHERE nid > $1 AND (overridden = 1 OR EXISTS (SELECT 1 FROM current_state c
WHERE c.room_nid = r.nid AND c.type IN ('m.room.retention', 'org.matrix.msc1763.retention') AND c.state_key = '' AND c.position <> 0)
OR EXISTS (SELECT 1 FROM room_policies p WHERE p.room_nid = r.nid)) ORDER BY nid LIMIT $2`
)

// AllRooms returns a page of all rooms. It uses the primary key.
func (tx *Tx) AllRooms(after ident.RoomNID, limit int) ([]ident.RoomNID, error) {
	return collect(tx, scanNumber[ident.RoomNID], allRoomsQuery, int64(after), limit)
}

// PublishedRooms returns a page of the rooms in the room directory. It uses the index rooms_published.
func (tx *Tx) PublishedRooms(after ident.RoomNID, limit int) ([]ident.RoomNID, error) {
	return collect(tx, scanNumber[ident.RoomNID], publishedRoomsQuery, int64(after), limit)
}

// RoomsWithPolicy returns a page of the rooms with their own retention policy, or with a record of one. It uses the
// primary keys.
func (tx *Tx) RoomsWithPolicy(after ident.RoomNID, limit int) ([]ident.RoomNID, error) {
	return collect(tx, scanNumber[ident.RoomNID], roomsWithPolicyQuery, int64(after), limit)
}

const roomRowsQuery = roomColumns + ` WHERE nid > $1 ORDER BY nid LIMIT $2`

// RoomRows returns a page of the rows of all rooms. It uses the primary key.
func (tx *Tx) RoomRows(after ident.RoomNID, limit int) ([]RoomRow, error) {
	return collect(tx, scanRoom, roomRowsQuery, int64(after), limit)
}

const joinedCountsQuery = `SELECT room_nid, COUNT(*) FROM memberships WHERE membership = 'join' AND room_nid IN `

// JoinedCounts returns the number of joined members of each room that has any. It uses the index memberships_by_room.
func (tx *Tx) JoinedCounts(rooms []ident.RoomNID) (map[ident.RoomNID]int64, error) {
	list, args := In(1, rooms)
	return numbers[ident.RoomNID, int64](tx, joinedCountsQuery+list+` GROUP BY room_nid`, args...)
}

const describingStateQuery = `SELECT ` + eventColumns + ` FROM current_state c JOIN events e ON e.position = c.position
WHERE c.type IN ('m.room.name', 'm.room.canonical_alias', 'm.room.encryption', 'm.room.retention', 'org.matrix.msc1763.retention')
AND c.state_key = '' AND c.room_nid IN `

// DescribingState returns the current state events that describe rooms to an administrator: name, canonical alias,
// encryption and retention. It uses the primary keys.
func (tx *Tx) DescribingState(rooms []ident.RoomNID) ([]EventRow, error) {
	list, args := In(1, rooms)
	return collect(tx, scanEvent, describingStateQuery+list, args...)
}
