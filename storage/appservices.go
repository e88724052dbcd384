package storage

import (
	"slices"

	"ebb/ident"
)

// AppService records up to where an application service has received what concerns it.
type AppService struct {
	ID        string // of its registration
	Position  Pos    // up to which it has the events that concern it
	Devices   Pos    // up to which it has the changes of devices that concern it
	Txn       string // ID of the transaction that it has not confirmed; "" if there is none
	Pending   string // JSON of what that transaction is about
	Failures  int64  // consecutive
	FailingTS int64  // ms; when the failures began
	RetryTS   int64  // ms
	ReachedTS int64  // ms; when it last confirmed a transaction; 0: never
}

const appServicesQuery = `SELECT id, position, devices, txn, pending, failures, failing_ts, retry_ts, reached_ts FROM appservices ORDER BY id`

// AppServices returns the records of all application services.
func (tx *Tx) AppServices() ([]AppService, error) {
	return collect(tx, func(r Row) (a AppService, err error) {
		err = r.Scan(&a.ID, &a.Position, &a.Devices, &a.Txn, &a.Pending, &a.Failures, &a.FailingTS, &a.RetryTS, &a.ReachedTS)
		return a, err
	}, appServicesQuery)
}

const setAppServiceQuery = `INSERT INTO appservices (id, position, devices, txn, pending, failures, failing_ts, retry_ts, reached_ts)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (id) DO UPDATE SET position = excluded.position, devices = excluded.devices, txn = excluded.txn,
pending = excluded.pending, failures = excluded.failures, failing_ts = excluded.failing_ts, retry_ts = excluded.retry_ts, reached_ts = excluded.reached_ts`

// SetAppService stores the record of an application service.
func (tx *Tx) SetAppService(a AppService) error {
	_, err := tx.exec(setAppServiceQuery, a.ID, int64(a.Position), int64(a.Devices), a.Txn, a.Pending, a.Failures, a.FailingTS, a.RetryTS, a.ReachedTS)
	return err
}

// DeleteAppService deletes the record of an application service.
func (tx *Tx) DeleteAppService(id string) error {
	_, err := tx.exec(`DELETE FROM appservices WHERE id = $1`, id)
	return err
}

// Arrival is an event that has arrived, with the fields that decide which application services get it.
type Arrival struct {
	Position Pos
	Room     ident.RoomNID
	Type     string
	StateKey string // "" if it is no state event
	Outside  bool   // a membership in a room that this server is not in
}

var arrivalsQuery = `SELECT e.position, e.room_nid, e.type, coalesce(e.state_key, ''), CASE WHEN e.ord > 0 THEN 0 ELSE 1 END FROM events e
WHERE e.position > $1 AND e.position <= $2 AND (e.ord > 0 AND e.ord = e.position * 65536 AND ` + isShown + `
OR e.ord = 0 AND e.type = 'm.room.member' AND ` + isOnlyOutlier + ` AND EXISTS (SELECT 1 FROM memberships m WHERE m.room_nid = e.room_nid AND m.position = e.position))
ORDER BY e.position LIMIT $3`

// Arrivals lists at most limit events that arrived in (after, upTo], in that order. It leaves out backfilled history
// and events that clients do not see. An outlier is listed only if it is a member event. It uses the primary key.
func (tx *Tx) Arrivals(after, upTo Pos, limit int) ([]Arrival, error) {
	return collect(tx, func(r Row) (a Arrival, err error) {
		var outside int64
		err = r.Scan(&a.Position, &a.Room, &a.Type, &a.StateKey, &outside)
		a.Outside = outside != 0
		return a, err
	}, arrivalsQuery, int64(after), int64(upTo), limit)
}

const localMembersSinceQuery = `SELECT m.room_nid, u.user_id, m.membership, m.position, m.joined_pos FROM memberships m
JOIN accounts a ON a.nid = m.user_nid JOIN users u ON u.nid = m.user_nid
WHERE (m.membership = 'join' OR m.membership IN ('leave', 'ban') AND m.position > $1) AND m.room_nid IN `

// LocalMemberSince is the MemberSince of a local user, with the room.
type LocalMemberSince struct {
	Room ident.RoomNID
	MemberSince
}

// LocalMembersSince lists the local users who are joined to the given rooms, and those who left them or were banned
// after the given position. It uses the index memberships_by_room.
func (tx *Tx) LocalMembersSince(rooms []ident.RoomNID, after Pos) ([]LocalMemberSince, error) {
	list, args := In(2, rooms)
	return collect(tx, func(r Row) (s LocalMemberSince, err error) {
		err = r.Scan(&s.Room, &s.User, &s.Membership, &s.Position, &s.JoinedPos)
		return s, err
	}, localMembersSinceQuery+list, append([]any{int64(after)}, args...)...)
}

// Aliases lists, in alphabetical order, at most limit local aliases that come after the given one. It uses the primary
// key.
func (tx *Tx) Aliases(after string, limit int) ([]Alias, error) {
	return collect(tx, scanAlias, `SELECT alias, room_nid, creator_nid FROM aliases WHERE alias > $1 ORDER BY alias LIMIT $2`, after, limit)
}

// AnyToDevice is a to-device message of any device.
type AnyToDevice struct {
	Position Pos
	User     string
	Device   string
	JSON     string // set only by ToDeviceAt
}

