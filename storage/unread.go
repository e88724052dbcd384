package storage

import (
	"slices"

	"ebb/ident"
)

// UnreadRow is an event after a user's receipts with its push class for that user.
type UnreadRow struct {
	Room       ident.RoomNID
	Position   Pos
	Order      ident.Order
	ThreadRoot Pos // 0 for the main timeline
	OriginTS   int64
	ReceivedTS int64
	Sender     ident.UserNID
	IsState    bool
	Push       int64
}

const (
	unreadFrom = `SELECT e.room_nid, e.position, e.ord, e.thread_root, e.origin_ts, e.received_ts, e.sender_nid, e.state_key IS NOT NULL, coalesce(p.push, e.push)
FROM events e LEFT JOIN event_push p ON p.user_nid = $1 AND p.room_nid = e.room_nid AND p.position = e.position
WHERE e.flags & $2 = 0 AND (e.sender_nid = $1 OR coalesce(p.push, e.push) <> 0) AND e.ord > $3 `
	unreadQuery        = unreadFrom + `AND e.room_nid = $4 AND e.ord < $5 AND e.thread_root = 0 ORDER BY e.ord DESC LIMIT $6`
	unreadRepliesQuery = unreadFrom + `AND e.thread_root <> 0 AND e.room_nid IN `
	unreadRepliesOrder = ` ORDER BY e.room_nid, e.ord DESC LIMIT $4`
)

func scanUnread(r Row) (u UnreadRow, err error) {
	err = r.Scan(&u.Room, &u.Position, &u.Order, &u.ThreadRoot, &u.OriginTS, &u.ReceivedTS, &u.Sender, &u.IsState, &u.Push)
	return u, err
}

// Unread lists the newest events of a room's main timeline between two orders (both exclusive) that have a push class
// for the user or were sent by the user, newest first. It uses the index events_by_order and the primary key of
// event_push.
func (tx *Tx) Unread(user ident.UserNID, room ident.RoomNID, after, before ident.Order, limit int) ([]UnreadRow, error) {
	return collect(tx, scanUnread, unreadQuery, int64(user), int64(HiddenEvent), int64(after), int64(room), int64(before), limit)
}

// UnreadReplies is like Unread, but for the threads of several rooms. The rows are ordered by room, the newest of each
// room first. It uses the index events_in_threads.
func (tx *Tx) UnreadReplies(user ident.UserNID, rooms []ident.RoomNID, after ident.Order, limit int) ([]UnreadRow, error) {
	list, args := In(5, rooms)
	return collect(tx, scanUnread, unreadRepliesQuery+list+unreadRepliesOrder, append([]any{int64(user), int64(HiddenEvent), int64(after), limit}, args...)...)
}

const ownPushesQuery = `SELECT position, push FROM event_push WHERE user_nid = $1 AND position > $2 AND room_nid IN `

// OwnPushes returns, by position, the push classes of the events after a position of the given rooms for which a user
// has a class of their own. There are more of them if it returns limit. It uses the primary key.
func (tx *Tx) OwnPushes(user ident.UserNID, rooms []ident.RoomNID, after Pos, limit int) (map[Pos]int64, error) {
	list, args := In(4, rooms)
	return numbers[Pos, int64](tx, ownPushesQuery+list+` LIMIT $3`, append([]any{int64(user), int64(after), limit}, args...)...)
}

// ReadUpTo is the order up to which a user has read a thread of a room, or the room if Thread is "".
type ReadUpTo struct {
	Room   ident.RoomNID
	Thread string // "", "main", or the event ID of the thread's root
	Order  ident.Order
}

const (
	readUpToQuery = `SELECT room_nid, thread, max(ord) FROM receipts WHERE user_nid = $1 AND type IN ('m.read', 'm.read.private') AND room_nid IN `
	readUpToGroup = ` GROUP BY room_nid, thread`
)

// ReadUpTo lists how far a user has read the given rooms and their threads, by public and private receipts. It uses the
// primary key.
func (tx *Tx) ReadUpTo(user ident.UserNID, rooms []ident.RoomNID) ([]ReadUpTo, error) {
	list, args := In(2, rooms)
	return collect(tx, func(r Row) (u ReadUpTo, err error) {
		err = r.Scan(&u.Room, &u.Thread, &u.Order)
		return u, err
	}, readUpToQuery+list+readUpToGroup, append([]any{int64(user)}, args...)...)
}

// EventName identifies an event: in old room versions, events of different rooms may have the same ID.
type EventName struct {
	Room ident.RoomNID
	ID   string
}

const eventPositionsQuery = `SELECT room_nid, event_id, position FROM events WHERE id_hash IN `

// EventPositions returns the positions of events with the given IDs in any room. If an event has several rows (see
// EventByID), it is the row with the highest order. It uses the index events_by_id.
func (tx *Tx) EventPositions(ids []string) (map[EventName]Pos, error) {
	out := make(map[EventName]Pos, len(ids))
	for part := range slices.Chunk(ids, maxIn) {
		hashes := make([]int64, len(part))
		for i, eventID := range part {
			hashes[i] = tx.IDHash(eventID)
		}
		list, args := In(1, hashes)
		err := tx.each(func(r Row) error {
			var name EventName
			var pos Pos
			err := r.Scan(&name.Room, &name.ID, &pos)
			out[name] = pos
			return err
		}, eventPositionsQuery+list+` ORDER BY ord, position`, args...)
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

const joinedPositionsQuery = `SELECT room_nid, joined_pos FROM memberships WHERE user_nid = $1 AND room_nid IN `

// JoinedPositions returns since when a user has been joined to each of the given rooms without interruption. It uses
// the primary key.
func (tx *Tx) JoinedPositions(user ident.UserNID, rooms []ident.RoomNID) (map[ident.RoomNID]Pos, error) {
	list, args := In(2, rooms)
	return numbers[ident.RoomNID, Pos](tx, joinedPositionsQuery+list, append([]any{int64(user)}, args...)...)
}
