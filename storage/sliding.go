package storage

import (
	"slices"

	"ebb/ident"
	"ebb/storage/sealing"
)

// SlidingConnection is a connection of sliding sync, without its states. SlidingStates lists those.
type SlidingConnection struct {
	NID    int64
	User   ident.UserNID
	Device ident.DeviceNID // 0: the user's requests without a device
	ConnID string
	Used   int64 // ms
}

// SlidingState is a state of a connection. It records what the client has once it has received a certain response.
// Serial is the number of the state; the pos in the response names it.
type SlidingState struct {
	Serial int64
	State  string // encoded by package feed
}

const slidingConnectionQuery = `SELECT nid, user_nid, device_nid, conn_id, used_ts FROM sliding_connections WHERE nid = $1`

// SlidingConnection returns the connection with the given number. It uses the primary key.
func (tx *Tx) SlidingConnection(nid int64) (SlidingConnection, bool, error) {
	return one(tx, scanSliding, slidingConnectionQuery, nid)
}

func scanSliding(r Row) (c SlidingConnection, err error) {
	err = r.Scan(&c.NID, &c.User, &c.Device, &c.ConnID, &c.Used)
	return c, err
}

const slidingOfDeviceQuery = `SELECT nid, user_nid, device_nid, conn_id, used_ts FROM sliding_connections
WHERE user_nid = $1 AND device_nid = $2 ORDER BY used_ts, nid`

// SlidingOfDevice lists the connections of a device, the least recently used one first. It uses the index
// sliding_connections_by_device.
func (tx *Tx) SlidingOfDevice(user ident.UserNID, device ident.DeviceNID) ([]SlidingConnection, error) {
	return collect(tx, scanSliding, slidingOfDeviceQuery, int64(user), int64(device))
}

const addSlidingQuery = `INSERT INTO sliding_connections (nid, user_nid, device_nid, conn_id, used_ts) VALUES ($1, $2, $3, $4, $5)`

// AddSliding stores a connection under a new number.
func (tx *Tx) AddSliding(c SlidingConnection) (nid int64, err error) {
	nid = int64(tx.NextPos())
	_, err = tx.exec(addSlidingQuery, nid, int64(c.User), int64(c.Device), c.ConnID, c.Used)
	return nid, err
}

const slidingUsedQuery = `UPDATE sliding_connections SET used_ts = $2 WHERE nid = $1`

// SlidingUsed records when a connection was last used. It returns false if the connection was deleted.
func (tx *Tx) SlidingUsed(nid, ts int64) (bool, error) {
	n, err := tx.exec(slidingUsedQuery, nid, ts)
	return n == 1, err
}

const slidingStatesQuery = `SELECT serial, state FROM sliding_states WHERE connection = $1 ORDER BY serial`

// SlidingStates lists the states of a connection, oldest first: one or two. It uses the primary key.
func (tx *Tx) SlidingStates(connection int64) ([]SlidingState, error) {
	return collect(tx, func(r Row) (s SlidingState, err error) { err = r.Scan(&s.Serial, &s.State); return s, err }, slidingStatesQuery, connection)
}

const (
	addSlidingStateQuery   = `INSERT INTO sliding_states (connection, serial, state) VALUES ($1, $2, $3)`
	trimSlidingStatesQuery = `DELETE FROM sliding_states WHERE connection = $1 AND serial <> $2 AND serial <> $3`
)

// AddSlidingState stores a new state of a connection. Of the older states, it keeps only the one with the serial number
// follows, which the client has until it receives the new response.
func (tx *Tx) AddSlidingState(connection, follows int64, s SlidingState) error {
	if _, err := tx.exec(trimSlidingStatesQuery, connection, follows, s.Serial); err != nil {
		return err
	}
	_, err := tx.exec(addSlidingStateQuery, connection, s.Serial, s.State)
	return err
}

