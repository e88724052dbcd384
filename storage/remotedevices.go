package storage

import (
	"slices"

	"ebb/ident"
)

// Device lists across servers.

// DeviceListUpdate is a change of a local user's devices that other servers are to be told of.
type DeviceListUpdate struct {
	StreamID Pos
	User     ident.UserNID
	DeviceID string // "": the cross-signing keys
	PrevID   Pos    // the user's update before; 0: this is the first
}

const (
	deviceStreamQuery    = `SELECT stream_id FROM device_list_changes WHERE user_nid = $1`
	setDeviceStreamQuery = `UPDATE device_list_changes SET stream_id = $2 WHERE user_nid = $1`
	addListUpdateQuery   = `INSERT INTO device_list_outbox (stream_id, user_nid, device_id, prev_id) VALUES ($1, $2, $3, $4)`
)

// DeviceStream is the stream id of a local user's newest update; 0 where there was none.
func (tx *Tx) DeviceStream(user ident.UserNID) (Pos, error) {
	p, _, err := one(tx, scanNumber[int64], deviceStreamQuery, int64(user))
	return Pos(p), err
}

// AddDeviceListUpdate records that a device changed ("": the cross-signing keys), for other servers. Updates of devices
// name the one before; DeviceListChanged was called for the user.
func (tx *Tx) AddDeviceListUpdate(user ident.UserNID, deviceID string) error {
	pos, prev := tx.NextPos(), Pos(0)
	if deviceID != "" {
		var err error
		if prev, err = tx.DeviceStream(user); err != nil {
			return err
		}
		if _, err := tx.exec(setDeviceStreamQuery, int64(user), int64(pos)); err != nil {
			return err
		}
	}
	_, err := tx.exec(addListUpdateQuery, int64(pos), int64(user), deviceID, int64(prev))
	return err
}

const listUpdatesQuery = `SELECT stream_id, user_nid, device_id, prev_id FROM device_list_outbox ORDER BY stream_id LIMIT $1`

// DeviceListUpdates lists the oldest updates that nobody was told of yet.
func (tx *Tx) DeviceListUpdates(limit int) ([]DeviceListUpdate, error) {
	return collect(tx, func(r Row) (u DeviceListUpdate, err error) {
		err = r.Scan(&u.StreamID, &u.User, &u.DeviceID, &u.PrevID)
		return u, err
	}, listUpdatesQuery, limit)
}

// DeleteDeviceListUpdate forgets an update that was handed on; false where it was before.
func (tx *Tx) DeleteDeviceListUpdate(streamID Pos) (bool, error) {
	n, err := tx.exec(`DELETE FROM device_list_outbox WHERE stream_id = $1`, int64(streamID))
	return n == 1, err
}

// DeviceTelling is a user of this server who came into a room: other servers in it are to be told of their devices.
type DeviceTelling struct {
	User    ident.UserNID
	Room    ident.RoomNID
	Partial bool // it is not known for sure which servers are in the room
}

const addDeviceTellingQuery = `INSERT INTO device_tellings (user_nid, room_nid, partial) VALUES ($1, $2, $3)
ON CONFLICT (user_nid, room_nid) DO UPDATE SET partial = excluded.partial`

// AddDeviceTelling records one.
func (tx *Tx) AddDeviceTelling(t DeviceTelling) error {
	partial := 0
	if t.Partial {
		partial = 1
	}
	_, err := tx.exec(addDeviceTellingQuery, int64(t.User), int64(t.Room), partial)
	return err
}

// DeviceTellings lists some that wait.
func (tx *Tx) DeviceTellings(limit int) ([]DeviceTelling, error) {
	return collect(tx, func(r Row) (t DeviceTelling, err error) {
		var partial int64
		err = r.Scan(&t.User, &t.Room, &partial)
		t.Partial = partial != 0
		return t, err
	}, `SELECT user_nid, room_nid, partial FROM device_tellings ORDER BY user_nid, room_nid LIMIT $1`, limit)
}

// DeleteDeviceTelling forgets one that was done; false where it was before.
func (tx *Tx) DeleteDeviceTelling(t DeviceTelling) (bool, error) {
	n, err := tx.exec(`DELETE FROM device_tellings WHERE user_nid = $1 AND room_nid = $2`, int64(t.User), int64(t.Room))
	return n == 1, err
}

// RemoteList is what is known of the device list of a user of another server.
type RemoteList struct {
	User     ident.UserNID
	StreamID int64 // of the newest update that the cache has; -1: not known
	Asked    Pos   // the stream position when the list was asked for; 0: it must be asked for anew
	RetryTS  int64 // ms
	Failures int64
}

const remoteListColumns = `SELECT user_nid, stream_id, asked, retry_ts, failures FROM remote_device_lists `

func scanRemoteList(r Row) (l RemoteList, err error) {
	err = r.Scan(&l.User, &l.StreamID, &l.Asked, &l.RetryTS, &l.Failures)
	return l, err
}

// RemoteList finds a cached list.
func (tx *Tx) RemoteList(user ident.UserNID) (RemoteList, bool, error) {
	return one(tx, scanRemoteList, remoteListColumns+`WHERE user_nid = $1`, int64(user))
}

// RemoteListsToAsk lists the stale lists whose time has come, those that wait longest first. It rides
// remote_device_lists_to_ask.
func (tx *Tx) RemoteListsToAsk(nowMillis int64, limit int) ([]RemoteList, error) {
	return collect(tx, scanRemoteList, remoteListColumns+`WHERE asked = 0 AND retry_ts <= $1 ORDER BY retry_ts LIMIT $2`, nowMillis, limit)
}

