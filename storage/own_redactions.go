package storage

import (
	"fmt"

	"ebb/ident"
	"ebb/storage/sealing"
)

// OwnRedaction is a request to redact the messages that a user has sent.
type OwnRedaction struct {
	Position Pos // when it was requested; messages that arrive later are not redacted
	User     ident.UserNID
	UserID   string
	Room     ident.RoomNID // 0: all rooms in which the user is or was
	RoomID   string        // "" for all rooms
	Before   int64         // ms; only messages from before this time are redacted
	Reason   string        // "" if none was given
	Daily    bool          // made because of the user's setting
	// Everything reports whether the request is part of an erasure. It covers everything that the user has sent,
	// whenever it arrives, and what is about the user in member events. Nobody can cancel it.
	Everything bool
	OwnProgress
}

// OwnProgress is how far an OwnRedaction has come.
type OwnProgress struct {
	Counted    bool          // whether Expected is final
	AtRoom     ident.RoomNID // where the next step continues
	AtOrder    ident.Order   // or NextRoom, or UnplacedState
	Expected   int64         // messages that were found when counting
	Redacted   int64         // messages for which a redaction was sent
	Removed    int64         // messages that were removed from this server only
	FinishedTS int64         // ms; 0: not finished
}

const (
	// NextRoom is the AtOrder of a request whose next step begins with the room after AtRoom.
	NextRoom ident.Order = -1
	// UnplacedState is the AtOrder of a request whose next step looks at state events that are not in the timeline of
	// AtRoom.
	UnplacedState ident.Order = -2
)

const addOwnRedactionQuery = `INSERT INTO own_redactions
(position, user_nid, room_nid, before_ts, reason, daily, everything, counted, at_room, at_ord, expected, redacted, removed, finished_ts, body_key)
VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0, -1, 0, 0, 0, 0, $8)`

// AddOwnRedaction stores a request that has not begun, and sets its position.
func (tx *Tx) AddOwnRedaction(o *OwnRedaction) error {
	o.Position, o.OwnProgress = tx.NextPos(), OwnProgress{AtOrder: NextRoom}
	reason, sealed, err := tx.sealKind(sealing.OwnRedactions, 0, sealing.Reasons, int64(o.Position), o.Reason)
	if err != nil {
		return err
	}
	_, err = tx.exec(addOwnRedactionQuery, int64(o.Position), int64(o.User), int64(o.Room), o.Before, reason, o.Daily, o.Everything, sealed)
	return err
}

const (
	ownRedactionColumns = `SELECT o.position, o.user_nid, u.user_id, o.room_nid, o.before_ts, o.reason, o.daily, o.everything, o.counted, o.at_room, o.at_ord,
 o.expected, o.redacted, o.removed, o.finished_ts, coalesce(r.room_id, ''), o.body_key
FROM own_redactions o JOIN users u ON u.nid = o.user_nid LEFT JOIN rooms r ON r.nid = o.room_nid `
	nextOwnRedactionQuery = ownRedactionColumns + `LEFT JOIN accounts a ON a.nid = o.user_nid
WHERE o.finished_ts = 0 AND o.position > $1 AND (coalesce(a.locked, 0) = 0 OR a.deactivated_ts > 0) ORDER BY o.position LIMIT 1`
	ownRedactionsQuery = ownRedactionColumns + `WHERE o.user_nid = $1 ORDER BY o.position DESC LIMIT $2`
)

func scanOwnRedaction(r Row) (o OwnRedaction, err error) {
	var daily, everything, counted, sealed int64
	err = r.Scan(&o.Position, &o.User, &o.UserID, &o.Room, &o.Before, &o.Reason, &daily, &everything, &counted, &o.AtRoom, &o.AtOrder,
		&o.Expected, &o.Redacted, &o.Removed, &o.FinishedTS, &o.RoomID, &sealed)
	if err == nil && sealed != 0 {
		err = unsealString(r, sealing.OwnRedactions, int64(o.Position), &o.Reason)
	}
	o.Daily, o.Everything, o.Counted = daily != 0, everything != 0, counted != 0
	return o, err
}

// NextOwnRedaction returns the oldest unfinished request after a position. It omits those of locked accounts, which
// wait, unless the account is closed. It uses the index own_redactions_by_end.
func (tx *Tx) NextOwnRedaction(after Pos) (OwnRedaction, bool, error) {
	return one(tx, scanOwnRedaction, nextOwnRedactionQuery, int64(after))
}

// OwnRedactions lists the newest requests of a user, the newest first. It uses the index own_redactions_by_user.
func (tx *Tx) OwnRedactions(user ident.UserNID, limit int) ([]OwnRedaction, error) {
	return collect(tx, scanOwnRedaction, ownRedactionsQuery, int64(user), limit)
}