// DropSliding deletes connections and their states.
func (tx *Tx) DropSliding(nids []int64) error {
	for part := range slices.Chunk(nids, maxIn) {
		list, args := In(1, part)
		if _, err := tx.exec(`DELETE FROM sliding_states WHERE connection IN `+list, args...); err != nil {
			return err
		}
		if _, err := tx.exec(`DELETE FROM sliding_connections WHERE nid IN `+list, args...); err != nil {
			return err
		}
	}
	return nil
}

const oldSlidingQuery = `SELECT nid FROM sliding_connections WHERE used_ts < $1 ORDER BY used_ts LIMIT $2`

// OldSliding lists at most limit connections that were last used before a time, oldest first. It uses the index
// sliding_connections_by_age.
func (tx *Tx) OldSliding(before int64, limit int) ([]int64, error) {
	return collect(tx, scanNumber[int64], oldSlidingQuery, before, limit)
}

const roomsAccountDataQuery = `SELECT room_nid, type, content FROM account_data WHERE user_nid = $1 AND position <= $2 AND room_nid IN `

// RoomsAccountData lists a user's account data of several rooms as of a position; room 0 is the global one. It uses the
// primary key.
func (tx *Tx) RoomsAccountData(user ident.UserNID, rooms []ident.RoomNID, upTo Pos) ([]AccountDatum, error) {
	var out []AccountDatum
	for part := range slices.Chunk(rooms, maxIn) {
		list, args := In(3, part)
		found, err := collect(tx, func(r Row) (d AccountDatum, err error) {
			err = r.Scan(&d.Room, &d.Type, &d.Content)
			return d, err
		}, roomsAccountDataQuery+list+` ORDER BY room_nid, position`, append([]any{int64(user), int64(upTo)}, args...)...)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

const accountDataOfTypeQuery = `SELECT room_nid, type, content FROM account_data WHERE user_nid = $1 AND type = $2`

// AccountDataOfType lists a user's account data of one type, global and of rooms. It uses the primary key.
func (tx *Tx) AccountDataOfType(user ident.UserNID, typ string) ([]AccountDatum, error) {
	return collect(tx, func(r Row) (d AccountDatum, err error) { err = r.Scan(&d.Room, &d.Type, &d.Content); return d, err }, accountDataOfTypeQuery, int64(user), typ)
}

const strippedStatesQuery = `SELECT room_nid, json FROM stripped_state WHERE user_nid = $1`

// StrippedStates returns the stripped states that other servers sent with the invites and knocks of a user. It uses the
// primary key.
func (tx *Tx) StrippedStates(user ident.UserNID) (map[ident.RoomNID]string, error) {
	out := map[ident.RoomNID]string{}
	err := tx.each(func(r Row) error {
		var room ident.RoomNID
		var text string
		err := r.Scan(&room, &text)
		if err == nil {
			err = unsealString(r, sealing.StrippedState, int64(user), &text)
		}
		out[room] = text
		return err
	}, strippedStatesQuery, int64(user))
	return out, err
}

// maxBumpScan bounds the events of a room that are searched for one that bumps it.
const maxBumpScan = 500

const bumpQuery = `SELECT coalesce(max(position), 0) FROM (
    SELECT e.position, e.type, e.flags FROM events e WHERE e.room_nid = $1 AND e.ord > 0 AND e.ord <= $2 ORDER BY e.ord DESC LIMIT $3) AS newest
WHERE type IN ('m.room.create', 'm.room.message', 'm.room.encrypted', 'm.sticker', 'm.call.invite', 'm.poll.start',
    'org.matrix.msc3381.poll.start', 'm.beacon_info', 'org.matrix.msc3672.beacon_info') AND flags & $4 = 0`

// Bump returns the position of the newest event in a room that counts as activity for people, among the events whose
// order is at most upTo. It looks at the newest maxBumpScan of these, and returns 0 if none of them counts. It uses the
// index events_by_order.
func (tx *Tx) Bump(room ident.RoomNID, upTo ident.Order) (Pos, error) {
	pos, _, err := one(tx, scanNumber[Pos], bumpQuery, int64(room), int64(upTo), maxBumpScan, int64(HiddenEvent))
	return pos, err
}
