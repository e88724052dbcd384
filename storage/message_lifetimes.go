package storage

import (
	"strconv"

	"ebb/ident"
)

// MessageLifetime says after what time the messages that a user has sent are redacted.
type MessageLifetime struct {
	User     ident.UserNID
	Room     ident.RoomNID // 0: all rooms without a row of their own
	RoomID   string        // "" for all rooms
	Lifetime int64         // ms
	SetTS    int64         // ms
}

const setMessageLifetimeQuery = `INSERT INTO message_lifetimes (user_nid, room_nid, lifetime, set_ts, due_ts) VALUES ($1, $2, $3, $4, $4)
ON CONFLICT (user_nid, room_nid) DO UPDATE SET lifetime = excluded.lifetime, set_ts = excluded.set_ts, due_ts = excluded.due_ts`

// SetMessageLifetime stores a lifetime (ms) of the messages of a user, in one room or, if room is 0, in all others. The
// next daily request is due at once. It ends the one that is under way, which may have passed the room.
func (tx *Tx) SetMessageLifetime(user ident.UserNID, room ident.RoomNID, lifetime int64) error {
	if _, err := tx.exec(setMessageLifetimeQuery, int64(user), int64(room), lifetime, tx.now.UnixMilli()); err != nil {
		return err
	}
	return tx.messageLifetimeChanged(user, room, lifetime)
}

// DropMessageLifetime deletes a lifetime of the messages of a user, and ends the daily request that is under way. It
// reports whether there was one.
func (tx *Tx) DropMessageLifetime(user ident.UserNID, room ident.RoomNID) (found bool, err error) {
	n, err := tx.exec(`DELETE FROM message_lifetimes WHERE user_nid = $1 AND room_nid = $2`, int64(user), int64(room))
	if err != nil || n == 0 {
		return false, err
	}
	if _, err := tx.exec(`UPDATE message_lifetimes SET due_ts = $2 WHERE user_nid = $1`, int64(user), tx.now.UnixMilli()); err != nil {
		return true, err
	}
	return true, tx.messageLifetimeChanged(user, room, 0)
}

func (tx *Tx) messageLifetimeChanged(user ident.UserNID, room ident.RoomNID, lifetime int64) error {
	if _, err := tx.deleteOwnRedactions(`user_nid = $1 AND finished_ts = 0 AND daily = 1`, int64(user)); err != nil {
		return err
	}
	return tx.Note(LedgerLifetime, int64(user), lifetime, strconv.FormatInt(int64(room), 10))
}

const messageLifetimesQuery = `SELECT l.user_nid, l.room_nid, coalesce(r.room_id, ''), l.lifetime, l.set_ts
FROM message_lifetimes l LEFT JOIN rooms r ON r.nid = l.room_nid WHERE l.user_nid = $1 ORDER BY l.room_nid LIMIT $2`

// MessageLifetimes lists at most limit lifetimes of the messages of a user: the one for all rooms first.
func (tx *Tx) MessageLifetimes(user ident.UserNID, limit int) ([]MessageLifetime, error) {
	return collect(tx, func(r Row) (l MessageLifetime, err error) {
		err = r.Scan(&l.User, &l.Room, &l.RoomID, &l.Lifetime, &l.SetTS)
		return l, err
	}, messageLifetimesQuery, int64(user), limit)
}

const messageLifetimeQuery = `SELECT lifetime FROM message_lifetimes WHERE user_nid = $1 AND room_nid IN (0, $2) ORDER BY room_nid DESC LIMIT 1`

// MessageLifetime returns the lifetime (ms) of the messages of a user in a room: that of the room, or else the one for
// all rooms.
func (tx *Tx) MessageLifetime(user ident.UserNID, room ident.RoomNID) (lifetime int64, found bool, err error) {
	return one(tx, scanNumber[int64], messageLifetimeQuery, int64(user), int64(room))
}

const nextLimitedRoomQuery = `SELECT m.room_nid FROM memberships m WHERE m.user_nid = $1 AND m.room_nid > $2
AND EXISTS (SELECT 1 FROM message_lifetimes l WHERE l.user_nid = $1 AND l.room_nid IN (0, m.room_nid)) ORDER BY m.room_nid LIMIT 1`

// NextLimitedRoom returns the room with the next higher number in which the user is or was and in which the user's
// messages have a lifetime. It uses the primary key.
func (tx *Tx) NextLimitedRoom(user ident.UserNID, after ident.RoomNID) (room ident.RoomNID, found bool, err error) {
	return one(tx, scanNumber[ident.RoomNID], nextLimitedRoomQuery, int64(user), int64(after))
}

const copyMessageLifetimeQuery = `INSERT INTO message_lifetimes (user_nid, room_nid, lifetime, set_ts, due_ts)
SELECT user_nid, $3, lifetime, set_ts, due_ts FROM message_lifetimes WHERE user_nid = $1 AND room_nid = $2
ON CONFLICT (user_nid, room_nid) DO NOTHING`

// CopyMessageLifetime copies the lifetime of a user's messages in a room to the room that replaces it, unless the new
// room has one already.
func (tx *Tx) CopyMessageLifetime(user ident.UserNID, from, to ident.RoomNID) error {
	_, err := tx.exec(copyMessageLifetimeQuery, int64(user), int64(from), int64(to))
	return err
}

const dueMessageLifetimesQuery = `SELECT DISTINCT l.user_nid FROM message_lifetimes l JOIN accounts a ON a.nid = l.user_nid
WHERE (l.due_ts <= $1 OR l.due_ts > $2) AND a.deactivated_ts = 0 AND a.locked = 0
AND NOT EXISTS (SELECT 1 FROM own_redactions o WHERE o.user_nid = l.user_nid AND o.finished_ts = 0 AND o.daily = 1)
ORDER BY l.user_nid LIMIT $3`

// DueMessageLifetimes lists at most limit users for whom a daily request is due now, or only after last, except those
// for whom one is under way or whose accounts are locked or closed. It uses the index message_lifetimes_by_due.
func (tx *Tx) DueMessageLifetimes(now, last int64, limit int) ([]ident.UserNID, error) {
	return collect(tx, scanNumber[ident.UserNID], dueMessageLifetimesQuery, now, last, limit)
}

// PostponeMessageLifetimes sets when (ms) the next daily request of a user is due.
func (tx *Tx) PostponeMessageLifetimes(user ident.UserNID, due int64) error {
	_, err := tx.exec(`UPDATE message_lifetimes SET due_ts = $2 WHERE user_nid = $1`, int64(user), due)
	return err
}