const toDeviceOfAllQuery = `SELECT t.position, u.user_id, d.device_id FROM to_device t JOIN devices d ON d.nid = t.device_nid JOIN users u ON u.nid = d.user_nid
WHERE t.position > $1 AND t.position <= $2 ORDER BY t.position LIMIT $3`

// ToDeviceOfAll lists at most limit messages for devices of any user in (since, upTo], oldest first. It uses the
// primary key.
func (tx *Tx) ToDeviceOfAll(since, upTo Pos, limit int) ([]AnyToDevice, error) {
	return collect(tx, func(r Row) (m AnyToDevice, err error) { err = r.Scan(&m.Position, &m.User, &m.Device); return m, err }, toDeviceOfAllQuery, int64(since), int64(upTo), limit)
}

const toDeviceAtQuery = `SELECT t.position, u.user_id, d.device_id, t.json FROM to_device t JOIN devices d ON d.nid = t.device_nid JOIN users u ON u.nid = d.user_nid
WHERE t.position IN `

// ToDeviceAt returns the to-device messages at the given positions, oldest first. It omits those that no longer wait
// for their device.
func (tx *Tx) ToDeviceAt(positions []Pos) (out []AnyToDevice, err error) {
	for part := range slices.Chunk(positions, maxIn) {
		list, args := In(1, part)
		rows, err := collect(tx, func(r Row) (m AnyToDevice, err error) {
			err = r.Scan(&m.Position, &m.User, &m.Device, &m.JSON)
			return m, err
		}, toDeviceAtQuery+list+` ORDER BY t.position`, args...)
		if err != nil {
			return nil, err
		}
		out = append(out, rows...)
	}
	return out, nil
}

// ListChange is the newest change of the devices of a user.
type ListChange struct {
	Position Pos
	UserNID  ident.UserNID
	User     string
}

const listChangesQuery = `SELECT c.position, c.user_nid, u.user_id FROM device_list_changes c JOIN users u ON u.nid = c.user_nid
WHERE c.position > $1 AND c.position <= $2 ORDER BY c.position LIMIT $3`

// DeviceListChangesOfAll lists at most limit users whose devices changed in (since, upTo], in the order of the changes.
// It uses the index device_list_changes_by_position.
func (tx *Tx) DeviceListChangesOfAll(since, upTo Pos, limit int) ([]ListChange, error) {
	return collect(tx, func(r Row) (c ListChange, err error) { err = r.Scan(&c.Position, &c.UserNID, &c.User); return c, err }, listChangesQuery, int64(since), int64(upTo), limit)
}

// KeyedDevice is a device that has uploaded keys.
type KeyedDevice struct {
	NID  ident.DeviceNID
	ID   string
	User string
}

const keyedDevicesQuery = `SELECT d.nid, d.device_id, u.user_id FROM device_keys k JOIN devices d ON d.nid = k.device_nid JOIN users u ON u.nid = d.user_nid
WHERE d.user_nid IN `

// KeyedDevices lists the devices of the given users that have uploaded keys. It uses the index devices_by_id.
func (tx *Tx) KeyedDevices(users []ident.UserNID) (out []KeyedDevice, err error) {
	for part := range slices.Chunk(users, maxIn) {
		list, args := In(1, part)
		rows, err := collect(tx, func(r Row) (d KeyedDevice, err error) { err = r.Scan(&d.NID, &d.ID, &d.User); return d, err }, keyedDevicesQuery+list, args...)
		if err != nil {
			return nil, err
		}
		out = append(out, rows...)
	}
	return out, nil
}

const (
	listRoomQuery      = `INSERT INTO appservice_rooms (app, network, room_nid) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`
	unlistRoomQuery    = `DELETE FROM appservice_rooms WHERE app = $1 AND network = $2 AND room_nid = $3`
	networkRoomsQuery  = `SELECT room_nid FROM appservice_rooms WHERE app = $1 AND network = $2 AND room_nid > $3 ORDER BY room_nid LIMIT $4`
	networksRoomsQuery = `SELECT nid FROM rooms r WHERE nid > $1 AND (published = 1 OR EXISTS (SELECT 1 FROM appservice_rooms a WHERE a.room_nid = r.nid))
ORDER BY nid LIMIT $2`
)

// ListRoom adds a room to the directory of a third-party network of an application service, or removes it.
func (tx *Tx) ListRoom(app, network string, room ident.RoomNID, listed bool) error {
	query := unlistRoomQuery
	if listed {
		query = listRoomQuery
	}
	_, err := tx.exec(query, app, network, int64(room))
	return err
}

// NetworkRooms returns a page of the rooms in the directory of a third-party network. It uses the primary key.
func (tx *Tx) NetworkRooms(app, network string, after ident.RoomNID, limit int) ([]ident.RoomNID, error) {
	return collect(tx, scanNumber[ident.RoomNID], networkRoomsQuery, app, network, int64(after), limit)
}

// NetworksRooms returns a page of the rooms in the room directory and in those of all third-party networks. It uses the
// primary key and the index appservice_rooms_by_room.
func (tx *Tx) NetworksRooms(after ident.RoomNID, limit int) ([]ident.RoomNID, error) {
	return collect(tx, scanNumber[ident.RoomNID], networksRoomsQuery, int64(after), limit)
}
