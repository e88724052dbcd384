package storage

import (
	"cmp"
	"slices"

	"ebb/ident"
)

// StickyEvent is an event that is sticky (MSC4354).
type StickyEvent struct {
	Position  Pos
	Room      ident.RoomNID
	Sender    ident.UserNID
	Local     bool  // its sender is a user of this server
	Refused   bool  // it was soft-failed by the current state
	ExpiresTS int64 // ms
}

const (
	endStickyQuery = `DELETE FROM sticky_events WHERE room_nid = $1 AND expires_ts <= $2`
	addStickyQuery = `INSERT INTO sticky_events (position, room_nid, sender_nid, local, refused, expires_ts) VALUES ($1, $2, $3, $4, $5, $6)`
	// The events of one sender, or of all, that are too many: all up to the newest of those that exceed the number.
	trimStickySender = `DELETE FROM sticky_events WHERE room_nid = $1 AND sender_nid = $2 AND position <= (SELECT coalesce(max(position), 0) FROM (
 SELECT position FROM sticky_events WHERE room_nid = $1 AND sender_nid = $2 ORDER BY position DESC LIMIT 1 OFFSET $3) AS old)`
	trimStickyRoom = `DELETE FROM sticky_events WHERE room_nid = $1 AND position <= (SELECT coalesce(max(position), 0) FROM (
 SELECT position FROM sticky_events WHERE room_nid = $1 ORDER BY position DESC LIMIT 1 OFFSET $2) AS old)`
)

// AddStickyEvent records that an event is sticky. It forgets those of the room that are no longer sticky at the time
// now (ms). Of the events of the sender in the room, it keeps the newest perSender as sticky; of all events in the
// room, the newest perRoom. The others remain as ordinary events.
func (tx *Tx) AddStickyEvent(e StickyEvent, now int64, perSender, perRoom int) error {
	if _, err := tx.exec(endStickyQuery, int64(e.Room), now); err != nil {
		return err
	}
	if _, err := tx.exec(addStickyQuery, int64(e.Position), int64(e.Room), int64(e.Sender), e.Local, e.Refused, e.ExpiresTS); err != nil {
		return err
	}
	if _, err := tx.exec(trimStickySender, int64(e.Room), int64(e.Sender), perSender); err != nil {
		return err
	}
	_, err := tx.exec(trimStickyRoom, int64(e.Room), perRoom)
	return err
}

// StickyRoom says which sticky events a room has.
type StickyRoom struct {
	Room       ident.RoomNID
	Newest     Pos   // of those that clients get
	Until      int64 // ms; when the last of them expires, 0: there are none
	LocalUntil int64 // ms; the same for events of users of this server
	Refused    int64 // ms; the same for those that were soft-failed
}

const stickyRoomsQuery = `SELECT room_nid, max(CASE WHEN refused = 0 THEN position ELSE 0 END), max(CASE WHEN refused = 0 THEN expires_ts ELSE 0 END),
 max(CASE WHEN refused = 0 AND local = 1 THEN expires_ts ELSE 0 END), max(CASE WHEN refused = 1 THEN expires_ts ELSE 0 END)
FROM sticky_events WHERE expires_ts > $1 GROUP BY room_nid ORDER BY room_nid`

// StickyRooms lists the rooms with events that are sticky at the time now (ms). It uses the index
// sticky_events_by_time.
func (tx *Tx) StickyRooms(now int64) ([]StickyRoom, error) {
	return collect(tx, func(r Row) (s StickyRoom, err error) {
		err = r.Scan(&s.Room, &s.Newest, &s.Until, &s.LocalUntil, &s.Refused)
		return s, err
	}, stickyRoomsQuery, now)
}

var stickyEventsQuery = `SELECT ` + eventColumns + ` FROM sticky_events s JOIN events e ON e.position = s.position
WHERE s.position > $1 AND s.position <= $2 AND s.expires_ts > $3 AND s.refused = 0 AND ` + isShown + ` AND s.room_nid IN `

// StickyEvents returns at most limit events of the given rooms, oldest first, that were stored in (after, upTo], are
// sticky at the time now (ms) and are shown to clients. It uses the index sticky_events_by_room.
func (tx *Tx) StickyEvents(rooms []ident.RoomNID, after, upTo Pos, now int64, limit int) (out []EventRow, err error) {
	for part := range slices.Chunk(rooms, maxIn) {
		list, args := In(5, part)
		query := stickyEventsQuery + list + ` ORDER BY s.position LIMIT $4`
		rows, err := collect(tx, scanEvent, query, append([]any{int64(after), int64(upTo), now, limit}, args...)...)
		if err != nil {
			return nil, err
		}
		out = append(out, rows...)
	}
	if len(rooms) > maxIn {
		slices.SortFunc(out, func(a, b EventRow) int { return cmp.Compare(a.Position, b.Position) })
	}
	return out[:min(len(out), limit)], nil
}

var localStickyQuery = `SELECT s.position FROM sticky_events s JOIN events e ON e.position = s.position
WHERE s.room_nid = $1 AND s.position > $2 AND s.expires_ts > $3 AND s.local = 1 AND s.refused = 0 AND ` + isShown + `
 AND NOT EXISTS (SELECT 1 FROM erased_users u WHERE u.user_nid = s.sender_nid) ORDER BY s.position LIMIT $4`

// LocalSticky returns the positions of a room's events that local users sent and that are still sticky at the time now
// (ms), oldest first and beginning after the given position. It leaves out events of users who asked to be erased. It
// uses the index sticky_events_by_room.
func (tx *Tx) LocalSticky(room ident.RoomNID, after Pos, now int64, limit int) ([]Pos, error) {
	return collect(tx, scanNumber[Pos], localStickyQuery, int64(room), int64(after), now, limit)
}

const refusedStickyQuery = `SELECT ` + eventColumns + ` FROM sticky_events s JOIN events e ON e.position = s.position
WHERE s.room_nid = $1 AND s.expires_ts > $2 AND s.refused = 1 ORDER BY s.position DESC LIMIT $3`

// RefusedSticky returns a room's soft-failed events that are sticky at the time now (ms), the newest first. It uses the
// index sticky_events_by_room.
func (tx *Tx) RefusedSticky(room ident.RoomNID, now int64, limit int) ([]EventRow, error) {
	return collect(tx, scanEvent, refusedStickyQuery, int64(room), now, limit)
}

const oweStickyQuery = `INSERT INTO destination_rooms (server, room_nid)
SELECT CAST($1 AS TEXT), CAST($2 AS BIGINT) WHERE EXISTS (SELECT 1 FROM sticky_events WHERE room_nid = $2 AND local = 1 AND refused = 0 AND expires_ts > $3)
ON CONFLICT DO NOTHING`

// OweSticky is called in the write in which another server joins a room. If local users have events in the room that
// are sticky at the time now (ms), it records that these must be sent to the server.
func (tx *Tx) OweSticky(server string, room ident.RoomNID, now int64) error {
	_, err := tx.exec(oweStickyQuery, server, int64(room), now)
	return err
}

const pruneStickyQuery = `DELETE FROM sticky_events WHERE position IN (
 SELECT position FROM sticky_events WHERE expires_ts <= $1 ORDER BY expires_ts LIMIT $2)`

// PruneSticky deletes at most limit rows of events that are no longer sticky at the time now (ms), and reports whether
// there may be more. It uses the index sticky_events_by_time.
func (tx *Tx) PruneSticky(now int64, limit int) (more bool, err error) {
	n, err := tx.exec(pruneStickyQuery, now, limit)
	return n == int64(limit), err
}
