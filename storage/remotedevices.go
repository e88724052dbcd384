package storage

import (
	"slices"

	"ebb/ident"
)

// Device lists that are exchanged with other servers.

// DeviceListUpdate is a change of a local user's devices that is to be sent to other servers.
type DeviceListUpdate struct {
	StreamID Pos
	User     ident.UserNID
	DeviceID string // "" for the cross-signing keys
	PrevID   Pos    // the user's previous update; 0 if this is the first
}

const (
	deviceStreamQuery    = `SELECT stream_id FROM device_list_changes WHERE user_nid = $1`
	setDeviceStreamQuery = `UPDATE device_list_changes SET stream_id = $2 WHERE user_nid = $1`
	addListUpdateQuery   = `INSERT INTO device_list_outbox (stream_id, user_nid, device_id, prev_id) VALUES ($1, $2, $3, $4)`
)

// DeviceStream returns the stream ID of a local user's newest update, 0 if there is none.
func (tx *Tx) DeviceStream(user ident.UserNID) (Pos, error) {
	p, _, err := one(tx, scanNumber[int64], deviceStreamQuery, int64(user))
	return Pos(p), err
}

// AddDeviceListUpdate records that other servers must be sent a change of a local user's keys: of the given device, or
// of the cross-signing keys if deviceID is "". The update of a device refers to the previous one. DeviceListChanged
// must have been called for the user before.
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

// DeviceListUpdates lists the oldest updates that have not been moved to the outbox yet.
func (tx *Tx) DeviceListUpdates(limit int) ([]DeviceListUpdate, error) {
	return collect(tx, func(r Row) (u DeviceListUpdate, err error) {
		err = r.Scan(&u.StreamID, &u.User, &u.DeviceID, &u.PrevID)
		return u, err
	}, listUpdatesQuery, limit)
}

// DeleteDeviceListUpdate deletes an update that was moved to the outbox. It returns false if it was deleted already.
func (tx *Tx) DeleteDeviceListUpdate(streamID Pos) (bool, error) {
	n, err := tx.exec(`DELETE FROM device_list_outbox WHERE stream_id = $1`, int64(streamID))
	return n == 1, err
}

// DeviceAnnouncement records that the devices of a local user who joined a room must still be sent to the other servers
// in the room.
type DeviceAnnouncement struct {
	User    ident.UserNID
	Room    ident.RoomNID
	Partial bool // whether the list of servers in the room may be incomplete
}

const addDeviceTellingQuery = `INSERT INTO device_tellings (user_nid, room_nid, partial) VALUES ($1, $2, $3)
ON CONFLICT (user_nid, room_nid) DO UPDATE SET partial = excluded.partial`

// AddDeviceAnnouncement stores an announcement to be made.
func (tx *Tx) AddDeviceAnnouncement(t DeviceAnnouncement) error {
	_, err := tx.exec(addDeviceTellingQuery, int64(t.User), int64(t.Room), t.Partial)
	return err
}

// DeviceAnnouncements lists at most limit announcements that have not been made yet.
func (tx *Tx) DeviceAnnouncements(limit int) ([]DeviceAnnouncement, error) {
	return collect(tx, func(r Row) (t DeviceAnnouncement, err error) {
		var partial int64
		err = r.Scan(&t.User, &t.Room, &partial)
		t.Partial = partial != 0
		return t, err
	}, `SELECT user_nid, room_nid, partial FROM device_tellings ORDER BY user_nid, room_nid LIMIT $1`, limit)
}

// DeleteDeviceAnnouncement deletes an announcement that was made. It returns false if it was deleted already.
func (tx *Tx) DeleteDeviceAnnouncement(t DeviceAnnouncement) (bool, error) {
	n, err := tx.exec(`DELETE FROM device_tellings WHERE user_nid = $1 AND room_nid = $2`, int64(t.User), int64(t.Room))
	return n == 1, err
}

// RemoteList is the state of the cached device list of a remote user.
type RemoteList struct {
	User     ident.UserNID
	StreamID int64 // of the newest update in the cache; -1 if unknown
	Asked    Pos   // the stream position when the list was requested; 0 if it must be requested again
	RetryTS  int64 // ms
	Failures int64
}

const remoteListColumns = `SELECT user_nid, stream_id, asked, retry_ts, failures FROM remote_device_lists `

func scanRemoteList(r Row) (l RemoteList, err error) {
	err = r.Scan(&l.User, &l.StreamID, &l.Asked, &l.RetryTS, &l.Failures)
	return l, err
}

// RemoteList returns the state of a cached device list.
func (tx *Tx) RemoteList(user ident.UserNID) (RemoteList, bool, error) {
	return one(tx, scanRemoteList, remoteListColumns+`WHERE user_nid = $1`, int64(user))
}

// RemoteListsToAsk lists the outdated lists that are due to be requested again, longest overdue first. It uses the
// index remote_device_lists_to_ask.
func (tx *Tx) RemoteListsToAsk(nowMillis int64, limit int) ([]RemoteList, error) {
	return collect(tx, scanRemoteList, remoteListColumns+`WHERE asked = 0 AND retry_ts <= $1 ORDER BY retry_ts LIMIT $2`, nowMillis, limit)
}

