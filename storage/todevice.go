package storage

import (
	"slices"

	"ebb/ident"
)

// ToDevice is a to-device message that waits for a device.
type ToDevice struct {
	Position Pos
	JSON     string // {"content":…,"sender":…,"type":…}
}

// ToDeviceFrom identifies the sender of a to-device message for the bounds of a device's queue.
type ToDeviceFrom struct {
	Origin   int64 // IDHash of the sender's server or, of a local sender, of the user ID or of the application service
	Sender   int64 // IDHash of the sender's user ID
	Stranger bool  // whether the sender shares no room with the receiver
}

const addToDeviceQuery = `INSERT INTO to_device (position, device_nid, json, origin, sender, stranger, size) VALUES ($1, $2, $3, $4, $5, $6, $7)`

// AddToDevice queues a to-device message for a device.
func (tx *Tx) AddToDevice(device ident.DeviceNID, json string, from ToDeviceFrom) (Pos, error) {
	pos := tx.NextPos()
	_, err := tx.exec(addToDeviceQuery, int64(pos), int64(device), json, from.Origin, from.Sender, from.Stranger, len(json))
	return pos, err
}

const toDeviceQuery = `SELECT position, json FROM to_device WHERE device_nid = $1 AND position > $2 AND position <= $3 ORDER BY position LIMIT $4`

// ToDevice lists at most limit messages in (since, upTo], oldest first. It uses the index to_device_by_device.
func (tx *Tx) ToDevice(device ident.DeviceNID, since, upTo Pos, limit int) ([]ToDevice, error) {
	return collect(tx, func(r Row) (m ToDevice, err error) { err = r.Scan(&m.Position, &m.JSON); return m, err }, toDeviceQuery, int64(device), int64(since), int64(upTo), limit)
}

// DeleteToDevice deletes the messages up to the position upTo, which a device has acknowledged.
func (tx *Tx) DeleteToDevice(device ident.DeviceNID, upTo Pos) error {
	_, err := tx.exec(`DELETE FROM to_device WHERE device_nid = $1 AND position <= $2`, int64(device), int64(upTo))
	return err
}

// BacklogRow is a to-device message that waits for a device, without its JSON.
type BacklogRow struct {
	Position Pos
	ToDeviceFrom
	Size int64 // bytes of JSON
}

func scanBacklogRow(r Row) (b BacklogRow, err error) {
	var stranger int64
	err = r.Scan(&b.Position, &b.Origin, &b.Sender, &stranger, &b.Size)
	b.Stranger = stranger != 0
	return b, err
}

// ToDeviceBacklog lists the messages that wait for a device, oldest first. It uses the index to_device_by_device.
func (tx *Tx) ToDeviceBacklog(device ident.DeviceNID) ([]BacklogRow, error) {
	return collect(tx, scanBacklogRow, `SELECT position, origin, sender, stranger, size FROM to_device WHERE device_nid = $1 ORDER BY position`, int64(device))
}

// DropToDevice deletes messages, whether or not their device has received them.
func (tx *Tx) DropToDevice(positions []Pos) error {
	for part := range slices.Chunk(positions, maxIn) {
		list, args := In(1, part)
		if _, err := tx.exec(`DELETE FROM to_device WHERE position IN `+list, args...); err != nil {
			return err
		}
	}
	return nil
}

// ToDeviceSum is what one sender has in the queue of one device.
type ToDeviceSum struct {
	Sender   int64 // IDHash of the sender's user ID
	Device   ident.DeviceNID
	Messages int64
	Size     int64 // bytes of JSON
}

const toDeviceSumsQuery = `SELECT sender, device_nid, count(*), CAST(sum(size) AS BIGINT) FROM to_device
WHERE origin = $1 AND stranger = $2 GROUP BY sender, device_nid`

// ToDeviceSums returns what the senders of an origin have in the queues of all devices, either as strangers or not. It
// reads only the index to_device_by_sender.
func (tx *Tx) ToDeviceSums(origin int64, stranger bool) ([]ToDeviceSum, error) {
	return collect(tx, func(r Row) (s ToDeviceSum, err error) {
		err = r.Scan(&s.Sender, &s.Device, &s.Messages, &s.Size)
		return s, err
	}, toDeviceSumsQuery, origin, stranger)
}

const oldestToDeviceQuery = `SELECT position, origin, sender, stranger, size FROM to_device
WHERE origin = $1 AND stranger = $2 AND sender = $3 AND device_nid = $4 ORDER BY position LIMIT $5`

// OldestToDevice lists at most limit messages of one sender in the queue of a device, oldest first. It reads only the
// index to_device_by_sender.
func (tx *Tx) OldestToDevice(from ToDeviceFrom, device ident.DeviceNID, limit int) ([]BacklogRow, error) {
	return collect(tx, scanBacklogRow, oldestToDeviceQuery, from.Origin, from.Stranger, from.Sender, int64(device), limit)
}