// RemoteLists lists cached lists by user, from the one after a user on.
func (tx *Tx) RemoteLists(after ident.UserNID, limit int) ([]RemoteList, error) {
	return collect(tx, scanRemoteList, remoteListColumns+`WHERE user_nid > $1 ORDER BY user_nid LIMIT $2`, int64(after), limit)
}

const setRemoteListQuery = `INSERT INTO remote_device_lists (user_nid, stream_id, asked, retry_ts, failures) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (user_nid) DO UPDATE SET stream_id = excluded.stream_id, asked = excluded.asked, retry_ts = excluded.retry_ts, failures = excluded.failures`

// SetRemoteList stores what is known of a list.
func (tx *Tx) SetRemoteList(l RemoteList) error {
	_, err := tx.exec(setRemoteListQuery, int64(l.User), l.StreamID, int64(l.Asked), l.RetryTS, l.Failures)
	return err
}

// DropRemoteList forgets the devices and cross-signing keys of a user of another server.
func (tx *Tx) DropRemoteList(user ident.UserNID) error {
	for _, q := range []string{
		`DELETE FROM remote_device_lists WHERE user_nid = $1`,
		`DELETE FROM remote_devices WHERE user_nid = $1`,
		`DELETE FROM cross_signing_keys WHERE user_nid = $1`,
	} {
		if _, err := tx.exec(q, int64(user)); err != nil {
			return err
		}
	}
	return nil
}

// RemoteDevices lists the cached devices of users of other servers, by user and by id. It rides the primary key.
func (tx *Tx) RemoteDevices(users []ident.UserNID) (map[ident.UserNID][]UserDeviceKeys, error) {
	return tx.deviceKeys(users, `SELECT user_nid, device_id, display_name, json FROM remote_devices WHERE user_nid IN `, ` ORDER BY device_id`)
}

// CountRemoteDevices counts them.
func (tx *Tx) CountRemoteDevices(user ident.UserNID) (n int64, err error) {
	n, _, err = one(tx, scanNumber[int64], `SELECT count(*) FROM remote_devices WHERE user_nid = $1`, int64(user))
	return n, err
}

const setRemoteDeviceQuery = `INSERT INTO remote_devices (user_nid, device_id, display_name, json) VALUES ($1, $2, $3, $4)
ON CONFLICT (user_nid, device_id) DO UPDATE SET display_name = excluded.display_name, json = excluded.json`

// SetRemoteDevice stores a device of a user of another server.
func (tx *Tx) SetRemoteDevice(user ident.UserNID, k UserDeviceKeys) error {
	_, err := tx.exec(setRemoteDeviceQuery, int64(user), k.DeviceID, k.DisplayName, k.JSON)
	return err
}

// DeleteRemoteDevice removes one.
func (tx *Tx) DeleteRemoteDevice(user ident.UserNID, deviceID string) error {
	_, err := tx.exec(`DELETE FROM remote_devices WHERE user_nid = $1 AND device_id = $2`, int64(user), deviceID)
	return err
}

// DeleteCrossSigningKey removes one of a user's three keys.
func (tx *Tx) DeleteCrossSigningKey(user ident.UserNID, usage string) error {
	_, err := tx.exec(`DELETE FROM cross_signing_keys WHERE user_nid = $1 AND usage = $2`, int64(user), usage)
	return err
}

const freshListsQuery = `SELECT l.user_nid FROM remote_device_lists l
WHERE l.asked > 0 AND EXISTS (SELECT 1 FROM memberships mine JOIN memberships theirs ON theirs.room_nid = mine.room_nid
 WHERE mine.user_nid = $1 AND mine.membership = 'join' AND mine.joined_pos <= l.asked
 AND theirs.user_nid = l.user_nid AND theirs.membership = 'join' AND theirs.joined_pos <= l.asked)
AND l.user_nid IN `

// FreshLists finds, among users of other servers, those whose list of devices was asked for while they and viewer were in
// one room, where both have been ever since. It rides the primary keys.
func (tx *Tx) FreshLists(viewer ident.UserNID, users []ident.UserNID) ([]ident.UserNID, error) {
	var out []ident.UserNID
	for part := range slices.Chunk(users, maxIn) {
		list, args := In(2, part)
		found, err := collect(tx, scanNumber[ident.UserNID], freshListsQuery+list, append([]any{int64(viewer)}, args...)...)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// DeviceListPosition is when a user's devices last changed, as far as this server was told; 0: never.
func (tx *Tx) DeviceListPosition(user ident.UserNID) (Pos, error) {
	p, _, err := one(tx, scanNumber[int64], `SELECT position FROM device_list_changes WHERE user_nid = $1`, int64(user))
	return Pos(p), err
}

const claimMessageQuery = `INSERT INTO received_messages (id_hash, received_ts) VALUES ($1, $2) ON CONFLICT DO NOTHING`

// ClaimMessage records a message of another server; false where it was received before.
func (tx *Tx) ClaimMessage(origin, messageID string) (bool, error) {
	n, err := tx.exec(claimMessageQuery, tx.IDHash(origin+"\x00"+messageID), tx.now.UnixMilli())
	return n == 1, err
}

const pruneMessagesQuery = `DELETE FROM received_messages WHERE id_hash IN (SELECT id_hash FROM received_messages WHERE received_ts < $1 ORDER BY received_ts LIMIT $2)`

// PruneMessages forgets the messages from before a time (ms), at most limit of them; it returns how many there were.
func (tx *Tx) PruneMessages(before int64, limit int) (int64, error) {
	return tx.exec(pruneMessagesQuery, before, limit)
}
