package storage

import "ebb/ident"

// Dehydrated is a user's dehydrated device, which receives messages while no other device is signed in.
type Dehydrated struct {
	Device   ident.DeviceNID // its number
	DeviceID string
	Data     string // JSON, encrypted by the client
}

const dehydratedQuery = `SELECT device_nid, device_id, device_data FROM dehydrated_devices WHERE user_nid = $1`

// Dehydrated returns a user's dehydrated device. It uses the primary key.
func (tx *Tx) Dehydrated(user ident.UserNID) (Dehydrated, bool, error) {
	return one(tx, func(r Row) (d Dehydrated, err error) { err = r.Scan(&d.Device, &d.DeviceID, &d.Data); return d, err }, dehydratedQuery, int64(user))
}

const addDehydratedQuery = `INSERT INTO dehydrated_devices (user_nid, device_nid, device_id, device_data) VALUES ($1, $2, $3, $4)`

// AddDehydrated makes a device the user's dehydrated device. The user must have no other.
func (tx *Tx) AddDehydrated(user ident.UserNID, d Dehydrated) error {
	_, err := tx.exec(addDehydratedQuery, int64(user), int64(d.Device), d.DeviceID, d.Data)
	return err
}

// ForgetDehydrated records that a device is no longer the dehydrated one. The device itself stays.
func (tx *Tx) ForgetDehydrated(user ident.UserNID, device ident.DeviceNID) error {
	_, err := tx.exec(`DELETE FROM dehydrated_devices WHERE user_nid = $1 AND device_nid = $2`, int64(user), int64(device))
	return err
}

// SignedIn reports whether a device has an access token.
func (tx *Tx) SignedIn(device ident.DeviceNID) (bool, error) {
	_, found, err := one(tx, scanNumber[int64], `SELECT nid FROM access_tokens WHERE device_nid = $1 LIMIT 1`, int64(device))
	return found, err
}
