package storage

import "ebb/ident"

// DeviceRow is a device of a local user.
type DeviceRow struct {
	NID         ident.DeviceNID
	DeviceID    string
	DisplayName *string
	SeenTS      int64 // ms
	SeenAddr    string
	UserAgent   string // of the request that was seen
}

const deviceColumns = `nid, device_id, display_name, seen_ts, seen_addr, user_agent`

func scanDevice(r Row) (d DeviceRow, err error) {
	err = r.Scan(&d.NID, &d.DeviceID, &d.DisplayName, &d.SeenTS, &d.SeenAddr, &d.UserAgent)
	return d, err
}

// Devices lists a user's devices, ordered by device ID. It uses the index devices_by_id.
func (tx *Tx) Devices(user ident.UserNID) ([]DeviceRow, error) {
	return collect(tx, scanDevice, `SELECT `+deviceColumns+` FROM devices WHERE user_nid = $1 ORDER BY device_id`, int64(user))
}

// Device finds one device. It uses the index devices_by_id.
func (tx *Tx) Device(user ident.UserNID, deviceID string) (DeviceRow, bool, error) {
	return one(tx, scanDevice, `SELECT `+deviceColumns+` FROM devices WHERE user_nid = $1 AND device_id = $2`, int64(user), deviceID)
}

const addDeviceQuery = `INSERT INTO devices (nid, user_nid, device_id, display_name, created_ts, seen_ts) VALUES ($1, $2, $3, $4, $5, $5)`

// AddDevice stores a new device and returns its number.
func (tx *Tx) AddDevice(user ident.UserNID, deviceID string, displayName *string) (ident.DeviceNID, error) {
	nid := ident.DeviceNID(tx.NextPos())
	_, err := tx.exec(addDeviceQuery, int64(nid), int64(user), deviceID, displayName, tx.now.UnixMilli())
	return nid, err
}

const idleDevicesQuery = `SELECT ` + deviceColumns + ` FROM devices WHERE user_nid = $1 ORDER BY seen_ts DESC, nid DESC LIMIT 1000 OFFSET $2`

// IdleDevices lists a user's devices except for the keep devices that were seen most recently.
func (tx *Tx) IdleDevices(user ident.UserNID, keep int) ([]DeviceRow, error) {
	return collect(tx, scanDevice, idleDevicesQuery, int64(user), keep)
}

// RenameDevice sets a device's display name.
func (tx *Tx) RenameDevice(device ident.DeviceNID, displayName string) error {
	_, err := tx.exec(`UPDATE devices SET display_name = $2 WHERE nid = $1`, int64(device), displayName)
	return err
}

const deviceSeenQuery = `UPDATE devices SET seen_ts = greatest(seen_ts, $2), seen_addr = $3, user_agent = $4 WHERE nid = $1`

// DeviceSeen records when a device was last seen, from which address and with which user agent.
func (tx *Tx) DeviceSeen(device ident.DeviceNID, ts int64, addr, userAgent string) error {
	_, err := tx.exec(deviceSeenQuery, int64(device), ts, addr, userAgent)
	return err
}

const forgetClientsQuery = `UPDATE devices SET seen_addr = '', user_agent = '' WHERE nid IN
(SELECT nid FROM devices WHERE (seen_addr <> '' OR user_agent <> '') AND seen_ts < $1 ORDER BY seen_ts LIMIT $2)`

// ForgetClients removes the addresses and user agents of at most limit devices that were last seen before a time (ms),
// and returns their number. It uses the index devices_by_client.
func (tx *Tx) ForgetClients(beforeTS int64, limit int) (int64, error) {
	return tx.exec(forgetClientsQuery, beforeTS, limit)
}

// DeleteDevice deletes a device with its tokens, pushers, and the requests that wait for approval. DeleteLeftovers
// deletes what there can be much of: its messages, keys and connections of sliding sync. Its transaction IDs, of which
// a program can have millions, are deleted when they are old.
func (tx *Tx) DeleteDevice(device ident.DeviceNID) error {
	for _, q := range []string{
		`INSERT INTO deleted_devices (device_nid, user_nid) SELECT nid, user_nid FROM devices WHERE nid = $1`,
		`DELETE FROM access_tokens WHERE device_nid = $1`,
		`DELETE FROM refresh_tokens WHERE device_nid = $1`,
		`DELETE FROM oauth_sessions WHERE device_nid = $1`,
		`DELETE FROM approvals WHERE device_nid = $1`,
		`DELETE FROM pushers WHERE device_nid = $1`,
		`DELETE FROM devices WHERE nid = $1`,
	} {
		if _, err := tx.exec(q, int64(device)); err != nil {
			return err
		}
	}
	return tx.Note(LedgerDevice, int64(device), 0, "")
}

// leftovers lists the statements that delete at most $2 rows of what a deleted device, $1, has left.
var leftovers = []string{
	`DELETE FROM to_device WHERE position IN (SELECT position FROM to_device WHERE device_nid = $1 ORDER BY position LIMIT $2)`,
	`DELETE FROM one_time_keys WHERE nid IN (SELECT nid FROM one_time_keys WHERE device_nid = $1 LIMIT $2)`,
	`DELETE FROM fallback_keys WHERE device_nid = $1 AND algorithm IN (SELECT algorithm FROM fallback_keys WHERE device_nid = $1 LIMIT $2)`,
	`DELETE FROM sliding_states WHERE (connection, serial) IN (SELECT s.connection, s.serial FROM deleted_devices d
JOIN sliding_connections c ON c.user_nid = d.user_nid AND c.device_nid = d.device_nid
JOIN sliding_states s ON s.connection = c.nid WHERE d.device_nid = $1 LIMIT $2)`,
	`DELETE FROM sliding_connections WHERE nid IN (SELECT c.nid FROM deleted_devices d
JOIN sliding_connections c ON c.user_nid = d.user_nid AND c.device_nid = d.device_nid WHERE d.device_nid = $1 LIMIT $2)`,
	`DELETE FROM deleted_devices WHERE device_nid = $1 AND $2 > 0`,
}

// DeleteLeftovers deletes at most limit rows of what deleted devices have left, and returns their number.
func (tx *Tx) DeleteLeftovers(limit int) (n int, err error) {
	for n < limit {
		device, found, err := one(tx, scanNumber[int64], `SELECT device_nid FROM deleted_devices ORDER BY device_nid LIMIT 1`)
		if err != nil || !found {
			return n, err
		}
		for _, q := range leftovers {
			gone, err := tx.exec(q, device, limit-n)
			if n += int(gone); err != nil || n >= limit {
				return n, err
			}
		}
	}
	return n, nil
}
