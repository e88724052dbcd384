package storage

import (
	"slices"

	"ebb/ident"
)

// OutboxRow is an event that is to be sent to other servers.
type OutboxRow struct {
	Position Pos
	Room     ident.RoomNID
	About    string // the state key of an m.room.member event, otherwise empty
}

// AddOutbox records, in the write that stores an event, that it is to be sent to other servers.
func (tx *Tx) AddOutbox(o OutboxRow) error {
	_, err := tx.exec(`INSERT INTO outbox (position, room_nid) VALUES ($1, $2)`, int64(o.Position), int64(o.Room))
	return err
}

const outboxQuery = `SELECT o.position, o.room_nid, CASE WHEN e.type = 'm.room.member' THEN coalesce(e.state_key, '') ELSE '' END
FROM outbox o JOIN events e ON e.position = o.position WHERE o.position > $1 ORDER BY o.position LIMIT $2`

// Outbox lists at most limit events after the given position that must be sent to other servers. It uses the primary
// keys.
func (tx *Tx) Outbox(after Pos, limit int) ([]OutboxRow, error) {
	return collect(tx, func(r Row) (o OutboxRow, err error) { err = r.Scan(&o.Position, &o.Room, &o.About); return o, err }, outboxQuery, int64(after), limit)
}

// PruneOutbox deletes the rows up to a position, which all servers have received, and returns their number.
func (tx *Tx) PruneOutbox(upTo Pos) (int64, error) {
	return tx.exec(`DELETE FROM outbox WHERE position <= $1`, int64(upTo))
}

// MemberSince is a user's current membership of a room with the positions that show whether the user was joined at an
// earlier time.
type MemberSince struct {
	User       string
	Membership string
	Position   Pos // of the member event
	JoinedPos  Pos // since when the user has been joined; 0 if not joined
}

const membersSinceQuery = `SELECT u.user_id, m.membership, m.position, m.joined_pos FROM memberships m JOIN users u ON u.nid = m.user_nid
WHERE m.room_nid = $1 AND (m.membership = 'join' OR m.membership IN ('leave', 'ban') AND m.position > $2)`

// MembersSince lists the users who are joined to a room and those who left it or were banned after a position. It uses
// the index memberships_by_room.
func (tx *Tx) MembersSince(room ident.RoomNID, after Pos) ([]MemberSince, error) {
	return collect(tx, func(r Row) (s MemberSince, err error) {
		err = r.Scan(&s.User, &s.Membership, &s.Position, &s.JoinedPos)
		return s, err
	}, membersSinceQuery, int64(room), int64(after))
}

// Destination is the state of sending to another server.
type Destination struct {
	Server       string
	Delivered    Pos
	Failures     int64
	FailingSince int64 // ms; 0 if it answers
	RetryTS      int64 // ms
	ReachedTS    int64 // ms
}

const putDestinationQuery = `INSERT INTO destinations (server, delivered, failures, failing_since, retry_ts, reached_ts) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (server) DO UPDATE SET delivered = excluded.delivered, failures = excluded.failures, failing_since = excluded.failing_since,
retry_ts = excluded.retry_ts, reached_ts = excluded.reached_ts`

// PutDestination stores the state of sending to a server.
func (tx *Tx) PutDestination(d Destination) error {
	_, err := tx.exec(putDestinationQuery, d.Server, int64(d.Delivered), d.Failures, d.FailingSince, d.RetryTS, d.ReachedTS)
	return err
}

// Destinations lists the servers to which something is to be sent or was sent, by name.
func (tx *Tx) Destinations() ([]Destination, error) {
	return collect(tx, func(r Row) (d Destination, err error) {
		err = r.Scan(&d.Server, &d.Delivered, &d.Failures, &d.FailingSince, &d.RetryTS, &d.ReachedTS)
		return d, err
	}, `SELECT server, delivered, failures, failing_since, retry_ts, reached_ts FROM destinations ORDER BY server`)
}

// AddDestinationRoom records that a server has missed many events in a room.
func (tx *Tx) AddDestinationRoom(server string, room ident.RoomNID) error {
	_, err := tx.exec(`INSERT INTO destination_rooms (server, room_nid) VALUES ($1, $2) ON CONFLICT DO NOTHING`, server, int64(room))
	return err
}