const deviceListChangedQuery = `INSERT INTO device_list_changes (user_nid, position) VALUES ($1, $2)
ON CONFLICT (user_nid) DO UPDATE SET position = excluded.position`

// DeviceListChanged records a change of a user's devices or identity keys.
func (tx *Tx) DeviceListChanged(user ident.UserNID) (Pos, error) {
	pos := tx.NextPos()
	_, err := tx.exec(deviceListChangedQuery, int64(user), int64(pos))
	return pos, err
}

const repeatDeviceChangesQuery = `UPDATE device_list_changes SET position = $4 WHERE position > $3
AND user_nid IN (SELECT m.user_nid FROM memberships m WHERE m.room_nid = $1 AND m.changed = $2)`

// RepeatDeviceChanges gives all device changes after the position since a new position, so that clients get them again.
// It does so for the users whose current membership of the room dates from the position known.
func (tx *Tx) RepeatDeviceChanges(room ident.RoomNID, known, since Pos) error {
	_, err := tx.exec(repeatDeviceChangesQuery, int64(room), int64(known), int64(since), int64(tx.NextPos()))
	return err
}

const signatureChangedQuery = `INSERT INTO key_signature_changes (signer_nid, target_nid, position) VALUES ($1, $2, $3)
ON CONFLICT (signer_nid, target_nid) DO UPDATE SET position = excluded.position`

// KeySignatureChanged records that signer has signed a key of target.
func (tx *Tx) KeySignatureChanged(signer, target ident.UserNID) error {
	_, err := tx.exec(signatureChangedQuery, int64(signer), int64(target), int64(tx.NextPos()))
	return err
}

const deviceListChangesQuery = `SELECT c.user_nid FROM device_list_changes c
WHERE c.position > $2 AND c.position <= $3 AND (c.user_nid = $1 OR EXISTS (
    SELECT 1 FROM memberships mine JOIN memberships theirs ON theirs.room_nid = mine.room_nid
    WHERE mine.user_nid = $1 AND mine.membership = 'join' AND theirs.user_nid = c.user_nid AND theirs.membership = 'join'))
UNION SELECT target_nid FROM key_signature_changes WHERE signer_nid = $1 AND position > $2 AND position <= $3`

// DeviceListChanges lists the users whose devices changed in (since, upTo] and who share a room with the user,
// including the user, and the users whose keys the user signed. It uses the index device_list_changes_by_position.
func (tx *Tx) DeviceListChanges(user ident.UserNID, since, upTo Pos) ([]ident.UserNID, error) {
	return collect(tx, scanNumber[ident.UserNID], deviceListChangesQuery, int64(user), int64(since), int64(upTo))
}

const sharesRoomQuery = `SELECT 1 FROM memberships mine JOIN memberships theirs ON theirs.room_nid = mine.room_nid
WHERE mine.user_nid = $1 AND mine.membership = 'join' AND theirs.user_nid = $2 AND theirs.membership = 'join' LIMIT 1`

// SharesRoom reports whether two users are joined to the same room.
func (tx *Tx) SharesRoom(a, b ident.UserNID) (bool, error) {
	_, found, err := one(tx, scanNumber[int64], sharesRoomQuery, int64(a), int64(b))
	return found, err
}

const claimTxnQuery = `INSERT INTO client_txns (device_nid, path_hash, created_ts, answer) VALUES ($1, $2, $3, '') ON CONFLICT DO NOTHING`

// ClaimTxn records a transaction whose response is {}. It returns false if the device has sent the transaction before.
func (tx *Tx) ClaimTxn(device ident.DeviceNID, pathHash, nowMillis int64) (bool, error) {
	n, err := tx.exec(claimTxnQuery, int64(device), pathHash, nowMillis)
	return n == 1, err
}

const deviceNIDsQuery = `SELECT nid, device_id FROM devices WHERE user_nid = $1 ORDER BY nid`

// DeviceRef is the number and the ID of a device.
type DeviceRef struct {
	NID ident.DeviceNID
	ID  string
}

// DeviceRefs lists the devices of a user.
func (tx *Tx) DeviceRefs(user ident.UserNID) ([]DeviceRef, error) {
	return collect(tx, func(r Row) (d DeviceRef, err error) { err = r.Scan(&d.NID, &d.ID); return d, err }, deviceNIDsQuery, int64(user))
}

const lookupDeviceQuery = `SELECT u.nid, coalesce(d.nid, 0) FROM users u LEFT JOIN devices d ON d.user_nid = u.nid AND d.device_id = $2
WHERE u.user_id = $1`

// LookupDevice returns the numbers of a user and of one of the user's devices, 0 if there is no such device. It returns
// false if the user has no number. It uses the index devices_by_id.
func (tx *Tx) LookupDevice(userID, deviceID string) (user ident.UserNID, device ident.DeviceNID, found bool, err error) {
	_, found, err = one(tx, func(r Row) (struct{}, error) { return struct{}{}, r.Scan(&user, &device) }, lookupDeviceQuery, userID, deviceID)
	return user, device, found, err
}
