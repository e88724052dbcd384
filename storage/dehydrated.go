package storage

// Dehydrated is the device of a user that receives while no device is signed in.
type Dehydrated struct {
	Device   int64 // short name
	DeviceID string
	Data     string // JSON, encrypted by the client
}

const dehydratedQuery = `SELECT device_nid, device_id, device_data FROM dehydrated_devices WHERE user_nid = $1`

// Dehydrated reads a user's dehydrated device. It rides the primary key.
func (tx *Tx) Dehydrated(user int64) (Dehydrated, bool, error) {
	return one(tx, func(r Row) (d Dehydrated, err error) {
		err = r.Scan(&d.Device, &d.DeviceID, &d.Data)
		return d, err
	}, dehydratedQuery, user)
}

const addDehydratedQuery = `INSERT INTO dehydrated_devices (user_nid, device_nid, device_id, device_data) VALUES ($1, $2, $3, $4)`

// AddDehydrated notes that a device is the user's dehydrated one; the user has no other.
func (tx *Tx) AddDehydrated(user int64, d Dehydrated) error {
	_, err := tx.exec(addDehydratedQuery, user, d.Device, d.DeviceID, d.Data)
	return err
}

// ForgetDehydrated notes that a device is no dehydrated one; the device itself stays.
func (tx *Tx) ForgetDehydrated(user, device int64) error {
	_, err := tx.exec(`DELETE FROM dehydrated_devices WHERE user_nid = $1 AND device_nid = $2`, user, device)
	return err
}

// SignedIn says whether a device has an access token.
func (tx *Tx) SignedIn(device int64) (bool, error) {
	_, found, err := one(tx, scanNumber[int64], `SELECT nid FROM access_tokens WHERE device_nid = $1 LIMIT 1`, device)
	return found, err
}