// RemoteLists lists the cached lists by user, starting after the given user.
func (tx *Tx) RemoteLists(after ident.UserNID, limit int) ([]RemoteList, error) {
	return collect(tx, scanRemoteList, remoteListColumns+`WHERE user_nid > $1 ORDER BY user_nid LIMIT $2`, int64(after), limit)
}

const setRemoteListQuery = `INSERT INTO remote_device_lists (user_nid, stream_id, asked, retry_ts, failures) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (user_nid) DO UPDATE SET stream_id = excluded.stream_id, asked = excluded.asked, retry_ts = excluded.retry_ts, failures = excluded.failures`

// SetRemoteList stores the state of a cached device list.
func (tx *Tx) SetRemoteList(l RemoteList) error {
	_, err := tx.exec(setRemoteListQuery, int64(l.User), l.StreamID, int64(l.Asked), l.RetryTS, l.Failures)
	return err
}

// DropRemoteList deletes the cached devices and cross-signing keys of a remote user.
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

// RemoteDevices lists the cached devices of remote users by user, ordered by device ID. It uses the primary key.
func (tx *Tx) RemoteDevices(users []ident.UserNID) (map[ident.UserNID][]UserDeviceKeys, error) {
	return tx.deviceKeys(users, `SELECT user_nid, device_id, display_name, json FROM remote_devices WHERE user_nid IN `, ` ORDER BY device_id`)
}

// CountRemoteDevices returns the number of cached devices of a remote user.
func (tx *Tx) CountRemoteDevices(user ident.UserNID) (n int64, err error) {
	n, _, err = one(tx, scanNumber[int64], `SELECT count(*) FROM remote_devices WHERE user_nid = $1`, int64(user))
	return n, err
}

const setRemoteDeviceQuery = `INSERT INTO remote_devices (user_nid, device_id, display_name, json) VALUES ($1, $2, $3, $4)
ON CONFLICT (user_nid, device_id) DO UPDATE SET display_name = excluded.display_name, json = excluded.json`

// SetRemoteDevice stores a device of a remote user.
func (tx *Tx) SetRemoteDevice(user ident.UserNID, k UserDeviceKeys) error {
	_, err := tx.exec(setRemoteDeviceQuery, int64(user), k.DeviceID, k.DisplayName, k.JSON)
	return err
}

// DeleteRemoteDevice deletes a device of a remote user.
func (tx *Tx) DeleteRemoteDevice(user ident.UserNID, deviceID string) error {
	_, err := tx.exec(`DELETE FROM remote_devices WHERE user_nid = $1 AND device_id = $2`, int64(user), deviceID)
	return err
}

// DeleteCrossSigningKey deletes one of a user's three cross-signing keys.
func (tx *Tx) DeleteCrossSigningKey(user ident.UserNID, usage string) error {
	_, err := tx.exec(`DELETE FROM cross_signing_keys WHERE user_nid = $1 AND usage = $2`, int64(user), usage)
	return err
}

const freshListsQuery = `SELECT l.user_nid FROM remote_device_lists l
WHERE l.asked > 0 AND EXISTS (SELECT 1 FROM memberships mine JOIN memberships theirs ON theirs.room_nid = mine.room_nid
 WHERE mine.user_nid = $1 AND mine.membership = 'join' AND mine.joined_pos <= l.asked
 AND theirs.user_nid = l.user_nid AND theirs.membership = 'join' AND theirs.joined_pos <= l.asked)
AND l.user_nid IN `

// FreshLists returns the remote users whose cached device lists are up to date for viewer: the list was requested
// while the user and viewer shared a room, and both have been in that room ever since. It uses the primary keys.
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

// DeviceListPosition returns the position of the last known change of a user's devices, 0 if there is none.
func (tx *Tx) DeviceListPosition(user ident.UserNID) (Pos, error) {
	p, _, err := one(tx, scanNumber[int64], `SELECT position FROM device_list_changes WHERE user_nid = $1`, int64(user))
	return Pos(p), err
}

const claimMessageQuery = `INSERT INTO received_messages (id_hash, received_ts) VALUES ($1, $2) ON CONFLICT DO NOTHING`

// ClaimMessage records the ID of a message from another server. It returns false if the message was received before.
func (tx *Tx) ClaimMessage(origin, messageID string) (bool, error) {
	n, err := tx.exec(claimMessageQuery, tx.IDHash(origin+"\x00"+messageID), tx.now.UnixMilli())
	return n == 1, err
}

const pruneMessagesQuery = `DELETE FROM received_messages WHERE id_hash IN (SELECT id_hash FROM received_messages WHERE received_ts < $1 ORDER BY received_ts LIMIT $2)`

// PruneMessages deletes at most limit records of messages from before a time (ms) and returns their number.
func (tx *Tx) PruneMessages(before int64, limit int) (int64, error) {
	return tx.exec(pruneMessagesQuery, before, limit)
}
