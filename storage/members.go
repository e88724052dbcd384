package storage

import (
	"cmp"

	"ebb/ident"
)

// MemberRow is a user's current membership of a room.
type MemberRow struct {
	User       ident.UserNID
	UserID     string // set only by queries that read it
	Room       ident.RoomNID
	Membership string
	Position   Pos // the m.room.member event
	Changed    Pos // since when it is current; 0 means since Position
	JoinedPos  Pos // since when the user has been joined without interruption; 0 if not joined
	Forgotten  bool
}

const roomMembersQuery = `SELECT m.room_nid, m.user_nid, u.user_id, m.membership, m.position, m.changed FROM memberships m JOIN users u ON u.nid = m.user_nid
WHERE m.room_nid IN `

// RoomMembers returns all memberships of the given rooms. It uses the index memberships_by_room.
func (tx *Tx) RoomMembers(rooms []ident.RoomNID) ([]MemberRow, error) {
	list, args := In(1, rooms)
	return collect(tx, func(r Row) (m MemberRow, err error) {
		err = r.Scan(&m.Room, &m.User, &m.UserID, &m.Membership, &m.Position, &m.Changed)
		return m, err
	}, roomMembersQuery+list, args...)
}

// JoinedMembers lists the users joined to a room. It uses the index memberships_by_room.
func (tx *Tx) JoinedMembers(room ident.RoomNID) ([]ident.UserNID, error) {
	return collect(tx, scanNumber[ident.UserNID], `SELECT user_nid FROM memberships WHERE room_nid = $1 AND membership = 'join'`, int64(room))
}

const userMembershipsQuery = `SELECT room_nid, membership, position, changed, joined_pos, forgotten FROM memberships WHERE user_nid = $1 ORDER BY room_nid`

// UserMemberships returns all memberships of a user, ordered by room. It uses the primary key.
func (tx *Tx) UserMemberships(user ident.UserNID) ([]MemberRow, error) {
	return collect(tx, scanMembership(user), userMembershipsQuery, int64(user))
}

// scanMembership returns a function that scans a membership of a user.
func scanMembership(user ident.UserNID) func(Row) (MemberRow, error) {
	return func(r Row) (m MemberRow, err error) {
		var forgotten int64
		m.User = user
		err = r.Scan(&m.Room, &m.Membership, &m.Position, &m.Changed, &m.JoinedPos, &forgotten)
		m.Forgotten = forgotten != 0
		return m, err
	}
}

const setMembershipQuery = `INSERT INTO memberships (user_nid, room_nid, membership, position, changed, joined_pos)
VALUES ($1, $2, $3, $4, $5, CASE WHEN $3 = 'join' THEN CAST($6 AS BIGINT) ELSE 0 END)
ON CONFLICT (user_nid, room_nid) DO UPDATE SET membership = excluded.membership, position = excluded.position, changed = excluded.changed, forgotten = 0,
joined_pos = CASE WHEN excluded.membership = 'join' AND memberships.membership = 'join' THEN memberships.joined_pos ELSE excluded.joined_pos END`

// SetMembership sets a user's membership of a room. If the user had forgotten the room, that ends. If m.JoinedPos is 0,
// it is derived from m.Position and m.Changed.
func (tx *Tx) SetMembership(m MemberRow) error {
	joined := cmp.Or(m.JoinedPos, max(m.Position, m.Changed))
	_, err := tx.exec(setMembershipQuery, int64(m.User), int64(m.Room), m.Membership, int64(m.Position), int64(m.Changed), int64(joined))
	return err
}

// DeleteMembership deletes a user's membership of a room after state resolution removed it from the state.
func (tx *Tx) DeleteMembership(user ident.UserNID, room ident.RoomNID) error {
	_, err := tx.exec(`DELETE FROM memberships WHERE user_nid = $1 AND room_nid = $2`, int64(user), int64(room))
	return err
}

// ForgetRoom marks a room that a user has left as forgotten.
func (tx *Tx) ForgetRoom(user ident.UserNID, room ident.RoomNID) error {
	_, err := tx.exec(`UPDATE memberships SET forgotten = 1 WHERE user_nid = $1 AND room_nid = $2 AND membership IN ('leave', 'ban')`, int64(user), int64(room))
	return err
}

const (
	mutualRoomsFrom = ` FROM memberships a JOIN memberships b ON b.user_nid = $2 AND b.room_nid = a.room_nid AND b.membership = 'join'
JOIN rooms r ON r.nid = a.room_nid WHERE a.user_nid = $1 AND a.membership = 'join'`
	mutualRoomsQuery      = `SELECT r.nid, r.room_id` + mutualRoomsFrom + ` AND a.room_nid > $3 ORDER BY a.room_nid LIMIT $4`
	countMutualRoomsQuery = `SELECT count(*)` + mutualRoomsFrom
)

// MutualRooms returns the rooms to which both users are joined and whose number is above after, by number. It uses the
// primary keys.
func (tx *Tx) MutualRooms(a, b ident.UserNID, after ident.RoomNID, limit int) (ids []string, last ident.RoomNID, err error) {
	err = tx.each(func(r Row) error {
		var id string
		err := r.Scan(&last, &id)
		ids = append(ids, id)
		return err
	}, mutualRoomsQuery, int64(a), int64(b), int64(after), limit)
	return ids, last, err
}

// CountMutualRooms counts the rooms that both users are joined to. It uses the primary keys.
func (tx *Tx) CountMutualRooms(a, b ident.UserNID) (int64, error) {
	n, _, err := one(tx, scanNumber[int64], countMutualRoomsQuery, int64(a), int64(b))
	return n, err
}