const pendingOwnRedactionsQuery = `SELECT count(*) FROM own_redactions WHERE user_nid = $1 AND finished_ts = 0`

// PendingOwnRedactions counts the unfinished requests of a user. It uses the index own_redactions_by_user.
func (tx *Tx) PendingOwnRedactions(user ident.UserNID) (int64, error) {
	n, _, err := one(tx, scanNumber[int64], pendingOwnRedactionsQuery, int64(user))
	return n, err
}

// deleteOwnRedactions deletes the requests that a condition selects, and returns their number.
func (tx *Tx) deleteOwnRedactions(where string, args ...any) (int64, error) {
	if err := tx.soil(`SELECT body_key FROM own_redactions WHERE `+where, args...); err != nil {
		return 0, err
	}
	return tx.exec(`DELETE FROM own_redactions WHERE `+where, args...)
}

// CancelOwnRedactions deletes the unfinished requests of a user except those of an erasure, and returns their number.
func (tx *Tx) CancelOwnRedactions(user ident.UserNID) (int64, error) {
	return tx.deleteOwnRedactions(`user_nid = $1 AND finished_ts = 0 AND everything = 0`, int64(user))
}

const trimmedOwnRedactions = `user_nid = $1 AND finished_ts > 0 AND everything = 0 AND position <= (
    SELECT position FROM own_redactions WHERE user_nid = $1 ORDER BY position DESC LIMIT 1 OFFSET $2)`

// TrimOwnRedactions deletes the finished requests of a user except the newest ones and those of an erasure.
func (tx *Tx) TrimOwnRedactions(user ident.UserNID, keep int) error {
	_, err := tx.deleteOwnRedactions(trimmedOwnRedactions, int64(user), keep)
	return err
}

const advanceOwnRedactionQuery = `UPDATE own_redactions SET counted = $2, at_room = $3, at_ord = $4, expected = $5, redacted = $6, removed = $7, finished_ts = $8
WHERE position = $1`

// AdvanceOwnRedaction stores the progress of a request. It reports whether the request still exists.
func (tx *Tx) AdvanceOwnRedaction(p Pos, to OwnProgress) (found bool, err error) {
	n, err := tx.exec(advanceOwnRedactionQuery, int64(p), to.Counted, int64(to.AtRoom), int64(to.AtOrder), to.Expected, to.Redacted, to.Removed, to.FinishedTS)
	return n == 1, err
}

// DeleteOwnRedaction deletes a request. What has been redacted stays redacted.
func (tx *Tx) DeleteOwnRedaction(p Pos) error {
	_, err := tx.deleteOwnRedactions(`position = $1`, int64(p))
	return err
}

const prunedOwnRedactions = `position IN (
    SELECT position FROM own_redactions WHERE finished_ts > 0 AND finished_ts < $1 ORDER BY finished_ts LIMIT $2)`

// PruneOwnRedactions deletes at most limit requests that were finished before a time (ms), and reports whether there
// may be more. It uses the index own_redactions_by_end.
func (tx *Tx) PruneOwnRedactions(before int64, limit int) (more bool, err error) {
	n, err := tx.deleteOwnRedactions(prunedOwnRedactions, before, limit)
	return n == int64(limit), err
}

const nextMembershipQuery = `SELECT room_nid, membership, position, changed, joined_pos, forgotten FROM memberships
WHERE user_nid = $1 AND room_nid > $2 ORDER BY room_nid LIMIT 1`

// NextMembership returns a user's membership in the room with the next higher number. It uses the primary key.
func (tx *Tx) NextMembership(user ident.UserNID, after ident.RoomNID) (m MemberRow, found bool, err error) {
	return one(tx, scanMembership(user), nextMembershipQuery, int64(user), int64(after))
}

// OwnMark returns the order up to which all messages of a user in a room are redacted, and reports whether it is
// certain: BeginOwnMark must be called if no mark is stored yet, or if a message has been added below it. It uses the
// primary key.
func (tx *Tx) OwnMark(user ident.UserNID, room ident.RoomNID) (mark ident.Order, certain bool, err error) {
	certain = true
	mark, found, err := one(tx, func(r Row) (mark ident.Order, err error) {
		var late ident.Order
		if err = r.Scan(&mark, &late); late != 0 {
			mark, certain = min(mark, late-1), false
		}
		return mark, err
	}, `SELECT ord, late FROM own_redaction_marks WHERE user_nid = $1 AND room_nid = $2`, int64(user), int64(room))
	return mark, certain && found, err
}

const beginOwnMarkQuery = `INSERT INTO own_redaction_marks (user_nid, room_nid, ord) SELECT $1, nid, CAST($3 AS BIGINT) FROM rooms WHERE nid = $2
ON CONFLICT (user_nid, room_nid) DO UPDATE SET ord = excluded.ord, late = 0`

