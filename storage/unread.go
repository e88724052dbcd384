package storage

import "ebb/ident"

// UnreadRow is an event after a user's receipts with its push class for that user.
type UnreadRow struct {
	Position   Pos
	Order      ident.Order
	ThreadRoot Pos // 0 for the main timeline
	OriginTS   int64
	ReceivedTS int64
	Sender     ident.UserNID
	IsState    bool
	Push       int64
}

const unreadQuery = `SELECT e.position, e.ord, e.thread_root, e.origin_ts, e.received_ts, e.sender_nid, e.state_key IS NOT NULL, coalesce(p.push, e.push)
FROM events e LEFT JOIN event_push p ON p.user_nid = $1 AND p.room_nid = $2 AND p.position = e.position
WHERE e.room_nid = $2 AND e.ord > $3 AND e.flags & $5 = 0 AND (e.sender_nid = $1 OR coalesce(p.push, e.push) <> 0)
ORDER BY e.ord DESC LIMIT $4`

// Unread lists the newest events after an order that have a push class for the user or were sent by the user, newest
// first. It uses the index events_by_order and the primary key of event_push.
func (tx *Tx) Unread(user ident.UserNID, room ident.RoomNID, after ident.Order, limit int) ([]UnreadRow, error) {
	return collect(tx, func(r Row) (u UnreadRow, err error) {
		err = r.Scan(&u.Position, &u.Order, &u.ThreadRoot, &u.OriginTS, &u.ReceivedTS, &u.Sender, &u.IsState, &u.Push)
		return u, err
	}, unreadQuery, int64(user), int64(room), int64(after), limit, int64(HiddenEvent))
}

// ReadUpTo is the order up to which a user has read a thread, or the room if Thread is "".
type ReadUpTo struct {
	Thread string // "", "main", or the event ID of the thread's root
	Order  ident.Order
}

const readUpToQuery = `SELECT thread, max(ord) FROM receipts WHERE room_nid = $1 AND user_nid = $2 AND type IN ('m.read', 'm.read.private') GROUP BY thread`

// ReadUpTo lists how far a user has read a room and its threads, by public and private receipts. It uses the primary
// key.
func (tx *Tx) ReadUpTo(room ident.RoomNID, user ident.UserNID) ([]ReadUpTo, error) {
	return collect(tx, func(r Row) (u ReadUpTo, err error) {
		err = r.Scan(&u.Thread, &u.Order)
		return u, err
	}, readUpToQuery, int64(room), int64(user))
}

const eventPositionQuery = `SELECT position FROM events WHERE id_hash = $1 AND event_id = $2 AND +room_nid = $3 ORDER BY ord DESC, position DESC LIMIT 1`

// EventPosition returns the position of an event of a room. It uses the index events_by_id.
func (tx *Tx) EventPosition(room ident.RoomNID, eventID string) (Pos, bool, error) {
	p, found, err := one(tx, scanNumber[int64], eventPositionQuery, tx.IDHash(eventID), eventID, int64(room))
	return Pos(p), found, err
}

// MembershipOf returns a user's membership of a room. It uses the primary key.
func (tx *Tx) MembershipOf(user ident.UserNID, room ident.RoomNID) (MemberRow, bool, error) {
	return one(tx, func(r Row) (m MemberRow, err error) {
		m.User, m.Room = user, room
		err = r.Scan(&m.Membership, &m.Position, &m.JoinedPos)
		return m, err
	}, `SELECT membership, position, joined_pos FROM memberships WHERE user_nid = $1 AND room_nid = $2`, int64(user), int64(room))
}
