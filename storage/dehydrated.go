package storage

import "ebb/ident"

// Dehydrated is the device of a user that receives while no device is signed in.
type Dehydrated struct {
	Device   ident.DeviceNID // short name
	DeviceID string
	Data     string // JSON, encrypted by the client
}

const dehydratedQuery = `SELECT device_nid, device_id, device_data FROM dehydrated_devices WHERE user_nid = $1`

// Dehydrated reads a user's dehydrated device. It rides the primary key.
func (tx *Tx) Dehydrated(user ident.UserNID) (Dehydrated, bool, error) {
	return one(tx, func(r Row) (d Dehydrated, err error) {
		err = r.Scan(&d.Device, &d.DeviceID, &d.Data)
		return d, err
	}, dehydratedQuery, int64(user))
}

const addDehydratedQuery = `INSERT INTO dehydrated_devices (user_nid, device_nid, device_id, device_data) VALUES ($1, $2, $3, $4)`

// AddDehydrated notes that a device is the user's dehydrated one; the user has no other.
func (tx *Tx) AddDehydrated(user ident.UserNID, d Dehydrated) error {
	_, err := tx.exec(addDehydratedQuery, int64(user), int64(d.Device), d.DeviceID, d.Data)
	return err
}

// ForgetDehydrated notes that a device is no dehydrated one; the device itself stays.
func (tx *Tx) ForgetDehydrated(user ident.UserNID, device ident.DeviceNID) error {
	_, err := tx.exec(`DELETE FROM dehydrated_devices WHERE user_nid = $1 AND device_nid = $2`, int64(user), int64(device))
	return err
}

// SignedIn says whether a device has an access token.
func (tx *Tx) SignedIn(device ident.DeviceNID) (bool, error) {
	_, found, err := one(tx, scanNumber[int64], `SELECT nid FROM access_tokens WHERE device_nid = $1 LIMIT 1`, int64(device))
	return found, err
}