// BeginOwnMark stores what OwnMark returns. A message that is added below the mark from now on is noticed: the next
// request looks at it, even if the one that is under way has passed it.
func (tx *Tx) BeginOwnMark(user ident.UserNID, room ident.RoomNID) error {
	mark, _, err := tx.OwnMark(user, room)
	if err == nil {
		_, err = tx.exec(beginOwnMarkQuery, int64(user), int64(room), int64(mark))
	}
	return err
}

const advanceOwnMarkQuery = `UPDATE own_redaction_marks SET ord = $4 WHERE user_nid = $1 AND room_nid = $2 AND ord >= $3 AND ord < $4`

// AdvanceOwnMark records that all messages of a user in a room between two orders are redacted, besides those that were
// added meanwhile. It does nothing if the mark does not reach up to the first of them.
func (tx *Tx) AdvanceOwnMark(user ident.UserNID, room ident.RoomNID, from, to ident.Order) error {
	_, err := tx.exec(advanceOwnMarkQuery, int64(user), int64(room), int64(from), int64(to))
	return err
}

const lateOwnMessageQuery = `UPDATE own_redaction_marks SET late = CAST($1 AS BIGINT)
WHERE (user_nid, room_nid) IN (SELECT sender_nid, room_nid FROM events WHERE position = $2 AND state_key IS NULL) AND (late = 0 OR late > $1)`

// addLateOwnMessage records that an event was added to a timeline, or shown, at an order that may be below a mark. It
// uses the primary keys.
func (tx *Tx) addLateOwnMessage(p Pos, order ident.Order) error {
	_, err := tx.exec(lateOwnMessageQuery, int64(order), int64(p))
	return err
}

// OwnMessage is an event for an OwnRedaction.
type OwnMessage struct {
	Position Pos
	Order    ident.Order
	EventTimes
	Sender   ident.UserNID
	IsState  bool
	StateKey string
}

const ownMessageColumns = `SELECT position, ord, origin_ts, received_ts, sender_nid, state_key FROM events WHERE room_nid = $1 `

var (
	windowEndQuery       = ownMessageColumns + `AND ord > $2 ORDER BY ord LIMIT 1 OFFSET $3`
	ownInWindow          = ownMessageColumns + `AND ord > $2 AND ord <= $3 AND type <> 'm.room.redaction' AND redacted_by = 0 AND ` + isShown
	ownMessagesQuery     = ownInWindow + ` AND sender_nid = $4 AND state_key IS NULL ORDER BY ord LIMIT $5`
	ownEventsQuery       = ownInWindow + ` AND (sender_nid = $4 OR state_key = $6) ORDER BY ord LIMIT $5`
	unplacedMembersQuery = ownMessageColumns + `AND ord = 0 AND state_key = $2 ORDER BY position DESC LIMIT $3`
)

func scanOwnMessage(r Row) (m OwnMessage, err error) {
	var key *string
	err = r.Scan(&m.Position, &m.Order, &m.OriginTS, &m.ReceivedTS, &m.Sender, &key)
	if key != nil {
		m.IsState, m.StateKey = true, *key
	}
	return m, err
}

// WindowEnd returns the event that is size events after an order in a room's timeline, and false if the timeline is
// shorter. It uses the index events_by_order.
func (tx *Tx) WindowEnd(room ident.RoomNID, after ident.Order, size int) (OwnMessage, bool, error) {
	if size < 1 {
		return OwnMessage{}, false, fmt.Errorf("storage: a window of %d events", size)
	}
	return one(tx, scanOwnMessage, windowEndQuery, int64(room), int64(after), size-1)
}

// OwnMessages lists the messages of a user between two orders of a room's timeline, upTo included, which are shown and
// not redacted. It uses the index events_by_order.
func (tx *Tx) OwnMessages(room ident.RoomNID, user ident.UserNID, after, upTo ident.Order, limit int) ([]OwnMessage, error) {
	return collect(tx, scanOwnMessage, ownMessagesQuery, int64(room), int64(after), int64(upTo), int64(user), limit)
}

// OwnEvents is like OwnMessages, but also lists the state events that the user has sent, and the member events about
// the user.
func (tx *Tx) OwnEvents(room ident.RoomNID, user ident.UserNID, userID string, after, upTo ident.Order, limit int) ([]OwnMessage, error) {
	return collect(tx, scanOwnMessage, ownEventsQuery, int64(room), int64(after), int64(upTo), int64(user), limit, userID)
}

// UnplacedMembers lists the newest member events about a user that are in no timeline, such as those of the state with
// which this server joined the room. It uses the index events_by_order.
func (tx *Tx) UnplacedMembers(room ident.RoomNID, userID string, limit int) ([]OwnMessage, error) {
	return collect(tx, scanOwnMessage, unplacedMembersQuery, int64(room), userID, limit)
}
