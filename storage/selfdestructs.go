package storage

import (
	"math"

	"ebb/ident"
)

// SelfDestruct is a message that asks to be destroyed (MSC2228).
type SelfDestruct struct {
	Position  Pos
	Room      ident.RoomNID
	Sender    ident.UserNID
	DueTS     int64 // ms; math.MaxInt64: not known yet
	AfterRead int64 // ms after everybody has read it; -1: that does not matter, or DueTS includes it

	EventID    string      // not set for AddSelfDestruct
	Order      ident.Order // the same
	ReceivedTS int64       // the same
	UserID     string      // of the sender; the same
	Thread     string      // the receipts that count, besides unthreaded ones: main, or the thread's root; the same
}

const (
	addSelfDestructQuery = `INSERT INTO self_destructs (position, room_nid, sender_nid, due_ts, after_read) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`

	trimSelfDestructsQuery = `UPDATE self_destructs SET due_ts = $4, after_read = -1 WHERE room_nid = $1 AND sender_nid = $2 AND due_ts > $4 AND position <= (SELECT coalesce(max(position), 0) FROM (
 SELECT position FROM self_destructs WHERE room_nid = $1 AND sender_nid = $2 ORDER BY position DESC LIMIT 1 OFFSET $3) AS old)`
)

// AddSelfDestruct stores that a message is to be destroyed. Of the messages of the sender in the room, those beyond the
// newest most are due now (ms).
func (tx *Tx) AddSelfDestruct(d *SelfDestruct, most int, now int64) error {
	if _, err := tx.exec(addSelfDestructQuery, int64(d.Position), int64(d.Room), int64(d.Sender), d.DueTS, d.AfterRead); err != nil {
		return err
	}
	_, err := tx.exec(trimSelfDestructsQuery, int64(d.Room), int64(d.Sender), most, now)
	return err
}

const selfDestructColumns = `SELECT d.position, d.room_nid, d.sender_nid, d.due_ts, d.after_read, COALESCE(e.event_id, ''), COALESCE(e.ord, 0), COALESCE(e.received_ts, 0), COALESCE(u.user_id, ''),
COALESCE((SELECT t.event_id FROM events t WHERE t.position = e.thread_root), 'main')
FROM self_destructs d LEFT JOIN users u ON u.nid = d.sender_nid LEFT JOIN events e ON e.position = d.position `

func scanSelfDestruct(r Row) (d SelfDestruct, err error) {
	err = r.Scan(&d.Position, &d.Room, &d.Sender, &d.DueTS, &d.AfterRead, &d.EventID, &d.Order, &d.ReceivedTS, &d.UserID, &d.Thread)
	return d, err
}

// DueSelfDestructs lists messages that are to be destroyed at the time now (ms), beginning with the one that has been
// due for the longest time. It uses the index self_destructs_by_time.
func (tx *Tx) DueSelfDestructs(now int64, limit int) ([]SelfDestruct, error) {
	return collect(tx, scanSelfDestruct, selfDestructColumns+`WHERE d.due_ts <= $1 ORDER BY d.due_ts, d.position LIMIT $2`, now, limit)
}

// NextSelfDestruct returns when the next message is due, in ms: math.MaxInt64 if that is not known of any.
func (tx *Tx) NextSelfDestruct() (due int64, err error) {
	due, found, err := one(tx, scanNumber[int64], `SELECT due_ts FROM self_destructs ORDER BY due_ts LIMIT 1`)
	if !found {
		due = math.MaxInt64
	}
	return due, err
}

const unreadSelfDestructsQuery = selfDestructColumns + `WHERE d.room_nid = $1 AND (d.sender_nid, d.position) > ($2, $3) AND d.after_read >= 0 ORDER BY d.sender_nid, d.position LIMIT 1`

// NextUnread returns the first message of a room after the given sender and position that is to be destroyed after
// everybody has read it. It uses the index self_destructs_by_sender.
func (tx *Tx) NextUnread(room ident.RoomNID, sender ident.UserNID, after Pos) (SelfDestruct, bool, error) {
	return one(tx, scanSelfDestruct, unreadSelfDestructsQuery, int64(room), int64(sender), int64(after))
}

// RoomsWithUnread lists the rooms with messages that are to be destroyed after everybody has read them.
func (tx *Tx) RoomsWithUnread(after ident.RoomNID, limit int) ([]ident.RoomNID, error) {
	return collect(tx, scanNumber[ident.RoomNID], `SELECT DISTINCT room_nid FROM self_destructs WHERE room_nid > $1 AND after_read >= 0 ORDER BY room_nid LIMIT $2`, int64(after), limit)
}

const membersQuery = `SELECT count(*) FROM (SELECT user_nid FROM memberships WHERE room_nid = $1 AND membership IN ('join', 'invite') LIMIT $2) AS present`

// MembersUpTo returns the number of users who are in a room or invited, or limit if there are more.
func (tx *Tx) MembersUpTo(room ident.RoomNID, limit int) (n int64, err error) {
	n, _, err = one(tx, scanNumber[int64], membersQuery, int64(room), limit)
	return n, err
}

const (
	unreadByQuery = `SELECT m.user_nid FROM memberships m WHERE m.room_nid = $1 AND m.membership IN ('join', 'invite') AND m.user_nid <> $2 AND NOT EXISTS (
SELECT 1 FROM receipts r WHERE r.room_nid = $1 AND r.user_nid = m.user_nid AND r.type = 'm.read' AND r.thread IN ('', $4) AND r.ord >= $3) LIMIT 1`

	otherMemberQuery = `SELECT user_nid FROM memberships WHERE room_nid = $1 AND membership = 'join' AND user_nid <> $2 LIMIT 1`
)

// ReadByAll reports whether somebody in the room but the sender, and everybody who is in it or invited, has sent a
// public read receipt for a message or for a later event. It uses the index memberships_by_room.
func (tx *Tx) ReadByAll(d *SelfDestruct) (bool, error) {
	_, other, err := one(tx, scanNumber[int64], otherMemberQuery, int64(d.Room), int64(d.Sender))
	if err != nil || !other {
		return false, err
	}
	_, unread, err := one(tx, scanNumber[int64], unreadByQuery, int64(d.Room), int64(d.Sender), int64(d.Order), d.Thread)
	return !unread, err
}

// SelfDestructAt sets when a message is destroyed (ms).
func (tx *Tx) SelfDestructAt(p Pos, due int64) error {
	_, err := tx.exec(`UPDATE self_destructs SET due_ts = $2, after_read = -1 WHERE position = $1`, int64(p), due)
	return err
}

// DeleteSelfDestruct deletes what AddSelfDestruct stored about a message.
func (tx *Tx) DeleteSelfDestruct(p Pos) error {
	_, err := tx.exec(`DELETE FROM self_destructs WHERE position = $1`, int64(p))
	return err
}
