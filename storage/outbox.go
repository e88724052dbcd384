package storage

import "slices"

// OutboxRow is an event that other servers are to get.
type OutboxRow struct {
	Position Pos
	Room     int64
}

// AddOutbox notes, in the write that stores an event, that other servers are to get it.
func (tx *Tx) AddOutbox(o OutboxRow) error {
	_, err := tx.exec(`INSERT INTO outbox (position, room_nid) VALUES ($1, $2)`, int64(o.Position), o.Room)
	return err
}

// Outbox lists what other servers are to get, from after a position, at most limit. It rides the primary key.
func (tx *Tx) Outbox(after Pos, limit int) ([]OutboxRow, error) {
	return collect(tx, func(r Row) (o OutboxRow, err error) {
		err = r.Scan(&o.Position, &o.Room)
		return o, err
	}, `SELECT position, room_nid FROM outbox WHERE position > $1 ORDER BY position LIMIT $2`, int64(after), limit)
}

// PruneOutbox removes what everybody has, up to a position.
func (tx *Tx) PruneOutbox(upTo Pos) error {
	_, err := tx.exec(`DELETE FROM outbox WHERE position <= $1`, int64(upTo))
	return err
}

// Destination is another server, as far as something is or was sent there.
type Destination struct {
	Server       string
	Delivered    Pos
	Failures     int64
	FailingSince int64 // ms; 0: it answers
	RetryTS      int64 // ms
	ReachedTS    int64 // ms
}

const putDestinationQuery = `INSERT INTO destinations (server, delivered, failures, failing_since, retry_ts, reached_ts) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (server) DO UPDATE SET delivered = excluded.delivered, failures = excluded.failures, failing_since = excluded.failing_since,
retry_ts = excluded.retry_ts, reached_ts = excluded.reached_ts`

// PutDestination keeps how far a server is.
func (tx *Tx) PutDestination(d Destination) error {
	_, err := tx.exec(putDestinationQuery, d.Server, int64(d.Delivered), d.Failures, d.FailingSince, d.RetryTS, d.ReachedTS)
	return err
}

// Destinations lists the servers that something is or was sent to, by name.
func (tx *Tx) Destinations() ([]Destination, error) {
	return collect(tx, func(r Row) (d Destination, err error) {
		err = r.Scan(&d.Server, &d.Delivered, &d.Failures, &d.FailingSince, &d.RetryTS, &d.ReachedTS)
		return d, err
	}, `SELECT server, delivered, failures, failing_since, retry_ts, reached_ts FROM destinations ORDER BY server`)
}

// AddDestinationRoom notes that a server has missed much in a room.
func (tx *Tx) AddDestinationRoom(server string, room int64) error {
	_, err := tx.exec(`INSERT INTO destination_rooms (server, room_nid) VALUES ($1, $2) ON CONFLICT DO NOTHING`, server, room)
	return err
}

// DeleteDestinationRoom notes that a server was told of the newest events of a room.
func (tx *Tx) DeleteDestinationRoom(server string, room int64) error {
	_, err := tx.exec(`DELETE FROM destination_rooms WHERE server = $1 AND room_nid = $2`, server, room)
	return err
}

// DestinationRoom is a room in which a server has missed much.
type DestinationRoom struct {
	Server string
	Room   int64
}

// DestinationRooms lists the rooms in which servers have missed much.
func (tx *Tx) DestinationRooms() ([]DestinationRoom, error) {
	return collect(tx, func(r Row) (d DestinationRoom, err error) {
		err = r.Scan(&d.Server, &d.Room)
		return d, err
	}, `SELECT server, room_nid FROM destination_rooms ORDER BY server, room_nid`)
}

// OutgoingEDU is ephemeral data that a server is to get.
type OutgoingEDU struct {
	NID  int64
	JSON []byte
}

// AddEDU stores ephemeral data for a server, in a write only.
func (tx *Tx) AddEDU(server string, json []byte) error {
	_, err := tx.exec(`INSERT INTO edu_outbox (nid, server, json) VALUES ($1, $2, $3)`, int64(tx.NextPos()), server, string(json))
	return err
}

// EDUs lists the oldest ephemeral data for a server. It rides edu_outbox_by_server.
func (tx *Tx) EDUs(server string, limit int) ([]OutgoingEDU, error) {
	return collect(tx, func(r Row) (e OutgoingEDU, err error) {
		err = r.Scan(&e.NID, &e.JSON)
		return e, err
	}, `SELECT nid, json FROM edu_outbox WHERE server = $1 ORDER BY nid LIMIT $2`, server, limit)
}

// DeleteEDUs removes ephemeral data that a server has.
func (tx *Tx) DeleteEDUs(nids []int64) error {
	for part := range slices.Chunk(nids, maxIn) {
		list, args := In(1, part)
		if _, err := tx.exec(`DELETE FROM edu_outbox WHERE nid IN `+list, args...); err != nil {
			return err
		}
	}
	return nil
}

// TrimEDUs keeps the newest ephemeral data for a server, so that a dead one does not fill the disk.
func (tx *Tx) TrimEDUs(server string, keep int) error {
	_, err := tx.exec(`DELETE FROM edu_outbox WHERE server = $1 AND nid <= (
 SELECT coalesce(max(nid), 0) FROM (SELECT nid FROM edu_outbox WHERE server = $1 ORDER BY nid DESC LIMIT 1 OFFSET $2) AS old)`, server, keep)
	return err
}

// EDUServers lists the servers that ephemeral data waits for.
func (tx *Tx) EDUServers() ([]string, error) {
	return collect(tx, scanString, `SELECT DISTINCT server FROM edu_outbox ORDER BY server`)
}