// DeleteDestinationRoom deletes the record that a server has missed many events of a room, because the newest ones have
// been sent to it.
func (tx *Tx) DeleteDestinationRoom(server string, room ident.RoomNID) error {
	_, err := tx.exec(`DELETE FROM destination_rooms WHERE server = $1 AND room_nid = $2`, server, int64(room))
	return err
}

// DestinationRoom is a room in which a server has missed many events.
type DestinationRoom struct {
	Server string
	Room   ident.RoomNID
}

// DestinationRooms lists the rooms in which servers have missed many events.
func (tx *Tx) DestinationRooms() ([]DestinationRoom, error) {
	return collect(tx, func(r Row) (d DestinationRoom, err error) { err = r.Scan(&d.Server, &d.Room); return d, err }, `SELECT server, room_nid FROM destination_rooms ORDER BY server, room_nid`)
}

// OutgoingEDU is an EDU that waits to be sent to a server.
type OutgoingEDU struct {
	NID  int64
	JSON []byte
}

// AddEDU stores an EDU for a server. It can be called in a write only.
func (tx *Tx) AddEDU(server string, sender int64, json []byte) (nid int64, err error) {
	nid = int64(tx.NextPos())
	_, err = tx.exec(`INSERT INTO edu_outbox (nid, server, json, sender, size) VALUES ($1, $2, $3, $4, $5)`, nid, server, string(json), sender, len(json))
	return nid, err
}

// SentEDU is an EDU of one sender in the queue for a server.
type SentEDU struct {
	NID    int64
	Server string
	Size   int64 // bytes of JSON
}

// EDUsOfSender lists the waiting EDUs of a sender, newest first. It uses the index edu_outbox_by_sender.
func (tx *Tx) EDUsOfSender(sender int64) ([]SentEDU, error) {
	return collect(tx, func(r Row) (e SentEDU, err error) { err = r.Scan(&e.NID, &e.Server, &e.Size); return e, err }, `SELECT nid, server, size FROM edu_outbox WHERE sender = $1 ORDER BY nid DESC`, sender)
}

// EDUs lists the oldest waiting EDUs for a server. It uses the index edu_outbox_by_server.
func (tx *Tx) EDUs(server string, limit int) ([]OutgoingEDU, error) {
	return collect(tx, func(r Row) (e OutgoingEDU, err error) { err = r.Scan(&e.NID, &e.JSON); return e, err }, `SELECT nid, json FROM edu_outbox WHERE server = $1 ORDER BY nid LIMIT $2`, server, limit)
}

// DeleteEDUs deletes EDUs that were delivered or dropped.
func (tx *Tx) DeleteEDUs(nids []int64) error {
	for part := range slices.Chunk(nids, maxIn) {
		list, args := In(1, part)
		if _, err := tx.exec(`DELETE FROM edu_outbox WHERE nid IN `+list, args...); err != nil {
			return err
		}
	}
	return nil
}

// TrimEDUs keeps the newest waiting EDUs for a server and deletes the others, so that an unreachable server does not
// fill the disk.
func (tx *Tx) TrimEDUs(server string, keep int) error {
	_, err := tx.exec(`DELETE FROM edu_outbox WHERE server = $1 AND nid <= (
 SELECT coalesce(max(nid), 0) FROM (SELECT nid FROM edu_outbox WHERE server = $1 ORDER BY nid DESC LIMIT 1 OFFSET $2) AS old)`, server, keep)
	return err
}

// EDUBacklog is the number of EDUs that wait for a server.
type EDUBacklog struct {
	Server string
	Count  int64
}

// EDUBacklogs lists the servers for which EDUs wait.
func (tx *Tx) EDUBacklogs() ([]EDUBacklog, error) {
	return collect(tx, func(r Row) (b EDUBacklog, err error) { err = r.Scan(&b.Server, &b.Count); return b, err }, `SELECT server, count(*) FROM edu_outbox GROUP BY server ORDER BY server`)
}
